"""Batches of a part of a data set: read in an order that is drawn, augmented, and scaled on its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from convexnet.lab.data.augment import Augmentation
from convexnet.lab.data.data_set import Part, Split

MOST = 2**62
"""Below the greatest seed of a generator, with room for a number for each batch."""


def batches(
    part: Part,
    size: int,
    *,
    generator: torch.Generator | None = None,
    augment: Sequence[Augmentation] = (),
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    transform: Callable[[Tensor], Tensor] | None = None,
    drop_last: bool = False,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over a part in batches of inputs (size, ...) in `dtype` and labels (size,).

    Bytes are augmented as bytes and then scaled to [0, 1]. The generator decides everything: it gives the order and one
    number, from which each batch draws its augmentation. So an epoch that begins from the same generator state is the
    same, from its first batch or from the middle (`start`), on any device. The generator is advanced at once, by as
    much whatever is taken.

    Args:
        part: what to give out; moved to `device` first, if it is not there. Move it once before many epochs.
        size: rows in a batch; the last one may be smaller.
        generator: on the CPU. None: rows in their own order, nothing random; for evaluation.
        augment: random changes, in this order; see `augmentation`. Needs images (N, C, H, W) and a generator.
        device: where the batches are; the part's own by default.
        dtype: of the inputs.
        transform: applied to the inputs last, such as `lab.whiten`'s modules.
        drop_last: leave out a last batch that is smaller than the others.
        start: begin with the batch of this number.
        share: (k, n) for the k-th of n processes: of every batch only the rows k, k + n, k + 2n, ...

    Raises:
        ValueError: wrong arguments.

    Example:
        >>> data = Split(torch.arange(6, dtype=torch.uint8)[:, None], torch.arange(6))
        >>> seen = [labels for _, labels in batches(data, 4, generator=torch.Generator().manual_seed(0))]
        >>> [len(labels) for labels in seen], sorted(torch.cat(seen).tolist())
        ([4, 2], [0, 1, 2, 3, 4, 5])
    """
    if size < 1:
        raise ValueError(f"a batch needs at least one row, not {size}")
    if start < 0:
        raise ValueError(f"the first batch is number 0, so start cannot be {start}")
    if augment and generator is None:
        raise ValueError("augmentation draws at random: give a generator")
    if augment and len(part.shape) != 3:
        raise ValueError(f"augmentation needs images (N, C, H, W), not (N, {', '.join(map(str, part.shape))})")
    here = part if device is None else part.to(device)
    count = len(here)
    order, number = None, 0
    if generator is not None:
        order = torch.randperm(count, generator=generator).to(here.labels.device)
        number = int(torch.randint(MOST, (), generator=generator))
    begins = range(start * size, count - count % size if drop_last else count, size)
    places = [slice(first, first + size) if order is None else order[first : first + size] for first in begins]
    seeds = None if generator is None else range(number + start, number + start + len(places))

    def produced() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in here.read(places, augment, seeds, share):
            inputs = scaled(images, dtype)
            yield (inputs if transform is None else transform(inputs)), labels

    return produced()


@torch.no_grad()
def prepared(
    split: Split, transform: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32, size: int = 2048
) -> Split:
    """The split with its images scaled and transformed once and for all, instead of in every epoch.

    Worth it without augmentation where the transform is expensive, as whitening is; it takes four times the memory of
    bytes. Labels are kept.

    Example:
        >>> data = Split(torch.tensor([[0], [255]], dtype=torch.uint8), torch.tensor([0, 1]))
        >>> prepared(data, lambda inputs: inputs - 0.5).images
        tensor([[-0.5000],
                [ 0.5000]])
    """
    parts = [transform(scaled(split.images[place : place + size], dtype)) for place in range(0, len(split), size)]
    return Split(torch.cat(parts) if parts else scaled(split.images, dtype), split.labels, split.clean)


def scaled(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes as numbers in [0, 1]; numbers as they are.

    Example:
        >>> scaled(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    if images.is_floating_point():
        return images.to(dtype)
    return images.to(dtype).div_(255)
