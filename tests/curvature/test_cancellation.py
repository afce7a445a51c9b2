"""What cancels is constant in exact arithmetic only: nothing may need its sign, or which side of a number it is on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.curvature.table import TABLE
from convexnet.domains import Box

REFUSED = (
    # poles, logarithms and roots of rounding noise
    "1/((x+0.)-x)", "1/((x+torch.tensor([0.,1.]))-x)", "1/((x+1e-17)-x)", "1/(x-x)", "x/((x+1)-x)", "1/(x*x-x*x)",
    "1/((x+1)*(x+1)-x*x-2*x-1)", "(((x+1)-x)-1).sqrt()", "((x+1)-x).log()", "(x-x).rsqrt()", "(x-x)**-2",
    "((x+1)-x-1)**0.3", "torch.special.entr((x+1)-x-1)", "torch.log1p(((x+1)-x)-2)",
    "torch.addcdiv(x,torch.ones(2),x-x)",
    "(x.exp().log()-x).sqrt()", "((x+1e17)-1e17).clamp(1,2).log()*((x+1e17)-1e17).log()", "torch.xlogy(x-x,(x+1)-x-1)",
    # comparisons that noise decides
    "torch.where((x+1)-x>1,x,-x)", "((x+1)-x-1).sign()*x.abs()", "((x+1)-x-1).floor()",
    "torch.where(1e-20*x+1>1,x,0*x)",
    "torch.where(1e-20*x+1>1e-20*x.flip(1)+1,x,x.flip(1))", "torch.where((x*0+1e16+1)-1e16>0,x,-x)",
    "torch.where((x-x).abs()>=0,x,-x)*torch.sign((x+1)-x-1)", "((x+1)-x)*x*x",
    # zeros of either sign
    "torch.copysign(torch.ones(2),0*x)*x", "torch.signbit(0*x).to(x)*x", "torch.atan2(0*x,-torch.ones(2))", "1/(0*x)",
    "(0*x).digamma().sigmoid()", "torch.pow(0*x,torch.tensor([-1.,-1.])).sigmoid()",
    "torch.float_power(0*x,-1).sigmoid()",
    "torch.addcdiv(torch.ones(2),torch.ones(2),0*x).sigmoid()", "(1/(x*torch.tensor([0.,1.]))).sigmoid()[:,:1]",
    "torch.special.polygamma(1,0*x).sigmoid()", "(1/torch.einsum('bi,ij->bj',x,torch.zeros(2,2))).sigmoid()",
    "0*torch.xlogy(x,x.relu())",
)  # fmt: skip
CERTIFIED = (
    "(x+1)-x", "((x+1)-x)*3", "((x+1)-x-1)*torch.tensor([2.,-1.])+x", "(x-x)+x*x", "((x+1)-x).relu()", "x*x*3-x*x",
    "(3*x-x).exp()", "(3*x.exp()-x.exp()).log()", "x*(x-1)+x", "(x+1)*(x-1)+1", "x.exp()-1-x+x", "0*x+x.abs()",
    "torch.where(x>0,x,0*x)", "torch.where(x-1>0,x-1,0*x)", "torch.where(3*x-1>0,3*x-1,0*x).square()",
    "torch.where(x.abs()<=1,0.5*x*x,x.abs()-.5)", "(x-x.clamp(-1,1)).abs()", "(x-x.clamp(-1,1)).square()",
    "(x-x.clamp(-.3,.3))*torch.sign(x-x.clamp(-.3,.3))", "torch.where((x-1).abs()>1,(x-1).abs()-1,0*x)",
    "torch.where((x-1)**2>0,(x-1)**2,0*x)", "(3*x-1)*torch.sign(3*x-1)", "torch.where(3*x-.9>0,3*x-.9,0*x).square()",
    "torch.where((x+.1)-.1>0,x,0*x)", "torch.where(x*x>1,x*x,torch.ones(2))", "torch.where(x>=x.flip(1),x,x.flip(1))",
    "torch.where(0.1*x-0.1*x.flip(1)>0,x,x.flip(1))", "torch.where(x.relu()>0.5,x.relu()-.5,0*x)",
    "x+x.relu().sqrt()*0",
    "(x-x.amax(1,keepdim=True)).logsumexp(1,keepdim=True)+x.amax(1,keepdim=True)", "(0*x).sigmoid()*x.abs()",
)  # fmt: skip


class All(nn.Module):
    """A forward with one output for each expression, so that one trace is enough for all."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        super().__init__()
        self.parts = [eval(f"lambda x: {source}", {"torch": torch, "F": F}) for source in sources]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part(x) for part in self.parts]


def curvatures(sources: tuple[str, ...], domain: Box | None = None) -> dict[str, str]:
    found = cx.certify(All(sources), torch.full((2, 2), 0.75 if domain is None else -0.75), domain=domain).outputs
    assert len(found) == len(sources)
    return dict(zip(sources, found.values(), strict=True))


def test_functions_that_mind_what_cancels_are_refused() -> None:
    found = curvatures(REFUSED)
    assert {source: what for source, what in found.items() if what != "unknown"} == {}


def test_sums_and_differences_that_cancel_stay_certified() -> None:
    found = curvatures(CERTIFIED)
    assert {s: what for s, what in found.items() if what not in ("constant", "affine", "convex")} == {}


def test_what_cancels_is_affine_and_not_constant() -> None:
    assert curvatures(("torch.where(x>0,(x+1)-x,torch.ones(2))+0*x", "(x+1)-x")) == dict.fromkeys(
        ("torch.where(x>0,(x+1)-x,torch.ones(2))+0*x", "(x+1)-x"), "affine"
    )


def test_a_pole_at_the_edge_of_a_box_where_the_zero_may_be_negative() -> None:
    at_edge = ("torch.relu(torch.rsqrt(-x))", "(-x)**-0.5", "torch.relu((x*-1)**-1.5)", "torch.relu(1/(-x))")
    inside = ("torch.relu(torch.rsqrt(1-x))", "(0.5-x)**-0.5", "(1-x).reciprocal()")
    found = curvatures(at_edge + inside, Box(-2.0, 0.0, shape=(2,)))
    assert {source: found[source] for source in at_edge} == dict.fromkeys(at_edge, "unknown")
    assert {source: found[source] for source in inside} == dict.fromkeys(inside, "convex")


def neighbour(name: str) -> Any:
    """A module beside this file, which pytest's import mode does not put on the path."""
    spec = importlib.util.spec_from_file_location(f"convexnet_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


ZEROS = torch.tensor([0.0, -0.0], dtype=torch.float64)
POLES = {"reciprocal", "rsqrt", "pow", "div", "addcdiv"}
"""Whose rules see to the sign of a zero."""


def tells_zeros_apart(name: str) -> bool | None:
    """Whether an operator of one number makes different numbers of 0 and -0; None: it is no such operator."""
    operator = getattr(getattr(torch.ops.aten, name), "default", None)
    if operator is None or len(operator._schema.arguments) != 1 or TABLE[name].kind.is_move:
        return None
    try:
        a, b = operator(ZEROS)
    except (RuntimeError, TypeError, ValueError):
        return None
    return None if a.ndim else not (bool(a == b) or bool(a.isnan() & b.isnan()))


def test_rows_say_which_functions_tell_the_two_zeros_apart() -> None:
    found = {name: told for name in TABLE if (told := tells_zeros_apart(name)) is not None}
    assert len(found) > 40
    assert {name for name, told in found.items() if told != (TABLE[name].minds_zero or name in POLES)} == set()


def test_forwards_with_holes_survive() -> None:
    holes = neighbour("fuzz_holes")
    found = [holes.look(seed) for seed in range(30_000, 30_040)]
    assert [one.wrong for one in found if one.wrong] == []
    assert {one.verdict for one in found} >= {"refused", "certified"}
