"""Forwards with functions that are not defined everywhere: what is certified of them must hold on every chord.

A quantity goes into a function with a hole or a pole (a quotient, a logarithm, a root), the result through up to three
operators that may hide where it is undefined (zero times it, a maximum, a mask, a sum), and that gives one number. On a
chord of a certified function between two points at which it is a number there is no NaN. Expressions are written as in
a forward, so that a violation can be tried at once; `x` is the input, of shape (batch, 2), and {} what was made before.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx

BEFORE = (
    "x", "-x", "x+0.5", "x*x", "x.relu()", "2*x-1", "x.abs()", "x.exp()-1", "x*x-0.25", "x[:,:1].expand(-1,2)",
    "x.flip(1)", "x.cumsum(1)", "x-x.mean(1,keepdim=True)",
    # what cancels, and zeros of either sign
    "(x+1)-x", "(x+1)-x-1", "x-x", "0*x", "3*x-2*x-x", "(x+torch.tensor([0.,1e-17]))-x", "x*torch.tensor([0.,1.])",
)  # fmt: skip
HOLES = (
    "1/({})", "({}).log()", "({}).sqrt()", "({}).tan()", "({}).rsqrt()", "x/({})", "({}).log1p()", "({}).asin()",
    "({})**-1", "({})**-2", "({})**1.5", "({})**0.3", "({}).lgamma()", "({}).digamma()", "({}).acosh()",
    "({}).reciprocal()", "torch.logit({})", "({})/({}).abs()", "({}).atanh()", "({}).log2()", "torch.special.entr({})",
    "torch.xlogy({},x)", "torch.xlogy(x,{})", "x.remainder({})", "x.fmod({})", "torch.addcdiv(x,x,{})", "({})/({})",
    "torch.pow({},x)", "torch.pow(x,{})", "torch.special.erfinv({})", "F.normalize({},eps=0.0)",
    "torch.linalg.vector_norm({},-1,dim=1,keepdim=True).expand(-1,2)",
    "(({}).square().sum(1,keepdim=True).sqrt()/x.sum(1,keepdim=True)).expand(-1,2)",
    "torch.linalg.inv(torch.diag_embed({})).diagonal(dim1=1,dim2=2)",
    "torch.logdet(torch.diag_embed({})).unsqueeze(1).expand(-1,2)", "({}).log10()", "(({})*1e400)",
    "torch.special.xlog1py(x,{})", "torch.linalg.solve(torch.diag_embed({}),x.unsqueeze(2)).squeeze(2)",
    "torch.var({}/x,1,keepdim=True).expand(-1,2)", "torch.copysign(x,1/({}))", "torch.copysign(x,{})",
    "F.normalize({},p=1.0,eps=0.0)", "F.layer_norm({},(2,),eps=0.0)", "F.rms_norm({},(2,),eps=0.0)",
    "F.cosine_similarity({},torch.ones(2),dim=1,eps=0.0).unsqueeze(1).expand(-1,2)",
    "({})/({}).abs().sum(1,keepdim=True)", "({})/({}).amax(1,keepdim=True)", "(0*({}).log()+5)",
    "torch.var({},1,keepdim=True,correction=2).expand(-1,2)",
    "torch.atan2({},x)", "torch.where({}>0,x,-x)", "torch.where({}>=1,x,x.abs())",
)  # fmt: skip
AFTER = (
    # times zero
    "0*({})", "({})*0.0", "({})*torch.tensor([0.0,1.0])", "({}).mean(1,keepdim=True)*torch.zeros(2)",
    "({})@torch.zeros(2,2)", "({})@torch.tensor([[1.,0.],[0.,0.]])", "F.linear({},torch.zeros(2,2),torch.ones(2))",
    "F.linear({},torch.tensor([[0.,0.],[1.,1.]]))", "torch.einsum('bi,ij->bj',{},torch.zeros(2,2))",
    "torch.bmm(({}).unsqueeze(1),torch.zeros(1,2,2).expand(x.shape[0],2,2)).squeeze(1)",
    "torch.cat([{},x],1)@torch.tensor([[0.,0.],[0.,0.],[1.,0.],[0.,1.]])", "({}).sort(1)[0]@torch.zeros(2,2)",
    "({}).topk(2,1)[0].sum(1,keepdim=True)*torch.zeros(2)", "torch.lerp(x,{},0.0)", "torch.lerp({},x,1.0)",
    "torch.add(x,{},alpha=0)", "torch.sub(x,{},alpha=0)", "torch.addmm(x,{},torch.zeros(2,2))",
    "torch.addmm(x,{},torch.zeros(2,2),beta=1,alpha=0)", "torch.addmm({},x,torch.ones(2,2),beta=0)",
    "torch.addcmul(x,{},torch.zeros(2))", "torch.addcmul(x,{},x,value=0)",
    "torch.addcdiv(x,{},torch.ones(2),value=0.0)",
    "F.conv1d(({}).unsqueeze(1),torch.zeros(1,1,1)).squeeze(1)", "({}).floor()*0", "({}).round()*0", "({})//1*0",
    "F.batch_norm({},torch.zeros(2),torch.ones(2),torch.zeros(2),torch.ones(2))",
    "F.avg_pool1d(({}).unsqueeze(1),2).squeeze(1)*torch.zeros(2)", "F.mse_loss({},x,reduction='none')*0",
    "F.smooth_l1_loss({},x,reduction='none')*0", "torch.outer(x[:,0],torch.ones(2))+({})*0",
    "(({})*({})).sum(1,keepdim=True).expand(-1,2)*0", "({}).square().mean(1,keepdim=True).expand(-1,2)*0",
    "({}).norm(dim=1,keepdim=True)*torch.zeros(2)", "({}).std(1,keepdim=True)*torch.zeros(2)",
    "torch.diag_embed({}).sum(1)*0", "({}).long().to(x)*0", "torch.renorm({},2,0,1.0)*0",
    "torch.baddbmm(x.unsqueeze(1),({}).unsqueeze(1),torch.zeros(1,2,2).expand(x.shape[0],2,2)).squeeze(1)",
    "torch.linalg.matrix_norm(torch.diag_embed({}),dim=(1,2)).unsqueeze(1)*torch.zeros(2)",
    "torch.diag_embed({}).diagonal(dim1=1,dim2=2).sum(1,keepdim=True)*torch.zeros(2)",
    "x.scatter_add(1,torch.zeros(x.shape[0],1,dtype=torch.long),({})[:,:1]*0)",
    "x.index_add(1,torch.tensor([0]),({})[:,:1],alpha=0)",
    # divided by it
    "1/({})", "({})/({})", "torch.addcdiv(x,torch.zeros(2),{})", "torch.zeros(2)/({})", "0/({})",
    # cut off, and chosen
    "({}).clamp(0,0)", "({}).clamp(max=0)", "({}).clamp(min=0)", "({}).clamp(-1,1)", "({}).relu()", "-(({}).relu())",
    "({}).sign()", "({}).nan_to_num()", "torch.where(x>0,{},torch.zeros_like(x))", "torch.where(x>0.5,{},x)",
    "torch.where({}>0,x,x)", "torch.where({}>0,x,x.abs())", "(({})>0).double()", "(({})>0).to(x)*x",
    "({}).isnan().to(x)", "({}).isfinite().to(x)*x", "torch.maximum({},x)", "torch.minimum({},x)",
    "torch.maximum({},torch.zeros_like(x))", "torch.fmax({},x)", "torch.fmin({},x)", "({}).masked_fill(x<=0,0.0)",
    "({}).masked_fill(torch.tensor([True,False]),0.0)", "x.masked_scatter(x>5,{})",
    "({}).clip(torch.zeros(2),torch.zeros(2))", "({}).int()*x", "({}).argmax(1,keepdim=True)*x",
    "torch.heaviside({},torch.zeros(1))", "torch.copysign(torch.ones_like(x),{})", "torch.signbit({}).to(x)*x",
    # moved
    "({}).detach()", "torch.cat([{},x],1)[:,1:3]", "F.pad({},(1,0))[:,:2]", "F.pad({},(1,-1))", "({}).flip(1)",
    "({}).gather(1,torch.zeros(x.shape[0],2,dtype=torch.long))", "({}).index_select(1,torch.tensor([1,1]))",
    "torch.tril(({}).unsqueeze(1)).squeeze(1)", "torch.diagonal(torch.diag_embed({}),dim1=1,dim2=2)",
    "torch.zeros_like({})", "x.clone().copy_({})", "({}).index_fill(1,torch.tensor([0]),0.0)",
    "x.index_copy(1,torch.tensor([0]),({})[:,:1])",
    "x.scatter(1,torch.zeros(x.shape[0],1,dtype=torch.long),({})[:,:1])",
    "({}).roll(1,1)", "({}).to(torch.float32).to(x)", "F.dropout({},0.0,False)", "F.dropout({},1.0,True)",
    # over dimensions
    "({}).sum(1,keepdim=True).expand(-1,2)", "({}).amax(1,keepdim=True).expand(-1,2)",
    "({}).amin(1,keepdim=True).expand(-1,2)", "({}).logsumexp(1,keepdim=True).expand(-1,2)", "({}).cumsum(1)",
    "({}).cummax(1)[0]", "({}).cumprod(1)", "({}).logcumsumexp(1)", "({}).sort(1)[0]",
    "({}).topk(1,1)[0].expand(-1,2)",
    "({}).topk(1,1,largest=False)[0].expand(-1,2)", "({}).softmax(1)",
    "({}).softmax(1).sum(1,keepdim=True).expand(-1,2)",
    "({}).log_softmax(1)", "F.layer_norm({},(2,))", "F.layer_norm({},(2,),torch.zeros(2),torch.ones(2))",
    "({}).norm(dim=1,keepdim=True).expand(-1,2)", "torch.linalg.vector_norm({},0,dim=1,keepdim=True).expand(-1,2)",
    "torch.linalg.vector_norm({},torch.inf,dim=1,keepdim=True).expand(-1,2)", "({}).prod(1,keepdim=True).expand(-1,2)",
    "({}).square().sum(1,keepdim=True).expand(-1,2)", "F.max_pool1d(({}).unsqueeze(1),2).squeeze(1).expand(-1,2)",
    "({}).var(1,keepdim=True).expand(-1,2)", "({}).nanmean(1,keepdim=True).expand(-1,2)",
    "({}).nansum(1,keepdim=True).expand(-1,2)", "({}).median(1,keepdim=True)[0].expand(-1,2)",
    "({}).max(1,keepdim=True)[0]-({}).max(1,keepdim=True)[0]+x",
    # one by one
    "({})-({})", "({})**0", "({})**2", "({}).exp()", "(-({})).exp()", "(-({}).square()).exp()", "({}).tanh()",
    "({}).sigmoid()", "({}).atan()", "({}).abs()", "F.softplus({})", "F.elu({})", "F.hardtanh({})",
    "F.threshold({},0.0,0.0)", "F.hardshrink({})", "F.leaky_relu({},0.0)", "F.relu6({})", "torch.hypot({},x)",
    "(x+1)*(({})>3)", "(x+1)*(({})==({}))", "(x+1)*({}).isnan()", "(x+1)*({}).sign()", "(x+1)*({}).nan_to_num()",
    "(x+1)*({}).argmax(1,keepdim=True)", "torch.fmax({},x*0-9)", "x.gather(1,(({})>3).long())", "torch.clamp({},0,0)",
    "(({})+torch.tensor([-9.,3.])).topk(1,1,largest=False)[0].expand(-1,2)", "torch.stack([x,{}],2).norm(dim=2)",
    "F.multi_margin_loss({},torch.zeros(x.shape[0],dtype=torch.long),reduction='none').unsqueeze(1).expand(-1,2)",
    "torch.cdist(({}).unsqueeze(1),torch.zeros(1,2),p=float('inf')).squeeze(1).expand(-1,2)",
    "F.pairwise_distance({},torch.zeros(2),eps=0.0).unsqueeze(1).expand(-1,2)", "F.l1_loss({},x,reduction='none')",
    "torch.logaddexp({},x)", "F.huber_loss({},x,reduction='none')",
)  # fmt: skip
LAST = (
    "({}).sum(1,keepdim=True)", "({})[:,:1]", "({})[:,1:]", "(({})+x*x).sum(1,keepdim=True)",
    "(x*x+({})).amax(1,keepdim=True)", "((x*x+0*({}))).sum(1,keepdim=True)",
    "(({})+x.abs()).logsumexp(1,keepdim=True)", "({}).relu().sum(1,keepdim=True)", "({}).sum(1,keepdim=True).exp()",
    "-({}).sum(1,keepdim=True)", "({})@torch.ones(2,1)", "({}).square().sum(1,keepdim=True)",
    "({}).norm(dim=1,keepdim=True)",
)  # fmt: skip
RANGES = (None, (-1.0, 1.0), (0.5, 2.0), (0.0, 2.0), (-2.0, 0.0), (-3.0, 3.0))
WIDE = (-4.0, 4.0)
"""Where points are drawn without a box."""
CHORDS = 4000
ROOM = 1e-6
"""Tolerance, relative to the values on a chord."""


@dataclass(frozen=True)
class Found:
    """What became of an expression: a word, and what is wrong with it."""

    verdict: str
    wrong: str = ""


class Written(nn.Module):
    """A forward that is written out."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.run: Callable[[Tensor], Tensor] = eval(f"lambda x: {source}", {"torch": torch, "F": F})

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def written(seed: int) -> tuple[str, tuple[float, float] | None]:
    """An expression, and the range of its input."""
    rng = random.Random(f"holes {seed}")
    found = rng.choice(HOLES).replace("{}", rng.choice(BEFORE))
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
        found = rng.choice(AFTER if rng.random() < 0.9 else HOLES).replace("{}", found)
    return rng.choice(LAST).replace("{}", found), rng.choice(RANGES)


def points(within: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Points of a range, more than half of them with coordinates that are sixteenths of it: holes are at such."""
    low, high = within
    anywhere = torch.rand(CHORDS, 2, generator=generator, dtype=torch.float64)
    grid = torch.randint(0, 17, (CHORDS, 2), generator=generator) / 16.0
    some = torch.rand(CHORDS, 1, generator=generator) < 0.3
    return torch.where(some, anywhere, grid) * (high - low) + low


def look(seed: int) -> Found:
    """Certify an expression, and contradict the certificate on chords."""
    return examine(*written(seed), seed)


def examine(source: str, within: tuple[float, float] | None, seed: int = 0) -> Found:
    """The same of one that is given."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for the numbers that forwards make
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that a variance has no degrees of freedom
            return held_against(source, within, seed)
    finally:
        torch.set_default_dtype(before)


def held_against(source: str, within: tuple[float, float] | None, seed: int) -> Found:
    model = Written(source)
    try:
        if model(torch.rand(3, 2)).shape != (3, 1):
            return Found("none")
    except (RuntimeError, TypeError, ValueError, IndexError):  # operators that do not fit together
        return Found("none")
    low, high = within or WIDE
    domain = None if within is None else cx.Box(low, high, shape=(2,))
    try:
        certificate = cx.certify(model, torch.full((2, 2), 0.75 if within is None else (low + high) / 2), domain=domain)
    except cx.NotTraceable:
        return Found("not traceable")
    if certificate.curvature == "unknown":
        return Found("refused")
    generator = torch.Generator().manual_seed(seed % 2**31)
    a, b = points((low, high), generator), points((low, high), generator)
    along = torch.rand(CHORDS, 1, generator=generator) < 0.15
    b = torch.where(along, torch.stack([a[:, 0], b[:, 1]], 1), b)
    t = torch.randint(1, 8, (CHORDS, 1), generator=generator) / 8.0
    with torch.no_grad():
        try:
            first, middle, last = (model(point) for point in (a, a + t * (b - a), b))
        except torch.linalg.LinAlgError:
            return Found("certified")
    chord, size = (1 - t) * first + t * last, first.abs() + last.abs()
    ends, room = first.isfinite() & last.isfinite(), ROOM * (1 + size)
    wrong = {"there is a hole": ends & middle.isnan()}
    if certificate.convex:
        wrong["it is not convex"] = ends & (middle - chord > room)
    if certificate.curvature in ("concave", "affine", "constant"):
        wrong["it is not concave"] = ends & (chord - middle > room)
    if certificate.curvature == "constant":
        wrong["it is not constant"] = ends & ((first - last).abs() > room)
    for what, where in wrong.items():
        if bool(where.any()):
            i = int(where.flatten().nonzero()[0])
            at = f"from {a[i].tolist()} to {b[i].tolist()} at {float(t[i])}"
            values = f"{float(first[i]):.6g}, {float(middle[i]):.6g}, {float(last[i]):.6g}"
            claim = f"{source!r} on {within} is certified {certificate.curvature}"
            return Found("violated", f"{claim}, but {what} {at}: {values}")
    return Found("certified")
