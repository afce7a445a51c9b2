"""Batches and augmentation: every row once, the same again from any point, and each change against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convexnet.lab import data
from convexnet.lab.data.augment import Affine, Augmentation, Crop, Cutout, Flip


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int = 3, height: int = 8, width: int = 6) -> data.Split:
    """Images that differ, with their numbers as labels."""
    pixels = torch.randint(256, (count, channels, height, width), generator=seeded(count), dtype=torch.uint8)
    return data.Split(pixels, torch.arange(count))


# --- batches ---------------------------------------------------------------------------------------------------------


@given(count=st.integers(0, 50), size=st.integers(1, 60), seed=st.integers(0, 2**31), drop=st.booleans())
def test_every_row_comes_once_with_its_own_image(count: int, size: int, seed: int, drop: bool) -> None:
    split = images(count, 1, 2, 2)
    found = list(data.batches(split, size, generator=seeded(seed), drop_last=drop))
    labels = torch.cat([labels for _, labels in found]) if found else torch.empty(0, dtype=torch.int64)
    assert len(set(labels.tolist())) == len(labels) == (count - count % size if drop else count)
    assert [len(part) for _, part in found[:-1]] == [size] * (len(found) - 1)
    for inputs, numbers in found:
        assert torch.equal(inputs, split.images[numbers].float() / 255)


def test_without_a_generator_rows_keep_their_order() -> None:
    found = list(data.batches(images(7), 3))
    assert torch.cat([labels for _, labels in found]).tolist() == list(range(7))


def epoch(split: data.Split, generator: torch.Generator, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    augment = (Crop(2), Flip(), Affine(), Cutout(3))
    return list(data.batches(split, 4, generator=generator, augment=augment, start=start))


def equal(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_the_same_generator_state_gives_the_same_epoch_from_any_batch_on() -> None:
    split = images(22)
    generator = seeded(5)
    for _ in range(2):  # any epoch, not only the first
        state = generator.get_state()
        whole = epoch(split, generator)
        after = generator.get_state()
        for start in (0, 1, 4, 5, 6):
            generator.set_state(state)
            assert equal(epoch(split, generator, start), whole[start:])
            assert torch.equal(generator.get_state(), after)
    assert not equal(epoch(split, generator), whole)


def test_every_batch_of_every_epoch_has_draws_of_its_own() -> None:
    """One image many times: it comes out alike only where two batches, or two epochs, share their draws."""
    split = data.Split(images(1).images.expand(64, -1, -1, -1), torch.arange(64))
    generator = seeded(0)
    seen = [
        inputs.numpy().tobytes()
        for _ in range(3)
        for inputs, _ in data.batches(split, 16, generator=generator, augment=(Crop(2), Flip()))
    ]
    assert len(set(seen)) == len(seen) == 12


def test_what_is_left_in_an_epoch_does_not_change_the_next() -> None:
    split, generators = images(22), [seeded(1), seeded(1)]
    for _ in data.batches(split, 4, generator=generators[0], augment=(Flip(),)):
        pass
    next(data.batches(split, 4, generator=generators[1], augment=(Flip(),)))
    assert equal(epoch(split, generators[0]), epoch(split, generators[1]))


def test_nothing_is_drawn_from_the_global_state_and_the_split_is_left_alone() -> None:
    split, state = images(12), torch.random.get_rng_state()
    before = split.images.clone()
    epoch(split, seeded(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(split.images, before)


def test_type_transform_and_numbers_that_are_no_bytes() -> None:
    split = images(5)
    inputs, _ = next(data.batches(split, 5, dtype=torch.float64, transform=lambda x: 2 * x - 1))
    assert inputs.dtype == torch.float64
    torch.testing.assert_close(inputs, split.images.double() / 255 * 2 - 1)
    floats = data.Split(torch.tensor([[2.5], [-1.0]]), torch.tensor([0, 1]))
    assert torch.equal(next(data.batches(floats, 2))[0], floats.images)


def test_prepared_is_what_the_transform_gives_batch_by_batch() -> None:
    split = images(11)
    ready = data.prepared(split, lambda x: x.flatten(1) - 0.5, size=4)
    torch.testing.assert_close(ready.images, split.images.float().flatten(1) / 255 - 0.5)
    assert ready.labels is split.labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "at least one row"),
        ({"size": 2, "start": -1}, "number 0"),
        ({"size": 2, "augment": (Flip(),)}, "give a generator"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_batch(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.batches(images(3), **options)  # type: ignore[arg-type]


def test_vectors_cannot_be_augmented() -> None:
    vectors = data.Split(torch.zeros(3, 4), torch.arange(3))
    with pytest.raises(ValueError, match=r"images \(N, C, H, W\)"):
        data.batches(vectors, 2, generator=seeded(0), augment=(Flip(),))


def test_named_sets() -> None:
    for name, augment in data.AUGMENTATIONS.items():
        assert data.augmentation(name) == augment
    with pytest.raises(ValueError, match="Did you mean 'crop-flip'"):
        data.augmentation("crop_flip")


@pytest.mark.parametrize(
    "make", [lambda: Crop(-1), lambda: Cutout(0), lambda: Affine(shift=math.nan), lambda: Affine(shear=90)]
)
def test_settings_out_of_range(make: Callable[[], Augmentation]) -> None:
    with pytest.raises(ValueError, match="must be from"):
        make()


# --- augmentation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [Crop(2), Flip(), Affine(30, 20, 0.2), Cutout(3)], ids=lambda a: type(a).__name__)
def test_each_image_is_changed_by_its_own_draw_alone(augment: Augmentation) -> None:
    """Images of a batch do not mix: the same draws with another image in one place change that place only."""
    one, other = images(6).images, images(6).images.clone()
    other[3] = 255 - other[3]
    first, second = augment(one, seeded(2)), augment(other, seeded(2))
    same = (first == second).flatten(1).all(1).tolist()
    assert same == [True, True, True, False, True, True]
    assert first.dtype == torch.uint8
    assert first.shape == one.shape
    # However they lie in memory.
    last = one.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(last, seeded(2)), first)
    # Floating-point images get the same change.
    torch.testing.assert_close(augment(one.float(), seeded(2)).round(), first.float(), atol=1, rtol=0)
    assert not torch.equal(augment(one, seeded(3)), first)


def test_a_crop_is_a_window_of_the_padded_image_at_every_place_alike() -> None:
    count, padding, height, width = 2000, 2, 5, 4
    pixels = torch.arange(1, 2 * height * width + 1, dtype=torch.uint8).reshape(1, 2, height, width)
    found = Crop(padding)(pixels.expand(count, -1, -1, -1), seeded(0)).numpy()
    padded = np.pad(pixels[0].numpy(), ((0, 0), (padding, padding), (padding, padding)))
    windows = {
        padded[:, y : y + height, x : x + width].tobytes(): (y, x)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    }
    places = [windows[image.tobytes()] for image in found]  # KeyError if it is no window
    counts = [places.count((y, x)) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    # 80 expected at each of 25 places; five standard deviations.
    assert max(abs(count - 80) for count in counts) < 45


def test_a_flip_mirrors_half_of_the_images() -> None:
    split = images(400)
    found = Flip()(split.images, seeded(0))
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(found, split.images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(found, split.images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def ramp(height: int, width: int) -> tuple[Tensor, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """A linear image, on which bilinear interpolation is exact, and its value at any point (x right, y down)."""
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)

    def value(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 3.0 * x + 7.0 * y + 1.0

    return torch.from_numpy(value(x, y))[None, None], value


@given(seed=st.integers(0, 2**31), height=st.integers(9, 14), width=st.integers(9, 14))
def test_an_affine_map_reads_each_pixel_where_it_says(seed: int, height: int, width: int) -> None:
    rotation, shear, shift = 20.0, 15.0, 0.1
    image, value = ramp(height, width)
    found = Affine(rotation, shear, shift)(image, seeded(seed))[0, 0].numpy()

    draws = 2 * torch.rand(4, 1, generator=seeded(seed)).numpy()[:, 0].astype(np.float64) - 1
    turn, lean = math.radians(rotation * draws[0]), math.tan(math.radians(shear * draws[1]))
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ [[1, lean], [0, 1]]
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    from_x = matrix[0, 0] * x + matrix[0, 1] * y + shift * draws[2] * width
    from_y = matrix[1, 0] * x + matrix[1, 1] * y + shift * draws[3] * height
    # Within the image: outside, the edge goes on.
    within = (abs(from_x) <= (width - 1) / 2) & (abs(from_y) <= (height - 1) / 2)
    assert within.sum() > 10
    np.testing.assert_allclose(found[within], value(from_x, from_y)[within], atol=1e-4)
    assert found.min() >= image.min() - 1e-4
    assert found.max() <= image.max() + 1e-4


def test_beyond_the_edge_the_edge_goes_on() -> None:
    plain = torch.full((50, 1, 9, 9), 200, dtype=torch.uint8)
    assert torch.equal(Affine(40, 30, 0.5)(plain, seeded(0)), plain)


def test_no_rotation_shear_or_shift_changes_nothing() -> None:
    split = images(5)
    assert torch.equal(Affine(0, 0, 0)(split.images, seeded(0)), split.images)


def test_a_cutout_is_one_square_of_zeros_that_may_hang_over_the_edge() -> None:
    size, side = 4, 10
    found = Cutout(size)(torch.full((2000, 2, side, side), 7, dtype=torch.uint8), seeded(0))
    areas: list[int] = []
    for image in found:
        assert torch.equal(image[0], image[1])
        hole = image[0] == 0
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert hole[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        areas.append(int(hole.sum()))
        assert torch.all((image == 7) | (image == 0))
    assert max(areas) == size * size
    assert min(areas) < size * size
    # Squares begin at -2 to 7: the pixel 5 is hidden along one axis by 4 of these 10 places, 0 by 3, 9 by 2.
    for place, share in ((5, 0.4), (0, 0.3), (9, 0.2)):
        hidden = float((found[:, 0, place, place] == 0).double().mean())
        assert abs(hidden - share**2) < 5 * (share**2 / 2000) ** 0.5


@pytest.mark.gpu
def test_the_device_makes_no_difference() -> None:
    split = images(40)
    there = split.to("cuda")
    augment = (Crop(2), Flip(), Cutout(3))
    here = list(data.batches(split, 8, generator=seeded(0), augment=augment))
    far = list(data.batches(there, 8, generator=seeded(0), augment=augment))
    assert far[0][0].is_cuda
    assert equal(here, [(inputs.cpu(), labels.cpu()) for inputs, labels in far])
    torch.testing.assert_close(
        Affine()(split.images.float(), seeded(1)), Affine()(there.images.float(), seeded(1)).cpu()
    )
