"""Normalisation against numpy, and that it stays a part of what is certified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab import data
from convexnet.lab.models import first_step as whiten
from convexnet.lab.models.first_step import NORMALISATIONS, normaliser, whitening_convolution


def correlated(count: int, channels: int = 2, side: int = 4, seed: int = 0) -> data.Split:
    """Bytes whose neighbours are alike and whose colours have different means and spreads."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(count, channels, side + 2, side + 2, generator=generator)
    smooth = functional.avg_pool2d(rough, 3, stride=1)
    spread = torch.linspace(40, 90, channels)[:, None, None]
    pixels = (120 + 10 * torch.arange(channels)[:, None, None] + spread * smooth).clamp(0, 255).byte()
    return data.Split(pixels, torch.zeros(count, dtype=torch.int64))


def flat(split: data.Split) -> np.ndarray:
    return split.images.double().flatten(1).numpy() / 255


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_each_normalisation_is_what_numpy_makes_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whiten, "CHUNK", 37)  # several pieces, the last one smaller
    split, epsilon = correlated(200), 0.03
    found = normaliser(split, how, epsilon)(data.scaled(split.images)).flatten(1).double().numpy()

    raw, shape = flat(split), (200, 2, 16)
    colours = raw.reshape(shape)
    mean, spread = colours.mean((0, 2), keepdims=True), colours.std((0, 2), keepdims=True)
    scaled = ((colours - mean) / spread).reshape(200, 32)
    centred = scaled - scaled.mean(0)
    if how == "zca":
        covariance = centred.T @ centred / 200
        values, vectors = np.linalg.eigh(covariance)
        wanted = centred @ (vectors / np.sqrt(values + epsilon)) @ vectors.T
        # The negative control: a whitening that rotates (PCA) has the same covariance and is another map.
        assert np.abs(found - centred @ (vectors / np.sqrt(values + epsilon))).max() > 0.1
    else:
        standard = centred / np.sqrt(centred.var(0) + epsilon)
        wanted = {"none": raw, "mean-std": scaled, "standard": standard}[how]
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_whitening_takes_correlation_away_and_standardising_does_not() -> None:
    split = correlated(600)
    off: dict[str, float] = {}
    for how in ("standard", "zca"):
        white = normaliser(split, how, 1e-6)(data.scaled(split.images)).flatten(1).double()
        covariance = torch.cov(white.T)
        off[how] = float((covariance - torch.eye(32)).abs().max())
    assert off["zca"] < 0.02
    assert off["standard"] > 0.2


@pytest.mark.parametrize("count", [2, 12])
def test_whitening_few_samples_in_their_span(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same map as by the whole covariance, for the samples and for images that do not lie in their span."""
    monkeypatch.setattr(whiten, "CHUNK", 5)
    split, other = correlated(count), correlated(30, seed=1)
    step = normaliser(split, "zca", 0.05)
    assert isinstance(step, whiten.WhitenInSpan)
    twice = data.Split(split.images.repeat(20, 1, 1, 1), split.labels.repeat(20))  # the same covariance
    whole = normaliser(twice, "zca", 0.05)
    assert isinstance(whole, whiten.Whiten)
    for images in (split.images, other.images):
        inputs = data.scaled(images)
        torch.testing.assert_close(step(inputs), whole(inputs), rtol=1e-4, atol=1e-4)
    assert cx.certify(nn.Sequential(step, nn.ReLU()), torch.zeros(2, 2, 4, 4)).convex


def test_labels_and_other_images_play_no_part() -> None:
    split = correlated(50)
    moved = data.Split(split.images, torch.arange(50))
    step, same = normaliser(split, "zca"), normaliser(moved, "zca")
    assert all(torch.equal(a, b) for a, b in zip(step.buffers(), same.buffers(), strict=True))
    assert not list(step.parameters())


def test_vectors_have_one_mean_and_one_spread() -> None:
    split = data.Split(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([0, 1]))
    found = normaliser(split, "mean-std")(split.images)
    torch.testing.assert_close(found, (split.images - 4) / 5**0.5)


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_in_front_of_a_convex_network_it_is_certified_with_it(how: str) -> None:
    split = correlated(40)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))
    images = data.scaled(split.images)
    cx.constrain(network, images[:2], method="clip")
    whole = nn.Sequential(normaliser(split, how), network)
    assert cx.certify(whole, images[:2]).convex
    assert not cx.certify(nn.Sequential(nn.Sigmoid(), network), images[:2]).convex


@pytest.mark.parametrize("padding", [0, 1])
def test_a_first_convolution_whitens_patches(padding: int) -> None:
    split = correlated(300, side=8)
    layer = whitening_convolution(split, kernel=3, epsilon=1e-6, padding=padding)
    outputs = layer(data.scaled(split.images))
    if padding:
        outputs = outputs[..., 1:-1, 1:-1]  # at the edges, patches with zeros are other patches
    samples = outputs.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(samples.mean(1), torch.zeros(18, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(samples), torch.eye(18, dtype=torch.float64), atol=0.02, rtol=0)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_what_cannot_be_normalised() -> None:
    split = correlated(10)
    with pytest.raises(ValueError, match="must be one of 'none'"):
        normaliser(split, "ZCA")
    with pytest.raises(ValueError, match="epsilon must be positive"):
        normaliser(split, "zca", 0.0)
    with pytest.raises(ValueError, match="two rows"):
        normaliser(split.rows(torch.tensor([0])), "mean-std")
    split.images[:, 1] = 7
    with pytest.raises(ValueError, match="colour 1 has the same value"):
        normaliser(split, "mean-std")
    with pytest.raises(ValueError, match="patches 9 wide"):
        whitening_convolution(split, kernel=9)
    with pytest.raises(ValueError, match="patches 2 wide"):
        whitening_convolution(data.Split(torch.zeros(3, 4), torch.arange(3)), kernel=2)
