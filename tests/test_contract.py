"""The public contract, written out: what a user may rely on, and what the rooms of the package may know of others."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

import convexnet as cx

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "convexnet"

PUBLIC = [
    "Ball",
    "Box",
    "Certificate",
    "Change",
    "Cone",
    "ConvexNetError",
    "Counterexample",
    "Cube",
    "Finding",
    "Free",
    "Minimiser",
    "NotCertified",
    "NotTraceable",
    "Orthant",
    "Polyhedron",
    "Product",
    "Simplex",
    "Solution",
    "__version__",
    "at_most",
    "bake",
    "certify",
    "changes",
    "conjugate",
    "constrain",
    "convexify",
    "energy",
    "ensembles",
    "estimators",
    "falsify",
    "impute",
    "load",
    "maximise",
    "minimise",
    "nn",
    "prox",
    "rl",
    "rollout",
    "save",
    "split",
    "to_cvxpy",
    "to_lp",
    "zoo",
]

# Parameter names, kinds and defaults. A change here is a change of the contract.
SIGNATURES = {
    "Ball": "(n, radius, centre=0.0)",
    "Box": "(lo, hi, shape=None, batch=None)",
    "Cube": "(n, entropy=False)",
    "Free": "(n)",
    "Orthant": "(n)",
    "Polyhedron": "(A=None, b=None, A_eq=None, b_eq=None, within=None)",
    "Product": "(*parts)",
    "Simplex": "(n, total=1.0)",
    "at_most": "(g, level, given=None)",
    "conjugate": "(f, slope, domain=None, given=None, *, wrt=-1, **options)",
    "impute": "(f, x, mask=None, domain=None, **options)",
    "maximise": "(f, domain, given=None, *, wrt=-1, **options)",
    "prox": "(f, v, step, domain=None, given=None, *, wrt=-1, **options)",
    "rollout": "(dynamics, cost, horizon, example=None)",
    "Minimiser": "(f, domain, *, wrt=-1, **options)",
    "Minimiser.__call__": "(self, given=None, start=None, domain=None, time_limit=None)",
    "Minimiser.refresh": "(self)",
    "certify": "(model, example, wrt=None, domain=None)",
    "bake": "(model, example=None)",
    "changes": "(model)",
    "convexify": (
        "(model, example, *, method='exponentiate', epsilon=5.0, activation='elu', norm='batch', replace={}, "
        "head='nonnegative', widen_first=None, init=None, only=None, wrt=None)"
    ),
    "constrain": "(model, example, method=None, epsilon=5.0, wrt=None)",
    "falsify": "(model, example, wrt=None, domain=None, budget=100000, seed=0)",
    "load": "(path, allow=(), device='cpu')",
    "minimise": (
        "(f, domain, given=None, tol=1e-06, solver='auto', start=None, max_steps=None, time_limit=None, "
        "*, wrt=-1, atol=0.0, subject_to=(), derivative='exact', verbose=False, callback=None)"
    ),
    "save": "(model, path)",
    "split": "(model, example=None)",
    "energy.structured_hinge": "(f, x, y, domain, margin='classes', **options)",
    "energy.fit": (
        "(f, x, y, domain, how='argmin', *, epochs=20, batch=128, learning_rate=0.001, optimiser=None, loss=None, "
        "margin='classes', missing=None, penalty=None, validation=None, measure=None, patience=None, "
        "warm_start=False, seed=0, augment=None, convex=True, tick=None, **options)"
    ),
    "energy.exemplars": "(f, classes, domain, **options)",
    "energy.exemplar_loss": "(f, x_true, y, domain, gamma, *, classes=None, **options)",
    "energy.predict": "(f, x, domain, *, batch=1024, **options)",
    "ensembles.MixtureOfExperts": "(experts, gate)",
    "ensembles.MixtureOfExperts.fit_em": (
        "(self, x, y, *, iterations=50, passes=1, batch=128, learning_rate=0.001, penalty=0.0, sample_weight=None, "
        "patience=3, seed=0, tick=None)"
    ),
    "ensembles.Boosted": "(experts, weights, gate=None)",
    "ensembles.fuse": "(experts, how='mean', *, weights=None, calibrated=False, example=None)",
    "estimators.ConvexRegressor": (
        "(hidden=(64, 64), activation='softplus', monotone=None, *, quadratic=None, alpha=1e-05, max_iter=300, "
        "tol=1e-07, early_stopping=False, validation_fraction=0.1, n_iter_no_change=20, random_state=None)"
    ),
    "estimators.BrenierMap": (
        "(hidden=(32, 32), activation='softplus', *, alpha=1e-05, max_iter=100, tol=1e-10, early_stopping=False, "
        "validation_fraction=0.2, n_iter_no_change=20, random_state=None)"
    ),
    "estimators.BrenierMap.fit": "(self, X, y, source_weight=None, target_weight=None)",
    "zoo.mixer": (
        "(classes=10, variant='ordinary', *, in_channels=3, image=72, patch=9, width=128, layers=4, token_hidden=64, "
        "channel_hidden=128, drop_path=0.0, activation='elu', norm='batch', method='exponentiate', init='identity')"
    ),
    "zoo.cyclemlp_b1": (
        "(classes=10, variant='ordinary', *, in_channels=3, image=32, widths=(64, 128, 320, 512), depths=(2, 2, 4, 2), "
        "ratio=4, drop_path=0.0, activation='elu', norm='batch', method='exponentiate', init='identity')"
    ),
    "zoo.efficientnet_b0": (
        "(classes=10, variant='ordinary', *, in_channels=3, image=64, width=1.0, depth=1.0, dropout=0.2, "
        "drop_path=0.2, gate='sum', activation='elu', norm='batch', method='exponentiate', init='identity')"
    ),
    "to_cvxpy": "(model, variable, given=None, *, wrt=-1)",
    "to_lp": "(model, domain, given=None, *, wrt=-1)",
    "Cone.attach": "(self, optimizer, *others)",
    "Cone.detach": "(self)",
    "Cone.project": "(self)",
    "Cone.violation": "(self)",
    "Certificate.require": "(self)",
    "Certificate.to_json": "(self)",
}

MEMBERS = {
    "Box": {"lo", "hi", "shape", "centre", "contains", "project", "fix", "hull"},
    "Solution": {
        *["x", "value", "lower_bound", "upper_bound", "gap", "converged", "status"],
        *["steps", "solver", "message", "multipliers"],
    },
    "Certificate": {"convex", "curvature", "scope", "findings", "outputs", "require", "to_json"},
    "Cone": {"attach", "detach", "parameters", "project", "violation"},
    "Counterexample": {"x", "y", "t", "violation"},
    "Finding": {"path", "source", "operator", "argument", "reason", "remedy"},
}

MODULES = ("energy", "ensembles", "estimators", "nn", "rl", "zoo")
PLANNED: list[str] = []

# Each room may import those on its right, itself, and nothing else of the package. Rooms are listed from the bottom up.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "learner": {"errors"},
    "arrays": set(),
    "choices": set(),
    "extras": set(),
    "domains": {"errors", "arrays"},
    "curvature": {"errors", "arrays", "domains"},
    "memory": {"errors", "domains", "curvature"},
    "constraints": {"errors", "choices", "arrays", "domains", "curvature", "memory"},
    "initialise": {"errors", "choices", "arrays", "domains", "curvature"},
    "nn": {"errors", "choices", "arrays", "domains", "curvature", "memory", "constraints", "initialise"},
    "differences": {"errors", "curvature"},
    "split": {"errors", "curvature", "memory", "differences"},
    "storage": {"errors", "curvature", "memory"},
    "training": {"errors", "learner", "curvature", "memory", "constraints"},
    "ensembles": {"errors", "learner", "arrays", "curvature", "memory", "constraints", "training"},
    "form": {"errors", "domains", "curvature", "extras"},
    "solve": {"errors", "choices", "arrays", "domains", "curvature", "memory", "extras", "form"},
    "energy": {"errors", "learner", "arrays", "domains", "curvature", "nn", "training", "solve"},
    "rl": {"errors", "learner", "extras", "domains", "curvature", "memory", "constraints", "nn", "training", "solve"},
    "export": {"errors", "arrays", "domains", "curvature", "memory", "extras", "form"},
    "conversion": {"errors", "choices", "arrays", "domains", "curvature", "memory", "constraints", "initialise", "nn"},
    "estimators": {"errors", "choices", "arrays", "extras", "curvature", "nn", "solve"},
    "zoo": {"errors", "choices", "arrays", "constraints", "nn", "conversion"},
}
SOLVE: dict[str, set[str]] = {
    "message": set(),
    "solution": set(),
    "rounding_errors": set(),
    "fingerprint": set(),
    "at_most": set(),
    "rollout": set(),
    "functions": {"rounding_errors"},
    "solvers": {"functions"},
    "lower_bounds": {"rounding_errors", "functions", "solvers"},
    "compiled": {"fingerprint", "functions"},
    "arguments": {"solution", "at_most", "solvers", "compiled"},
    "derivatives": {"functions", "solvers", "compiled", "arguments"},
    "active_start": {"solution", "functions", "solvers", "derivatives"},
    "enclosure": {"functions", "solvers", "lower_bounds"},
    "solver_functions": {"functions", "solvers", "lower_bounds", "compiled", "arguments"},
}
"""The same inside of `solve`, from the bottom up; from `search` on each may know all of it."""
SOLVE["search"] = {*SOLVE}
SOLVE["multipliers"] = {*SOLVE}
SOLVE["assemble_solution"] = {*SOLVE}
SOLVE["constrained"] = {*SOLVE}
SOLVE["single"] = {*SOLVE}
SOLVE["minimise"] = {*SOLVE}
SOLVE["operations"] = {*SOLVE}
SOLVE["minimiser"] = {*SOLVE}

LAB: dict[str, set[str]] = {
    "errors": set(),
    "atomic": set(),
    "data": set(),
    "models": {"errors", "data"},
    "training": {"atomic", "data", "models"},
    "runs": {"atomic", "data", "models", "training"},
    "reports": {"atomic", "data", "models", "runs"},
    "studies": {"data", "models", "training", "runs", "reports"},
    "demo": {"data", "models", "training", "runs", "reports", "studies"},
}
"""The same inside of `lab`; `cli` comes last and may know all of it."""
LAB["cli"] = {*LAB}

BELOW["__init__"] = {*BELOW}
BELOW["lab"] = {"", *BELOW} - {"__init__"}

EXTRAS = {
    "storage": {"safetensors"},
    "export": {"cvxpy", "scipy"},
    "estimators": {"scipy", "sklearn"},
    "rl": {"gymnasium", "mujoco"},
}
"""What a room of the library part may import where it is used, with an error that names the extra."""

OPTIONAL = [
    "safetensors",
    "sklearn",
    "matplotlib",
    "scipy",
    "cvxpy",
    "highspy",
    "gymnasium",
    "mujoco",
    "typer",
    "torchvision",
    "timm",
    "lightning",
    "filelock",
    "convexnet.lab",
]


def resolve(dotted: str) -> object:
    value: object = cx
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def bare(signature: inspect.Signature) -> str:
    """Names, kinds and defaults, without the annotations."""
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> list[str]:
    """Every module the file imports, with its full name; `from package import module` counts as the module."""
    found: list[str] = []
    package = ["convexnet", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" if base == "convexnet" else base for alias in node.names]
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS = frozenset(room(file) for file in SOURCES)


def named(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_names() -> None:
    assert sorted(cx.__all__) == PUBLIC
    assert cx.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_planned_names_are_absent() -> None:
    """A name appears with the thing itself, never before it."""
    assert [name for name in PLANNED if hasattr(cx, name)] == []


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    value = resolve(name)
    assert callable(value)
    assert bare(inspect.signature(value)) == SIGNATURES[name]


def sample(name: str) -> object:
    """An object of the public class, made the way a user gets it."""
    example = torch.zeros(2, 1)
    if name == "Box":
        return cx.Box(0, 1, shape=(1,))
    if name == "Solution":
        return cx.minimise(nn.Linear(1, 1), cx.Box(0, 1, shape=(1,)))
    if name == "Cone":
        return cx.constrain(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)), example)
    if name == "Counterexample":
        return cx.falsify(nn.Tanh(), example)
    certificate = cx.certify(nn.SiLU(), example)
    return certificate if name == "Certificate" else certificate.findings[0]


@pytest.mark.parametrize("name", MEMBERS)
def test_members(name: str) -> None:
    value = sample(name)
    assert isinstance(value, resolve(name))
    assert {member for member in MEMBERS[name] if not hasattr(value, member)} == set()


def test_errors() -> None:
    assert issubclass(cx.NotCertified, cx.ConvexNetError)
    assert issubclass(cx.NotTraceable, cx.ConvexNetError)
    assert not issubclass(cx.ConvexNetError, ValueError)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__" and name not in MODULES])
def test_docstrings_have_an_example(name: str) -> None:
    value = resolve(name)
    assert ">>> " in (inspect.getdoc(value) or ""), f"convexnet.{name} needs a docstring with a runnable example"
    if isinstance(value, type):
        for member, thing in vars(value).items():
            if not member.startswith("_") and (inspect.isfunction(thing) or isinstance(thing, property)):
                assert inspect.getdoc(thing), f"convexnet.{name}.{member} needs a docstring"


def test_import_needs_no_extra() -> None:
    code = f"import sys, convexnet; print([name for name in {OPTIONAL!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_core_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(requirement.split(">")[0] for requirement in project["dependencies"]) == [
        "numpy",
        "safetensors",
        "torch",
    ]


@pytest.mark.parametrize("file", sorted((PACKAGE / "solve").rglob("*.py")), ids=named)
def test_arrows_point_downwards_in_solve(file: Path) -> None:
    here = file.relative_to(PACKAGE / "solve").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    assert here in SOLVE, f"{here} needs its line in SOLVE: what may it know?"
    for module in imports(file):
        if module.startswith("convexnet.solve."):
            there = module.split(".")[2]
            assert there == here or there in SOLVE[here], f"{named(file)} imports {module}"


def modules_of_lab() -> dict[str, set[str]]:
    """Each file of `lab` by the name of its module, and the modules of `lab` that it imports anywhere."""
    found = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted((PACKAGE / "lab").rglob("*.py"))
    }
    known: dict[str, set[str]] = {}
    for name, file in found.items():
        known[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                known[name] |= {alias.name for alias in node.names if alias.name in found}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{named(file)} imports by dots"
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                known[name] |= {module if module in found else node.module or "" for module in whole} & {*found}
    return known


def test_arrows_point_downwards_in_lab() -> None:
    assert [set(above) - set(list(LAB)[:place]) for place, above in enumerate(LAB.values())] == [set()] * len(LAB)
    for name, known in modules_of_lab().items():
        here, *_ = [*name.split(".")[2:], ""]
        for module in known:
            there, *_ = [*module.split(".")[2:], ""]
            assert there == here or there in LAB[here], f"{name} imports {module}"


def test_no_circle_among_the_files_of_lab() -> None:
    """Imports inside of functions count too."""
    known = modules_of_lab()
    while free := {name for name, others in known.items() if not others - {name}}:
        known = {name: others - free for name, others in known.items() if name not in free}
    assert not known, f"a circle among {sorted(known)}"


@pytest.mark.parametrize("file", SOURCES, ids=named)
def test_arrows_point_downwards(file: Path) -> None:
    here = room(file)
    assert here in BELOW, f"the new room {here} needs its line in BELOW: what may it know?"
    for module in imports(file):
        top, _, rest = module.partition(".")
        if top == "convexnet":
            there = rest.split(".")[0]
            if there not in ROOMS:
                there = ""  # a name of the package's own table of contents
            assert there == here or there in BELOW[here], f"{named(file)} imports {module}"
        elif here != "lab":
            known = top in sys.stdlib_module_names or top in ("torch", "numpy") or top in EXTRAS.get(here, ())
            assert known, f"{named(file)} imports {module}; the library part needs torch and numpy alone"


@pytest.mark.parametrize("file", SOURCES, ids=named)
def test_length(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    reason = ast.get_docstring(ast.parse(text)) or ""
    lines = text.count("\n")
    allowed = lines <= 320 or any(line.startswith("Long because") for line in reason.splitlines())
    assert allowed, f"{lines} lines: split it, or give the reason in its docstring, in a line 'Long because ...'"
