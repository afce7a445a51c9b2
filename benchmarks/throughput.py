"""What it costs to feed a network: our batches, a DataLoader with torchvision's transforms, and tensors in memory.

Run: python benchmarks/throughput.py [--only mlp allconv] [--rounds 15] [--threads 1] [--clock wall]
     python benchmarks/throughput.py --device cuda

Every row trains its own copy of one network on the same images: random bytes 3 x 32 x 32, shaped like CIFAR-10, for
only their number matters here. A round is one pass of every row, in an order that rotates; a ratio is that of two rows
in the same round, and medians and quartiles are over rounds. All rows take the same steps of the same optimiser, Adam
with its fused kernel, which is the faster one; "as usually written" is the DataLoader's loop with Adam's default.

- bare loop: images that are numbers and normalised already, picked by a random permutation. Nothing is augmented. It is
  run twice; what its second copy is off 1 is noise.
- ours: `convexnet.lab.data.batches` from bytes and `convexnet.lab.training.epoch.steps`, which also keeps the running
  loss and accuracy and stops where the loss is no number.
- loader: a `Dataset` that returns PIL images, as torchvision's do, `transforms` one by one, and a `DataLoader` without
  workers: one thread for all, as in the other rows.

The clock on one thread is the processor time of this process, which leaves out the turns of other processes; with
several threads it is the wall's. On an accelerator: images a second of All-CNN-C in bfloat16 with `torch.compile`, and
the share of the device's own rate of matrix products, measured in the same run, that its convolutions reach.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from convexnet.lab.data import Split, augmentation, batches, scaled
from convexnet.lab.models.first_step import Standardise, normaliser
from convexnet.lab.runs.tasks import classification
from convexnet.lab.training.epoch import Batch, Seen, steps
from convexnet.zoo import MLP, AllConv

FASTER, NEAR = 1.3, 1.1
"""The goals: how many times as fast as the loader with the same augmentation, and how close to the bare loop."""

SETS = ("none", "crop-flip", "paper-code")

Feed = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass
class Row:
    """One way to train: what feeds the network, and what takes the steps."""

    name: str
    epoch: Callable[[], None]
    seconds: list[float] = field(default_factory=list[float])


# --- what feeds a network --------------------------------------------------------------------------------------------


def bare(split: Split, step: Standardise, size: int) -> Feed:
    ready = step(scaled(split.images))

    def feed() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(split)).split(size):
            yield ready[rows], split.labels[rows]

    return feed


def ours(split: Split, step: Standardise, size: int, augment: str) -> Feed:
    generator = torch.Generator().manual_seed(0)
    return lambda: batches(split, size, generator=generator, augment=augmentation(augment), transform=step)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Bytes in memory given out as torchvision's CIFAR10 does: as a PIL image, through a transform."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.data = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def loader(split: Split, step: Standardise, size: int, augment: str) -> DataLoader[tuple[Tensor, int]]:
    flat = [transforms.ToTensor(), transforms.Normalize(step.mean.flatten(), step.scale.flatten().reciprocal())]
    crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    bilinear = transforms.InterpolationMode.BILINEAR
    turn = [transforms.RandomAffine(10, shear=10, interpolation=bilinear)]
    chosen = {"none": [], "crop-flip": crop, "paper-code": crop + turn}[augment]
    return DataLoader(Pictures(split, transforms.Compose(chosen + flat)), size, shuffle=True)


# --- what takes the steps --------------------------------------------------------------------------------------------


def adam(model: nn.Module, fused: bool = True) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-4, fused=fused)


def plain(model: nn.Module, feed: Feed, fused: bool = True) -> Callable[[], None]:
    """The loop that everybody writes."""
    optimizer = adam(model, fused)

    def epoch() -> None:
        for images, labels in feed():
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return epoch


def one_epoch(model: Any, optimizer: torch.optim.Optimizer, given: Iterable[Batch]) -> None:
    """A pass of the laboratory's loop."""
    seen = Seen(1)
    steps(model, optimizer, given, seen, task=classification())
    seen.epoch()


def lab(model: nn.Module, feed: Feed) -> Callable[[], None]:
    """The laboratory's loop."""
    optimizer = adam(model)

    def epoch() -> None:
        given = (Batch(images, labels) for images, labels in feed())
        one_epoch(model, optimizer, given)

    return epoch


def rows_for(model: nn.Module, split: Split, size: int, laid_out: bool) -> list[Row]:
    """Every row; `laid_out` adds one in which colours come last in memory, which suits convolutions."""
    step = normaliser(split, "mean-std")
    assert isinstance(step, Standardise)
    same_inputs(split, step, size)
    own = lambda: copy.deepcopy(model)  # noqa: E731
    rows = [Row(f"bare loop{again}", plain(own(), bare(split, step, size))) for again in ("", ", again")]
    rows += [Row(f"ours, {name}", lab(own(), ours(split, step, size, name))) for name in SETS]
    if laid_out:
        last = own().to(memory_format=torch.channels_last)
        rows.append(Row("ours, crop-flip, channels last", lab(last, ours(split, step, size, "crop-flip"))))
    for name in SETS:
        given = loader(split, step, size, name)
        rows.append(Row(f"loader, {name}", plain(own(), lambda given=given: given)))
    given = loader(split, step, size, "crop-flip")
    rows.append(Row("loader, crop-flip, as usually written", plain(own(), lambda: given, fused=False)))
    return rows


def same_inputs(split: Split, step: Standardise, size: int) -> None:
    """Require that without augmentation all of them give the network the same numbers."""
    images, labels = next(iter(batches(split, size, transform=step)))
    ready = step(scaled(split.images))[:size]
    pictures = Pictures(split, loader(split, step, size, "none").dataset.transform)  # type: ignore[attr-defined]
    loaded = torch.stack([pictures[row][0] for row in range(size)])
    torch.testing.assert_close(images, ready)
    torch.testing.assert_close(images, loaded, atol=1e-5, rtol=1e-5)
    assert torch.equal(labels, split.labels[:size])


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(rows: list[Row], rounds: int, clock: Callable[[], float]) -> None:
    """Every row once in every round, in rotating order."""
    for round_ in range(rounds):
        shift = round_ % len(rows)
        for row in rows[shift:] + rows[:shift]:
            torch.manual_seed(round_)
            start = clock()
            row.epoch()
            row.seconds.append(clock() - start)


def ratios(row: Row, other: Row) -> list[float]:
    """Times of a row over those of another in the same rounds; the first round warms up."""
    return [own / base for own, base in zip(row.seconds[1:], other.seconds[1:], strict=True)]


def print_table(rows: list[Row], images: int) -> None:
    named = {row.name: row for row in rows}
    print("| row | images/s | time / bare loop | quartiles | speed / loader with the same images |")
    print("|---|---|---|---|---|")
    for row in rows:
        low, middle, high = statistics.quantiles(ratios(row, rows[0]), n=4, method="inclusive")
        rate = images / statistics.median(row.seconds[1:])
        cells = [row.name, f"{rate:,.0f}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}", ""]
        if row.name.startswith("ours"):
            other = named[f"loader, {row.name.split(', ')[1]}"]
            cells[-1] = f"{statistics.median(ratios(other, row)):.2f}"
        print("| " + " | ".join(cells) + " |", flush=True)


# --- an accelerator --------------------------------------------------------------------------------------------------


def matmul_rate(device: torch.device, side: int, repeats: int = 20) -> float:
    """Operations a second of a bfloat16 matrix product, the best of a few repeats."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(timed(lambda: a @ b, device) for _ in range(repeats))
    return 2 * side**3 / best


def timed(call: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def multiplications(model: nn.Module, sample: Tensor) -> int:
    """Multiply-adds of the convolutions and linear layers for one sample, counted from their outputs."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        total += layer.weight[0].numel() * output[0].numel()

    handles = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model(sample)
    for handle in handles:
        handle.remove()
    return total


def accelerated(device: torch.device, size: int, count: int, side: int, epochs: int) -> None:
    """All-CNN-C in bfloat16, compiled, from bytes on the device, with crops and flips."""
    torch.manual_seed(0)
    split = images_like_cifar(count).to(device)
    model = AllConv().to(device, memory_format=torch.channels_last)
    work = 3 * 2 * multiplications(model, scaled(split.images[:2]))  # forward, and twice that backward
    compiled, optimizer = torch.compile(model), adam(model)
    feed = ours(split, normaliser(split, "mean-std").to(device), size, "crop-flip")  # type: ignore[arg-type]

    def epoch() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            given = (Batch(images, labels) for images, labels in feed() if len(labels) == size)
            one_epoch(compiled, optimizer, given)

    epoch()  # compiles
    seconds = [timed(epoch, device) for _ in range(epochs)]
    rate = (count - count % size) / statistics.median(seconds)
    peak = matmul_rate(device, side)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, batch {size}, medians of {epochs} passes over {count:,} images\n")
    print("| images/s | operations/image | TFLOP/s | matmul TFLOP/s | share |\n|---|---|---|---|---|")
    print(f"| {rate:,.0f} | {work:.3g} | {work * rate / 1e12:.3g} | {peak / 1e12:.3g} | {work * rate / peak:.1%} |")


def images_like_cifar(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.randint(10, (count,), generator=generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("mlp", "allconv"), default=("mlp", "allconv"))
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (a third of them for All-CNN-C)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("process", "wall"), help="default: process on one thread, else wall")
    parser.add_argument("--device", default="cpu", help="cuda: the other table")
    parser.add_argument("--batch", type=int, default=1024, help="on an accelerator")
    parser.add_argument("--images", type=int, default=50_000, help="on an accelerator")
    parser.add_argument("--side", type=int, default=8192, help="of the matrices that give the device's own rate")
    options = parser.parse_args()
    if options.rounds < 9:
        parser.error("quartiles need at least 9 rounds")
    torch.set_num_threads(options.threads)
    if options.device != "cpu":
        accelerated(torch.device(options.device), options.batch, options.images, options.side, epochs=5)
        return
    named = options.clock or ("process" if options.threads == 1 else "wall")
    clock = time.process_time if named == "process" else time.perf_counter
    print(f"torch {torch.__version__}, {options.threads} threads, {named} clock; medians over paired rounds")
    print(f"goals: at least {FASTER} times as fast as the loader, at most {NEAR} times the bare loop's time")
    cases: dict[str, tuple[str, Callable[[], nn.Module], int, int, int]] = {
        "mlp": ("MLP 3072-800-800-800-10", lambda: nn.Sequential(nn.Flatten(), MLP(3072, 10)), 128, 1280, 1),
        "allconv": ("All-CNN-C", AllConv, 32, 64, 3),
    }
    for key in options.only:
        title, build, size, count, fewer = cases[key]
        torch.manual_seed(0)
        rows = rows_for(build(), images_like_cifar(count), size, laid_out=key == "allconv")
        rounds = max(options.rounds // fewer, 3)
        print(f"\n{title}, batch {size}, passes over {count:,} images, {rounds} rounds after one\n")
        measure(rows, 1 + rounds, clock)
        print_table(rows, count)


if __name__ == "__main__":
    main()
