"""Mixed images, and batches in parts: what a step is then, by definition and beside the plain one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.lab.data import Split
from convexnet.lab.data.augment import AUGMENTATIONS, Torchvision, augmented, mixed
from convexnet.lab.models.registry import build
from convexnet.lab.runs.tasks import classification
from convexnet.lab.training.epoch import Batch, divided, judged, steps
from convexnet.lab.training.epoch import Seen as Sums
from convexnet.lab.training.recipes import Recipe
from tests.lab import small


def images(count: int, channels: int = 3, side: int = 8) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, channels, side, side), generator=draws, dtype=torch.uint8)


# --- torchvision's transforms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if "aug" in name or "jitter" in name])
def test_a_policy_draws_from_its_generator_alone(name: str) -> None:
    x, state = images(6), torch.get_rng_state()
    one, again, other = (augmented(x, AUGMENTATIONS[name], torch.Generator().manual_seed(k)) for k in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert (one.dtype, one.shape) == (torch.uint8, x.shape)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    same = x[:1].expand(6, -1, -1, -1).contiguous()
    found = augmented(same, AUGMENTATIONS[name], torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in found}) > 1, "each image draws for itself"


def test_a_policy_takes_bytes_alone() -> None:
    with pytest.raises(ValueError, match=r"bytes \(uint8\), and these are torch.float32"):
        Torchvision("randaugment")(images(2).float(), torch.Generator())


# --- mixed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_images_are_mixed_as_their_labels_are(mixup: float, cutmix: float) -> None:
    """Of images of one colour each, the mean of a mixed one is the mean of both by their shares."""
    level = torch.arange(6.0)
    shares: list[float] = []
    for seed in range(8):
        found = mixed(level[:, None, None, None].expand(6, 1, 8, 8), mixup, cutmix, seed)
        wanted = found.kept * level + (1 - found.kept) * level[found.others]
        torch.testing.assert_close(found.inputs.mean((1, 2, 3)), wanted)
        windows = bool((found.inputs == found.inputs.round()).all()) and 0 < found.kept < 1
        assert windows <= bool(cutmix)
        shares.append(found.kept)
    assert len(set(shares)) > 4
    again = mixed(level[:, None, None, None].expand(6, 1, 8, 8), mixup, cutmix, 7)
    assert again.kept == shares[-1]


def test_the_loss_of_mixed_images_is_that_of_mixed_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(5, 4, generator=draws), torch.tensor([0, 1, 2, 3, 1])
    weights = torch.tensor([0.5, 1.5, 1.0, 2.0, 0.0])
    batch = Batch(torch.zeros(5, 1), labels, others=torch.arange(5).roll(1), kept=0.3)
    value, scores = judged(outputs, batch, slice(None), classification(0.1), None)
    soft = 0.3 * F.one_hot(labels, 4) + 0.7 * F.one_hot(labels.roll(1), 4)
    torch.testing.assert_close(value, F.cross_entropy(outputs, soft, label_smoothing=0.1))
    right = outputs.argmax(1)
    torch.testing.assert_close(scores, 0.3 * (right == labels).double() + 0.7 * (right == labels.roll(1)).double())

    each = F.cross_entropy(outputs, labels, reduction="none")
    other = F.cross_entropy(outputs, labels.roll(1), reduction="none")
    wanted = (0.3 * weights * each + 0.7 * weights.roll(1) * other)[1:3].mean()
    part = judged(outputs[1:3], batch._replace(weights=weights), slice(1, 3), classification(), None)[0]
    torch.testing.assert_close(part, wanted)
    assert not math.isclose(float(value), float(part))


def test_what_cannot_be_mixed_is_refused() -> None:
    vectors = Split(torch.zeros(8, 4), torch.arange(8) % 2)
    with pytest.raises(ValueError, match=r"take images \(C, H, W\), and a sample is of shape \(4,\)"):
        small.fitted(nn.Linear(4, 2), vectors, convex=False, mixup=0.2)
    with pytest.raises(ValueError, match="has no place for it"):
        build("mlp", (1, 8, 8), 3, Recipe("r", epochs=1, hidden=(4,), drop_path=0.1), 0)


# --- in parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_a_step_in_parts_is_the_step_of_the_whole(parts: int) -> None:
    """Without BatchNorm; the running loss and score are those of the whole batch, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs, labels = torch.randn(11, 3, 2, 2), torch.arange(11) % 3
    found = mixed(inputs, 1.0, 0.0, 0)
    batch = Batch(found.inputs, labels, share=0.5, others=found.others, kept=found.kept)
    weights: list[Tensor] = []
    sums: list[tuple[float, float]] = []
    for count in (1, parts):
        own, seen = copy.deepcopy(model), Sums(1)
        optimiser = torch.optim.SGD(own.parameters(), lr=0.5)
        steps(own, optimiser, [batch, batch], seen, task=classification(), accumulate=count)
        weights.append(nn.utils.parameters_to_vector(own.parameters()).detach())
        sums.append(seen.epoch()[1:3])
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)
    assert sums[1] == pytest.approx(sums[0], rel=1e-5)
    assert not torch.allclose(weights[0], nn.utils.parameters_to_vector(model.parameters()))


def test_every_part_has_two_rows() -> None:
    for count in range(2, 40):
        for parts in range(1, 12):
            found = divided(count, parts)
            rows = [row for part in found for row in range(count)[part]]
            assert rows == list(range(count))
            assert all(len(range(count)[part]) >= 2 for part in found)
            assert len(found) == min(parts, count // 2)
