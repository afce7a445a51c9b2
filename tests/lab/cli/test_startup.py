"""What a command needs not, it does not import; and what it says of choices without importing them is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from typer.testing import CliRunner

import convexnet.choices
from convexnet import zoo
from convexnet.choices import ConstraintName
from convexnet.constraints.sets import METHODS
from convexnet.initialise import initialise
from convexnet.initialise.activation_moments import ACTIVATIONS as WITH_MOMENTS
from convexnet.lab.cli import choices
from convexnet.lab.cli.app import app
from convexnet.lab.data import AUGMENTATIONS, KINDS, NAMES
from convexnet.lab.models import first_step as whiten
from convexnet.lab.models import registry as models
from convexnet.lab.studies import STUDIES
from convexnet.lab.training import recipes
from convexnet.nn import activations
from convexnet.nn.layers import POSITIVE
from convexnet.solve.solvers.choose import WAYS
from tests.processes import HANGING

ROOT = Path(__file__).resolve().parents[3]

QUICK = """
import contextlib, io, sys
from convexnet.lab.cli import main
COMMANDS = "--version,--help,study list,study run --help,train --help,minimise --help,train --x,--show-completion bash"
for words in COMMANDS.split(","):
    sys.argv = ["convexnet", *words.split()]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main()
    assert out.getvalue().strip(), words
    heavy = {"torch", "numpy", "matplotlib", "lightning", "sklearn", "torchvision"} & set(sys.modules)
    assert not heavy, (words, heavy)
import convexnet
assert "torch" not in sys.modules and "minimise" in dir(convexnet)
assert convexnet.split.__module__ == "convexnet.split" and callable(convexnet.split)
assert "torch" in sys.modules
"""


def test_help_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICK], cwd=ROOT, capture_output=True, text=True, timeout=HANGING, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("convexnet cert", {"certify"}),
        ("convexnet train --recipe ", set(choices.RECIPES)),
        ("convexnet train --method s", {"shift", "softplus"}),
        ("convexnet study run fig", {row[0] for row in choices.STUDIES if row[0].startswith("fig")}),
    ],
)
def test_a_shell_completes(typed: str, offered: set[str]) -> None:
    """Asked for as in the script that `convexnet --show-completion` prints for bash."""
    asked = {
        "_CONVEXNET_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    shown = CliRunner().invoke(app, env=asked, prog_name="convexnet")
    assert set(shown.output.split()) == offered


def test_an_unknown_name_is_an_attribute_error() -> None:
    import convexnet

    with pytest.raises(AttributeError, match="module 'convexnet' has no attribute 'minimize'"):
        convexnet.minimize  # noqa: B018  # pyright: ignore


def test_choices_are_what_they_choose_from() -> None:
    assert tuple(METHODS) == convexnet.choices.METHODS == choices.METHODS
    assert {*POSITIVE, *METHODS} == {*get_args(ConstraintName)}
    for table in (zoo.ACTIVATIONS, activations.ACTIVATIONS, WITH_MOMENTS):
        assert {*table} == {*convexnet.choices.ACTIVATIONS}
    for init in convexnet.choices.INITS:
        initialise(torch.nn.Linear(2, 2), {"weight": torch.tensor(True)}, init)
    assert (whiten.NORMALISATIONS, whiten.WHITENINGS) == (choices.NORMALISATIONS, choices.WHITENINGS)
    assert whiten.EPSILON == choices.WHITE_EPSILON
    assert tuple(AUGMENTATIONS) == choices.AUGMENTATIONS
    assert (NAMES, KINDS) == (choices.DATASETS, choices.NOISES)
    assert tuple(recipes.RECIPES) == choices.RECIPES
    assert tuple(models.MODELS) == choices.MODELS
    assert ("auto", *WAYS, "lp") == choices.SOLVERS
    assert [(s.name, s.title, s.source, ", ".join(s.systems)) for s in STUDIES] == list(choices.STUDIES)
