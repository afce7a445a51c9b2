"""Images that are in the training part too: found in another form, and not among images that only look alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from convexnet.lab.data import DataSet, Split
from convexnet.lab.data.near_duplicates import LISTED, SAME, closest, details, duplicated
from convexnet.lab.studies import table5


def pictures(count: int, seed: int) -> Tensor:
    """Bytes (count, 3, 32, 32) with shapes of several sizes, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, 3, 32, 32)
    for side in (2, 4, 8, 16):
        rough = torch.randn(count, 3, side, side, generator=generator)
        found += functional.interpolate(rough, size=32, mode="bilinear")
    low, high = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
    return (20 + 200 * (found - low) / (high - low)).round().to(torch.uint8)


def test_another_form_is_found_and_others_are_not(seed: int) -> None:
    train = pictures(40, seed)
    some = train[:8].float()
    tint = torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    forms = {
        "the same": some,
        "darker, and less contrast": 10 + 0.5 * some,
        "tinted": some * tint,
        "with a white frame": functional.pad(some[..., 4:28, 4:28], (4, 4, 4, 4), value=255.0),
        "noisy": some + 2 * torch.randn(some.shape, generator=torch.Generator().manual_seed(seed)),
    }
    for name, form in forms.items():
        again = form.clamp(0, 255).round().to(torch.uint8)
        assert bool((closest(again, train) > SAME).all()), name
    assert bool((closest(pictures(40, seed + 1000), train) < SAME).all()), "other pictures"


def test_a_ground_or_a_frame_that_pictures_share_is_no_picture(seed: int) -> None:
    """A plain correlation of pixels takes two planes in the same sky for one."""
    sky = torch.linspace(120, 160, 32)[None, None, :, None].expand(20, 3, 32, 32).clone()
    sky[:, :, :2], sky[:, :, -2:], sky[..., :2], sky[..., -2:] = 255, 255, 255, 255
    sky[:, :, 10:22, 10:22] += 0.2 * (pictures(20, seed)[:, :, 10:22, 10:22].float() - 120)
    images = sky.round().to(torch.uint8)
    pixels = functional.normalize(images.flatten(1).float() - images.float().mean((1, 2, 3))[:, None], dim=1)
    assert bool(((pixels[:10] @ pixels[10:].T).amax(1) > 0.9).all()), "or this would show nothing"
    assert bool((closest(images[:10], images[10:]) < SAME).all())


def test_details_do_not_depend_on_batches(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(12, seed)
    whole = closest(images[:7], images[7:])
    monkeypatch.setattr("convexnet.lab.data.near_duplicates.TOGETHER", 3)
    torch.testing.assert_close(closest(images[:7], images[7:]), whole)
    torch.testing.assert_close(details(images).norm(dim=1), torch.ones(12))


def test_parts_of_other_sizes_are_refused() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    small, large = (Split(torch.zeros(2, 3, side, side, dtype=torch.uint8), labels) for side in (8, 32))
    with pytest.raises(ValueError, match=r"the test part is \(2, 3, 8, 8\), the training part \(2, 3, 32, 32\)"):
        duplicated(small, large)
    flat = Split(torch.zeros(2, 4), labels)
    with pytest.raises(ValueError, match="among images"):
        duplicated(flat, flat)


def test_the_list_is_of_the_first_official_images() -> None:
    assert len(set(LISTED)) == len(LISTED) == 35
    assert list(LISTED) == sorted(LISTED)
    assert max(LISTED) < 1_017


def test_counting(seed: int) -> None:
    """Three of five test images were seen: two in the training part, and one is listed."""
    train, other = pictures(6, seed), pictures(5, seed + 1000)
    test = torch.cat([train[:2], other[:3]])
    official = torch.cat([train[2:3], other])
    labels = torch.zeros(6, dtype=torch.int64)
    whole = Split(train, labels)
    raw = DataSet(
        "made up", whole, whole, Split(test, labels[:5]), 1, ("one",), extra={table5.OFFICIAL: Split(official, labels)}
    )
    right = {
        "test": torch.tensor([True, True, True, False, False]),
        table5.OFFICIAL: torch.tensor([True, False, False, False, False, True]),
    }
    found = table5.counted(raw, right)
    assert found["test"] == {
        "images": 5,
        "duplicates": 2,
        "accuracy": 0.6,
        "unique_accuracy": pytest.approx(1 / 3),
        "duplicate_accuracy": 1.0,
    }
    assert (found[table5.OFFICIAL]["duplicates"], found[table5.OFFICIAL]["unique_accuracy"]) == (1, 0.2)
    nothing = found[f"{table5.OFFICIAL}, listed"]
    assert (nothing["duplicates"], nothing["duplicate_accuracy"]) == (0, None), "number 31 is the first that is listed"
