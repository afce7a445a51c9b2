"""Certify input-convex networks of other packages: what is convex, and the first line that is not.

    pip install deepinv==0.5.0 torch-mice==0.5.0 neuromancer==1.5.6 cpflows==0.1.2
    python examples/in_the_wild.py

Packages that are not installed are skipped. Each network is as its constructor leaves it, on inputs of a small shape;
`certify` proves or names an operator, `falsify` looks for a chord below the function. What it prints is on the page
"In the wild" of the documentation. Newer versions of the packages may give other results.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx


@dataclass(frozen=True)
class Case:
    """One network of a package.

    Attributes:
        package: its name on the package index.
        version: that the recorded result was obtained with.
        module: that is imported.
        name: of the class, and how it is built.
        make: from the imported module to the network.
        shape: of one sample of each input.
        wrt: the input in which it is meant to be convex.
    """

    package: str
    version: str
    module: str
    name: str
    make: Callable[[Any], nn.Module]
    shape: tuple[tuple[int, ...], ...]
    wrt: int = 0


def clipped(network: nn.Module) -> nn.Module:
    """Return deepinv's network with its own clipping done, so that the forward need not write to its weights."""
    network.zero_clip_weights()  # pyright: ignore[reportCallIssue]
    return network


CASES = (
    Case("cpflows", "0.1.2", "cpflows.icnn", "ICNN(4, 16, 3)", lambda m: m.ICNN(4, 16, 3), ((4,),)),
    Case("cpflows", "0.1.2", "cpflows.icnn", "LseICNN(4, 16)", lambda m: m.LseICNN(4, 16), ((4,),)),
    Case("cpflows", "0.1.2", "cpflows.icnn", "DenseICNN2(4, 16, 3)", lambda m: m.DenseICNN2(4, 16, 3), ((4,),)),
    Case(
        *("neuromancer", "1.5.6", "neuromancer.modules.blocks", "InputConvexNN(4, 1, hsizes=[16, 16])"),
        lambda m: m.InputConvexNN(4, 1, hsizes=[16, 16]),
        ((4,),),
    ),
    Case(
        *("neuromancer", "1.5.6", "neuromancer.modules.blocks", "InputConvexNN(4, 1, hsizes=[16, 16], nonlin=Tanh)"),
        lambda m: m.InputConvexNN(4, 1, hsizes=[16, 16], nonlin=nn.Tanh),
        ((4,),),
    ),
    Case("torch-mice", "0.5.0", "torch_mice", "ConvexGate(4, 3)", lambda m: m.ConvexGate(4, 3), ((4,),)),
    Case("torch-mice", "0.5.0", "torch_mice", "VectorHull(4, 3)", lambda m: m.VectorHull(4, 3), ((2, 4),)),
    Case(
        *("deepinv", "0.5.0", "deepinv.models.icnn", "ICNN(1, 4, 3, 2)"),
        lambda m: m.ICNN(1, 4, 3, 2),
        ((1, 8, 8),),
    ),
    Case(
        *("deepinv", "0.5.0", "deepinv.models.icnn", "ICNN(1, 4, 3, 2, pos_weights=False), clipped once"),
        lambda m: clipped(m.ICNN(1, 4, 3, 2, pos_weights=False)),
        ((1, 8, 8),),
    ),
)


def main() -> None:
    """Certify every network whose package is installed."""
    missing: dict[str, str] = {}
    for case in CASES:
        if case.package in missing:
            continue
        try:
            installed = metadata.version(case.package)
        except metadata.PackageNotFoundError:
            missing[case.package] = "it is not installed"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(case.module)
        except ImportError as error:
            missing[case.package] = f"it cannot be imported ({error})"
            continue
        other = "" if installed == case.version else f" (the recorded result is that of {case.version})"
        print(f"{case.package} {installed}{other}: {case.name}")
        print(f"  {verdict(case, module)}\n")
    for package, reason in missing.items():
        print(f"{package} was skipped: {reason}.")


def verdict(case: Case, module: Any) -> str:
    """Certify one network, and return what was found in a few lines."""
    torch.manual_seed(0)
    network = case.make(module).eval()
    example: tuple[Tensor, ...] = tuple(torch.randn(4, *shape) for shape in case.shape)
    with torch.no_grad():
        network(*example)  # some layers take their scales from the first batch
    try:
        certificate = cx.certify(network, example, wrt=case.wrt)
    except cx.NotTraceable as error:
        # The first line is torch's own reason; those after it say where, and what to do.
        first, *rest = (line.strip() for line in str(error).splitlines())
        return "\n  ".join(["NOT TRACEABLE", *(rest or [first])])
    if certificate.convex:
        return certificate.headline()
    finding = certificate.findings[0]
    where = " ".join(part for part in (finding.path, finding.source) if part)
    lines = [certificate.headline(), f"{where}: {finding.operator}: {finding.reason}"]
    found = cx.falsify(network, example, wrt=case.wrt, budget=20_000)
    if found is not None:
        lines.append(f"a chord lies below the function by {found.violation:.3g}: it is not convex")
    return "\n  ".join(lines)


if __name__ == "__main__":
    main()
