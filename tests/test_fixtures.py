"""Files that earlier versions wrote: each is read, computes what it computed, and is judged as it was.

`tests/fixtures/write.py` wrote them, once. A test that wrote them itself would only read what the present code writes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import convexnet as cx
from convexnet import zoo
from convexnet.constraints.sets import METHODS
from convexnet.memory import CONSTRAINT, recall
from tests.fixtures import networks, write

FILES = sorted(path for path in write.SAVED.rglob("*.safetensors") if ".expected" not in path.name)
ALLOWED = ("convexnet.lab",)
"""Steps of the laboratory, for which the version that wrote the first files asked its users."""


def expected(path: Path) -> tuple[tuple[Tensor, ...], Tensor, dict[str, str]]:
    with safe_open(str(path.with_name(f"{path.stem}.expected.safetensors")), framework="pt") as file:
        inputs = tuple(file.get_tensor(key) for key in sorted(file.keys()) if key.startswith("input"))
        return inputs, file.get_tensor("output"), file.metadata()


def method_of(model: nn.Module) -> str:
    """How the model, or the part of it that was converted, is constrained; empty where it is not."""
    return next((repr(kept.method) for part in model.modules() if (kept := recall(part, CONSTRAINT)) is not None), "")


def name_of(path: Path) -> str:
    return str(path.relative_to(write.SAVED).with_suffix(""))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_of_an_earlier_version(path: Path) -> None:
    inputs, output, known = expected(path)
    model = cx.load(path, allow=ALLOWED)
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), output, rtol=1e-4, atol=1e-5)
    certificate = cx.certify(model, inputs, wrt=1 if len(inputs) > 1 else None)
    assert (certificate.curvature, certificate.scope) == (known["curvature"], known["scope"])
    assert [asdict(change) for change in cx.changes(model)] == json.loads(known["changes"])
    assert method_of(model) == known["method"]


@pytest.mark.parametrize("name", [f"constrained-{method}" for method in networks.METHODS] + ["converted-head-only"])
def test_the_constraint_of_an_earlier_version_goes_on(name: str) -> None:
    """Weights of any sign, loaded into a network of an old file, are brought where they belong."""
    path = write.FIRST / f"{name}.safetensors"
    inputs, _, known = expected(path)
    model = cx.load(path)
    cone = cx.constrain(model, inputs)
    assert cone.parameters
    assert repr(cone.method) == known["method"]
    assert cone.violation() == 0
    generator = torch.Generator().manual_seed(31)
    state = {key: torch.randn(v.shape, generator=generator) for key, v in model.state_dict().items() if v.ndim == 2}
    model.load_state_dict(state, strict=False)
    assert cone.violation() == 0
    judged = model.get_submodule("head") if "head" in dict(model.named_children()) else model
    example = torch.zeros(2, 5) if judged is not model else inputs
    assert cx.certify(judged, example).convex


def test_every_network_has_a_file_and_every_class_a_network() -> None:
    """A class that can be saved and is in no file could be moved or renamed, and old files with it would be lost."""
    written = {path.stem for path in write.FIRST.glob("*.safetensors") if ".expected" not in path.name}
    assert written == set(networks.NETWORKS)
    met: set[str] = set()
    for path in FILES:
        with safe_open(str(path), framework="pt") as file:
            recipe = json.loads(file.metadata()["convexnet"])
        met |= {entry["class"] for entry in recipe["modules"]}
    exported = [
        value
        for room in (cx.nn, cx.ensembles, zoo)
        for name in room.__all__
        if isinstance(value := getattr(room, name), type)
    ]
    modules = [f"{kind.__module__}:{kind.__qualname__}" for kind in exported if issubclass(kind, nn.Module)]
    assert not set(modules) - met, "classes without a file: add a network to tests/fixtures/networks.py"
    assert set(METHODS) <= set(networks.METHODS)


def test_what_an_earlier_version_wrote_is_never_written_again(tmp_path: Path) -> None:
    write.write("affine", tmp_path)
    before = (tmp_path / "affine.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="is kept: choose another folder"):
        write.main([str(tmp_path), "--only", "affine"])
    assert (tmp_path / "affine.safetensors").read_bytes() == before


def test_another_result_is_noticed(tmp_path: Path) -> None:
    """The negative control: outputs of one network beside the file of another."""
    for name, source in (("a", "constrained-clip"), ("a.expected", "constrained-shift.expected")):
        shutil.copy(write.FIRST / f"{source}.safetensors", tmp_path / f"{name}.safetensors")
    inputs, output, known = expected(tmp_path / "a.safetensors")
    model = cx.load(tmp_path / "a.safetensors")
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        torch.testing.assert_close(model(*inputs), output, rtol=1e-4, atol=1e-5)
    assert method_of(model) != known["method"]
