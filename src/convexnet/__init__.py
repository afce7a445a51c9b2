"""convexnet: convex neural networks in PyTorch, with a proof.

The names below are imported when they are first used, so that `import convexnet` and the command line's help need not
wait for PyTorch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convexnet import energy, ensembles, estimators, nn, rl, zoo
    from convexnet.constraints import Cone, constrain
    from convexnet.conversion import Change, bake, changes, convexify
    from convexnet.curvature import Certificate, Finding, certify
    from convexnet.curvature.adversary.falsify import Counterexample, falsify
    from convexnet.domains import Ball, Box, Cube, Free, Orthant, Polyhedron, Product, Simplex
    from convexnet.errors import ConvexNetError, NotCertified, NotTraceable
    from convexnet.export import to_cvxpy, to_lp
    from convexnet.solve import Minimiser, Solution, at_most, conjugate, impute, maximise, minimise, prox, rollout
    from convexnet.split import split
    from convexnet.storage import load, save

__version__ = "0.1.0"

__all__ = [
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

_HOMES = {
    "Ball": "domains",
    "Box": "domains",
    "Certificate": "curvature",
    "Change": "conversion",
    "Cone": "constraints",
    "ConvexNetError": "errors",
    "Counterexample": "curvature.adversary.falsify",
    "Cube": "domains",
    "Finding": "curvature",
    "Free": "domains",
    "Minimiser": "solve",
    "NotCertified": "errors",
    "NotTraceable": "errors",
    "Orthant": "domains",
    "Polyhedron": "domains",
    "Product": "domains",
    "Simplex": "domains",
    "Solution": "solve",
    "at_most": "solve",
    "bake": "conversion",
    "certify": "curvature",
    "changes": "conversion",
    "conjugate": "solve",
    "constrain": "constraints",
    "convexify": "conversion",
    "falsify": "curvature.adversary.falsify",
    "impute": "solve",
    "load": "storage",
    "maximise": "solve",
    "minimise": "solve",
    "prox": "solve",
    "rollout": "solve",
    "save": "storage",
    "split": "split",
    "to_cvxpy": "export",
    "to_lp": "export",
}
"""Where a name comes from."""

_ROOMS = ("energy", "ensembles", "estimators", "nn", "rl", "zoo")
"""Modules that are names of the package themselves."""


class _Package(ModuleType):
    """The package, with names that come when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"convexnet.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'convexnet' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"convexnet.{_HOMES[name]}"), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule to its package, and the function `split` has the name of its module.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *__all__})


sys.modules[__name__].__class__ = _Package
