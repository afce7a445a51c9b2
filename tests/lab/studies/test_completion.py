"""Studies that complete pictures and look for exemplars: killed and resumed to the same bits, and what they measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import convexnet as cx
from convexnet.energy import training
from convexnet.lab.data import CorruptData, MissingData
from convexnet.lab.data.faces import FILE, olivetti
from convexnet.lab.models.completing import AroundGaussian, Flat, Gaussian, principal
from convexnet.lab.models.faces import AroundAnswer, Squared, encoder_decoder, free_twin
from convexnet.lab.reports.expert_pictures import unpacked
from convexnet.lab.runs.jobs import Job
from convexnet.lab.studies import completion, exemplars, imputation
from convexnet.lab.studies import olivetti as faces
from convexnet.lab.studies.completion import Halves
from tests.lab.killing import killed_and_resumed

RUNS: dict[str, tuple[ModuleType, str]] = {
    "regression": (faces, "cnn"),
    "gradient": (faces, "picnn-gradient"),
    "bundle": (faces, "picnn-bundle"),
    "around ridge": (faces, "around-ridge"),
    "twin": (faces, "twin-gradient"),
    "around a Gaussian": (imputation, "around-gaussian"),
    "exemplars": (exemplars, "ficnn-exemplars-0.1"),
}
FAST = ("regression",)


def smallest(study: Any, model: str) -> Job:
    """The job of a study that takes a second."""
    (job,) = (job for job in study.plan("smoke", [0]) if job.model == model)
    how = replace(job.recipe, epochs=2)
    if study is imputation:
        how = replace(how, noises=(0.03,), tested=10)
    return replace(job, recipe=how)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RUNS])
def test_a_run_that_was_killed_ends_at_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, model = RUNS[name]
    row = killed_and_resumed(study.run, smallest(study, model), tmp_path, (monkeypatch, training))
    assert row["certified"] is (name != "twin")
    assert not row["full"]
    if study is faces:
        assert row["epochs_in_all"] == row["epochs"] + 2
        assert 0 < row["test_mse"] < 255**2
        assert unpacked(row["faces"], row["picture"]).max() > 100
    assert study.sections([row])[0].tables


def test_ridge_is_that_of_scikit_learn_and_the_map_answers_as_it_does(seed: int) -> None:
    from sklearn.linear_model import Ridge

    pictures = torch.rand(30, 1, 4, 6, generator=torch.Generator().manual_seed(seed))
    data = Halves(pictures, 24, 6, "left", mirrored=False)
    weights = completion.weights_near(data, 2.0, 20.0)
    x, y = (completion.flat(part) for part in data.part(data.all))
    matrix, bias = completion.ridge(x, y, 0.7, weights)
    held = completion.flat(data.test[0])
    expected = Ridge(alpha=0.7).fit(x * weights, y).predict(held * weights)
    assert np.abs(held @ matrix.T + bias - expected).max() <= 1e-9
    assert weights.reshape(4, 3)[0].tolist() == sorted(weights.reshape(4, 3)[0].tolist(), reverse=True)
    assert completion.chosen_ridge(data, near=False)[0] in completion.PENALTIES


@pytest.mark.parametrize("side", ["left", "bottom"])
def test_halves_make_the_whole_and_mirrored_ones_the_mirrored_whole(side: str) -> None:
    pictures = torch.rand(40, 1, 4, 4)
    data = Halves(pictures, 30, 5, side)
    x, y = data.part(data.all)
    assert torch.equal(data.whole(x, y), pictures[:30])
    (turned,), other = data.mirror([x], y)
    whole = data.whole(turned, other)
    same = (whole == pictures[:30]).flatten(1).all(1)
    mirrored = (whole == pictures[:30].flip(3)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 0 < int(mirrored.sum()) < 30
    assert len(data.test[0]) == 10


def test_energies_are_convex_as_they_say_and_a_regression_is_the_least_y() -> None:
    shape = (1, 8, 4)
    x, y = torch.rand(3, *shape), torch.rand(3, *shape)
    around = AroundAnswer(shape, faces.TINY, (8,), flip=3)
    assert cx.certify(around, (x, y), wrt=1).scope == "for all parameters"
    twin = free_twin(shape, faces.TINY, (8,))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    assert not cx.certify(twin, (x, y), wrt=1).convex
    f = Squared(encoder_decoder(shape, faces.TINY, 8)).eval()
    found = cx.minimise(f, cx.Box(0, 1, shape=shape), (x,), tol=1e-8).x
    assert torch.allclose(found, f.net(x), atol=1e-4)
    samples = torch.rand(20, 1, 4, 4)
    mean, directions, variances = principal(samples, 3)
    for energy in (
        AroundGaussian((1, 4, 4), mean, Gaussian(directions, variances, 0.01), (8,), 0.3),
        Flat((1, 4, 4), mean, (8,), 2, 0.3),
    ):
        assert cx.certify(energy, samples[:1]).scope == "for all parameters"


def test_a_gaussian_fills_in_the_conditional_mean() -> None:
    draws = torch.Generator().manual_seed(0)
    samples = torch.randn(400, 6, generator=draws) @ torch.randn(6, 6, generator=draws)
    _, directions, variances = principal(samples, 6)
    f = Gaussian(directions, variances, 0.5)
    x = torch.randn(1, 6, generator=draws)
    given = torch.tensor([True, True, False, True, False, True])
    found = cx.impute(f, x, given, tol=1e-10).x[0]
    covariance = (directions.T * variances) @ directions + 0.5 * torch.eye(6)
    inner = torch.linalg.solve(covariance[given][:, given], x[0, given])
    assert torch.allclose(found[~given], covariance[~given][:, given] @ inner, atol=1e-3)


def test_masks_are_the_same_for_all_and_hide_what_they_say() -> None:
    for name in imputation.MASKS:
        mask = imputation.mask_of(name, (1, 8, 8), 200)
        share = 1 - float(mask.double().mean())
        assert abs(share - (int(name) / 100 if name.isdecimal() else 0.5)) <= 0.02
        assert torch.equal(mask, imputation.mask_of(name, (1, 8, 8), 200))


def test_training_without_convexity_is_for_unrolled_descent_alone() -> None:
    x, y = torch.rand(8, 1, 8, 4), torch.rand(8, 1, 8, 4)
    box = cx.Box(0, 1, shape=(1, 8, 4))
    twin = free_twin((1, 8, 4), faces.TINY, (4,))
    history = cx.energy.fit(twin, x, y, box, "unrolled", epochs=1, steps=2, convex=False)
    assert len(history.loss) == 1
    with pytest.raises(ValueError, match='convex=False is for how="unrolled"'):
        cx.energy.fit(twin, x, y, box, "argmin", convex=False)


def test_faces_that_are_not_there_or_not_those_are_named(tmp_path: Path) -> None:
    from scipy.io import savemat

    with pytest.raises(MissingData, match="--data-dir"):
        olivetti(None)
    with pytest.raises(MissingData, match=f"there is no {FILE}"):
        olivetti(tmp_path)
    (tmp_path / FILE).write_bytes(b"not a file of MATLAB")
    with pytest.raises(CorruptData, match="cannot be read as a file of MATLAB"):
        olivetti(tmp_path)
    savemat(tmp_path / FILE, {"faces": np.zeros((4096, 400), dtype=np.uint8)})
    with pytest.raises(CorruptData, match="does not hold 400 faces"):
        olivetti(tmp_path)
