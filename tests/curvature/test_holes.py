"""Where functions are not defined: holes in the midst of a domain, gaps in constants, and what makes a number of NaN.

`fuzz_holes` draws such forwards; here are those that it found, with their relatives.
"""

from __future__ import annotations

import math

import pytest

from convexnet.curvature.table import TABLE
from tests.curvature.fuzz_holes import examine
from tests.curvature.test_rows import at, cases, moving_in


def test_every_other_operator_hands_nan_on(seed: int) -> None:
    """What changes with an element of an argument is NaN where that is, or the row says that the operator forgives."""
    forgiving: set[str] = set()
    for name, row in TABLE.items():
        for drawn in cases(name, row, seed):
            moving = moving_in([*drawn.sample.args, drawn.sample.kwargs])
            for key in (key for key in moving if key not in at(drawn.sample, row.shape_only)):
                held, results = drawn.held[key], drawn.run()
                for place in range(min(held.numel(), 3)):
                    for amount in (-7.1, 7.1):
                        bad, other = held.clone(), held.clone()
                        bad.view(-1)[place], other.view(-1)[place] = math.nan, held.view(-1)[place] + amount
                        try:
                            pairs = zip(results, drawn.run({key: bad}), drawn.run({key: other}), strict=True)
                        except RuntimeError:  # a matrix with NaN has no eigenvalues
                            continue
                        if any(bool(((a != c) & ~b.isnan()).any()) for a, b, c in pairs if a.is_floating_point()):
                            forgiving.add(name)
    # cdist of order infinity is refused by its rule; of a matrix, one triangle is read
    left_out = {"cdist", "linalg_eigh", "linalg_eigvalsh"}
    assert forgiving - left_out <= {name for name, row in TABLE.items() if row.forgives}
    assert {"sort", "topk", "msort", "multi_margin_loss", "fmax", "sign"} - {"sign"} <= forgiving


GAPS = (
    "(x+1)*(U>3)", "(x+1)*(U==U)", "(x+1)*torch.isnan(U)", "(x+1)*U.long()", "(x+1)*U.sign()", "(x+1)*U.nan_to_num()",
    "torch.fmax(U,x*0-9)", "(x+1)*U.argmax(1,keepdim=True)", "(x+1)*U.sort(1)[1]", "x.gather(1,(U>3).long())",
    "(x+1)*torch.heaviside(U,torch.ones(2))", "(x+1)*torch.copysign(torch.ones(2),U)", "(x+1)*torch.cummax(U,1)[1]",
    "(x+1)*torch.linalg.vector_norm(U,0,dim=1,keepdim=True)", "(x+1)*U.nansum(1,keepdim=True)",
    "(x+1)*torch.bucketize(U,torch.tensor([1.,2.]))", "(U+torch.tensor([-9.,3.])).topk(1,1,largest=False)[0]",
    "-(U+torch.tensor([9.,3.])).sort(1)[0][:,:1]", "torch.cat([x,U-9],1).sort(1)[0][:,:2]",
    "torch.cdist(U.unsqueeze(1),torch.zeros(1,2),p=float('inf')).squeeze(1)",
    "F.multi_margin_loss(U,torch.zeros(x.shape[0],dtype=torch.long),reduction='none').unsqueeze(1)",
    "x+U.max(1)[1].unsqueeze(1)", "torch.where(U>3,x+1,x-1)",
)  # fmt: skip


@pytest.mark.parametrize("source", GAPS)
def test_what_is_constant_but_for_gaps_is_no_constant_for_what_forgives(source: str) -> None:
    """0 log(x) + 5 is 5, and NaN at zero: what makes a number of NaN jumps there."""
    found = examine(f"({source.replace('U', '(0*x.log()+5)')}).sum(1,keepdim=True)", (0.0, 2.0))
    assert found.verdict == "refused", found


@pytest.mark.parametrize("source", [
    "x+torch.where((0*x.exp()+5)>3,x,2*x)", "x.log().cummin(1)[0]", "x*torch.sign(x.exp().sqrt()*0+5)",
    "torch.topk(x.exp(),1)[0]", "x.sort(1)[0][:,1:]+(0*x.log()+5)", "(x+1)*(0*x.log()+5).zero_().sign()",
])  # fmt: skip
def test_what_is_defined_or_hands_nan_on_is_certified(source: str) -> None:
    assert examine(f"({source}).sum(1,keepdim=True)", (0.0, 2.0)).verdict == "certified"


MADE = ("F.normalize({},eps=0.0)", "F.normalize({},p=1.0,eps=0.0)", "F.rms_norm({},(2,),eps=0.0)*0",
        "{}/{}.abs().sum(1,keepdim=True)", "0*({}/{}.amax(1,keepdim=True))")  # fmt: skip
HOLES_IN_REDUCTIONS = (
    "(x.scatter(1,torch.zeros(x.shape[0],1,dtype=torch.long),U[:,:1])).norm(dim=1,keepdim=True)", "U[:,:1].norm(dim=1)",
    "F.mse_loss(U[:,:1],x[:,1:],reduction='none')", "F.pairwise_distance(x*0,U[:,:1],eps=0.0).unsqueeze(1)",
    "torch.stack([x,U[:,:1].expand(-1,2)],2).norm(dim=2)", "U[:,:1].norm(p=1,dim=1,keepdim=True)",
    "torch.cdist(U[:,:1].unsqueeze(1),torch.zeros(1,1)).squeeze(1)", "torch.stack([x,U[:,:1].expand(-1,2)],2).amax(2)",
    "F.l1_loss(U[:,:1],x[:,1:]*0,reduction='none')", "torch.linalg.vector_norm(U[:,:1],torch.inf,dim=1,keepdim=True)",
)  # fmt: skip


@pytest.mark.parametrize(("source", "made"), [(s, MADE[i % len(MADE)]) for i, s in enumerate(HOLES_IN_REDUCTIONS)])
def test_holes_stay_where_bounds_say_that_nothing_moves(source: str, made: str) -> None:
    """What is 0 where it is defined moves no norm, and is NaN where x is 0."""
    hole = made.replace("{}", "(x*torch.tensor([0.,1.]))")
    last = f"x*x+({source.replace('U', f'({hole})')}).reshape(x.shape[0],-1).sum(1,keepdim=True)"
    found = examine(f"({last}).amax(1,keepdim=True)", (-3.0, 3.0))
    assert found.verdict == "refused", found


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("spread", ["x.var(1,keepdim=True,correction=2)", "torch.std(x,1,keepdim=True,correction=3)",
                                    "x[:,:1].var(1,keepdim=True)", "torch.var_mean(x,1,keepdim=True,correction=2)[0]",
                                    "torch.std_mean(x[:,1:],1,keepdim=True)[0]"])  # fmt: skip
def test_a_variance_without_degrees_of_freedom_is_refused(spread: str) -> None:
    """It is infinite, and NaN where all elements are equal."""
    assert examine(f"torch.clamp({spread},0,0)", (-1.0, 1.0)).verdict == "refused"
    fine = spread.replace("correction=2", "correction=1").replace("correction=3", "correction=0")
    fine = fine.replace("x[:,:1].var(1,keepdim=True)", "x.var(1,keepdim=True)").replace("x[:,1:]", "x")
    assert examine(fine, (-1.0, 1.0)).verdict == "certified"
