"""A network as an atom of CVXPY: convex, neither rising nor falling, with a conic form of its own.

Being an atom is what keeps the inequalities of its conic form from being misused: CVXPY's own rules refuse to maximise
it, to set it equal to something, or to put anything into it that is not affine. Its value is the network's, not that of
a solution, so that what a solver left loose does not show.

This module imports cvxpy, and is imported where that is wanted.

Long because the atom and its conic form are one thought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from cvxpy.atoms import EXP_ATOMS, NONPOS_ATOMS, SOC_ATOMS
from cvxpy.atoms.atom import Atom as CvxpyAtom
from cvxpy.error import DCPError
from cvxpy.reductions.dcp2cone.canonicalizers import CANON_METHODS
from torch import Tensor

from convexnet.errors import NotCertified
from convexnet.extras import need
from convexnet.form.atoms import Atom, Kinks, Smooth
from convexnet.form.grouped import Largest, LogSumExp, Norm
from convexnet.form.perspective import Perspective
from convexnet.form.program import Gate
from convexnet.form.quadratic import QuadraticAtom
from convexnet.form.sparse import Sample, SparseForm, Vector
from convexnet.form.sum_of_largest import SumLargest
from convexnet.form.tightness import LOWER_BOUND

# Neither states types, and to infer what their functions return takes pyright a fifth of its time.
cp, sparse, gm_constrs = need("cvxpy"), need("scipy.sparse"), need("cvxpy.utilities.power_tools").gm_constrs

Expression = Any
Constraints = list[Any]
Graph = tuple[Expression, Constraints]


class Given:
    """The inputs besides the variable, some of them parameters, and what the form makes of their values.

    Args:
        sample: runs the network.
        form: its form.
        inputs: (1, ...) each; where an item of `items` is a CVXPY expression, its value takes the place.
        items: for each input an expression, or None for what stays as it is.
        positive: which gates must not be negative.
    """

    def __init__(
        self, sample: Sample, form: SparseForm, inputs: Sequence[Tensor], items: Sequence[Any], positive: Sequence[bool]
    ) -> None:
        self.sample, self.form, self.inputs, self.items = sample, form, list(inputs), list(items)
        self.last: tuple[Any, Any] = (None, None)
        self.constants: list[Any] = []
        for target, changes in enumerate(form.changes):
            size = (len(form.constants[target]),)
            self.constants.append(cp.CallbackParam(self.constant(target), size) if changes else None)
        numbers = iter(range(len(form.cuts)))
        self.gates: dict[int, Any] = {}
        for k, cut in enumerate(form.cuts):
            if cut.gate:
                self.gates[k] = cp.CallbackParam(self.gate(next(numbers)), (cut.results,), nonneg=positive[k])

    def constant(self, target: int) -> Callable[[], Any]:
        return lambda: None if (found := self.now()) is None else found[0][target]

    def gate(self, number: int) -> Callable[[], Any]:
        return lambda: None if (found := self.now()) is None else found[1][number]

    def filled(self) -> list[Tensor] | None:
        """The inputs at the present values of the parameters; None while one has none."""
        found = list(self.inputs)
        for place, item in enumerate(self.items):
            if item is not None:
                if item.value is None:
                    return None
                own = self.inputs[place]
                value = torch.as_tensor(np.asarray(item.value, dtype=np.float64)).reshape(own.shape).to(own.device)
                found[place] = value if own.is_floating_point() else value.to(own.dtype)
        return found

    def now(self) -> tuple[list[Vector], list[Vector]] | None:
        """Constants and factors of gates; computed once for each value."""
        inputs = self.filled()
        if inputs is None:
            return None
        changing = [inputs[place] for place, item in enumerate(self.items) if item is not None]
        key = tuple(value.cpu().numpy().tobytes() for value in changing)
        if key != self.last[0]:
            self.last = key, self.sample.at(inputs, self.form.fixed)
        return self.last[1]

    def parameters(self) -> list[Any]:
        """The user's, which CVXPY asks for their values, and those that are computed from them."""
        own = [p for item in self.items if item is not None for p in item.parameters()]
        return [*dict.fromkeys(own), *(c for c in self.constants if c is not None), *self.gates.values()]


class Network(CvxpyAtom):
    """See the module's docstring. Arguments: y flattened, the parameters, and the `Given` they come from."""

    def __init__(self, *args: Any) -> None:
        *expressions, given = args
        self.given: Given = given
        super().__init__(*expressions)

    def get_data(self) -> Any:
        return [self.given]

    def shape_from_args(self) -> tuple[int, ...]:
        return self.given.form.shape

    def sign_from_args(self) -> tuple[bool, bool]:
        return False, False

    def is_atom_convex(self) -> bool:
        return True

    def is_atom_concave(self) -> bool:
        return False

    def is_incr(self, idx: int) -> bool:
        return False

    def is_decr(self, idx: int) -> bool:
        return False

    def name(self) -> str:
        return f"{self.given.sample.opened.program.model}({self.args[0].name()})"

    def __ge__(self, other: Any) -> Any:
        """Refuse a lower bound in words, where CVXPY's own error would come when the problem is solved."""
        if self.is_concave():  # of a constant
            return super().__ge__(other)
        raise DCPError(f"{self.name()} >= {other} {LOWER_BOUND}")

    def at(self, y: Any) -> Tensor:
        """The network at y (n,), with gradients."""
        inputs = self.given.filled()
        assert inputs is not None
        return self.given.sample.value(inputs, y)

    def numeric(self, values: Sequence[Any]) -> Any:
        with torch.no_grad():
            out = self.at(torch.as_tensor(np.asarray(values[0], dtype=np.float64)))
        return out.reshape(self.shape).cpu().numpy()

    def _grad(self, values: Sequence[Any]) -> list[Any]:
        y = torch.as_tensor(np.asarray(values[0], dtype=np.float64)).requires_grad_()
        out = self.at(y).flatten()
        rows = [torch.autograd.grad(value, y, retain_graph=True, materialize_grads=True)[0] for value in out]
        own = sparse.csc_matrix(torch.stack(rows, 1).numpy())
        return [own, *(sparse.csc_matrix((argument.size, len(out))) for argument in self.args[1:])]


class WithExponentials(Network):
    """A network whose conic form needs exponential cones."""


class WithSquares(Network):
    """A network whose conic form needs second-order cones."""


class WithBoth(Network):
    """A network whose conic form needs both."""


KINDS = {
    frozenset[str](): Network,
    frozenset(("exp",)): WithExponentials,
    frozenset(("soc",)): WithSquares,
    frozenset(("exp", "soc")): WithBoth,
}


def network(y: Expression, given: Given) -> Expression:
    """The network as an expression: an atom, or an affine expression where nothing in it is curved."""
    if all(cut.gate for cut in given.form.cuts):
        out, constraints = graph(given, y, {id(p): p for p in given.parameters()})
        if not constraints:
            return cp.reshape(out, given.form.shape, order="C")
    cones = " ".join(cut.atom.cones for cut in given.form.cuts if not isinstance(cut.atom, Gate))
    return KINDS[frozenset(cones.split())](y, *given.parameters(), given)


# --- the conic form --------------------------------------------------------------------------------------------------


def canonicalise(expr: Network, args: Sequence[Expression], solver_context: object = None) -> Graph:
    """What CVXPY calls to replace the atom by affine expressions and cones."""
    del solver_context  # every solver that takes the cones takes them in this form
    taken = dict(zip(map(id, expr.given.parameters()), args[1:], strict=True))
    out, constraints = graph(expr.given, args[0], taken)
    return cp.reshape(out, expr.shape, order="C"), constraints


def graph(given: Given, y: Expression, taken: dict[int, Expression]) -> Graph:
    """The output, affine in y and in new variables, and what holds for those.

    A product of a parameter with what holds a parameter is none that CVXPY can keep open (DPP), so the argument of a
    gate then becomes a variable of its own first.
    """
    form = given.form
    sources: list[Expression] = [y]
    constraints: Constraints = []

    def arrives(target: int) -> Expression:
        parameter = given.constants[target]
        total = cp.Constant(form.constants[target]) if parameter is None else taken[id(parameter)]
        for source, matrix in form.incoming(target):
            total = total + cp.Constant(matrix) @ sources[source]
        return total

    for k, cut in enumerate(form.cuts):
        a = arrives(k)
        if isinstance(cut.atom, Gate):
            if a.parameters():
                own = cp.Variable(a.shape)
                constraints.append(own == a)
                a = own
            sources.append(cp.multiply(taken[id(given.gates[k])], a))
            continue
        mask, values = form.fixed[k]
        free = np.flatnonzero(~mask)
        z = cp.Constant(values)
        if len(free):
            group = cut.atom.group
            places = (free[:, None] * group + np.arange(group)).ravel()
            own, needed = cone_of(cut.atom)(a[places] if mask.any() else a, cut.atom, free)
            z = z + cp.Constant(placement_matrix(free, cut.results)) @ own if mask.any() else own
            constraints += needed
        sources.append(z)
    return arrives(len(form.cuts)), constraints


def of_kink(a: Expression, atom: Any, free: Vector) -> Graph:
    z = cp.Variable(len(free))
    slope = atom.negative_slope.cpu().numpy()[free]
    return z, [z >= a, z >= cp.multiply(slope, a) if slope.any() else z >= 0]


def of_largest(a: Expression, atom: Any, free: Vector) -> Graph:
    z = cp.Variable(len(free))
    return z, [cp.Constant(repeat_matrix(len(free), atom.group)) @ z >= a]


def of_sum_largest(a: Expression, atom: Any, free: Vector) -> Graph:
    """k t + Σ p_i, for p_i >= a_i - t and p_i >= 0."""
    t, p = cp.Variable(len(free)), cp.Variable(len(free) * atom.group)
    spreading = repeat_matrix(len(free), atom.group)
    return atom.count * t + cp.Constant(spreading.T.tocsr()) @ p, [p >= a - cp.Constant(spreading) @ t, p >= 0]


def of_logsumexp(a: Expression, atom: Any, free: Vector) -> Graph:
    """sum_j exp(a_j - z) <= 1."""
    z, u = cp.Variable(len(free)), cp.Variable(len(free) * atom.group)
    spreading = repeat_matrix(len(free), atom.group)
    return z, [exponential(a - cp.Constant(spreading) @ z, u), cp.Constant(spreading.T.tocsr()) @ u <= 1]


def of_norm(a: Expression, atom: Any, free: Vector) -> Graph:
    z = cp.Variable(len(free))
    return z, [cp.SOC(z, cp.reshape(a, (atom.group, len(free)), order="F"), axis=0)]


def of_exp(a: Expression, atom: Any, free: Vector) -> Graph:
    z = cp.Variable(len(free))
    return z, [exponential(a, z)]


def of_softplus(a: Expression, atom: Any, free: Vector) -> Graph:
    """exp(b (a - z)) + exp(-b z) <= 1."""
    steep = atom.curve.steep
    z, u, v = (cp.Variable(len(free)) for _ in range(3))
    return z, [exponential(steep * (a - z), u), exponential(-steep * z, v), u + v <= 1]


def of_elu(a: Expression, atom: Any, free: Vector) -> Graph:
    """elu(a) = min { p + (exp(b q) - 1) / b : p >= 0, p + q >= a }.

    The slope of the curve is at most 1, that of p, where q <= 0, and more beyond: q = min(a, 0) and p = max(a, 0).
    """
    steep = atom.curve.steep
    p, q, v = (cp.Variable(len(free)) for _ in range(3))
    return p + (v - 1) / steep, [p >= 0, p + q >= a, exponential(steep * q, v)]


def of_square(a: Expression, atom: Any, free: Vector) -> Graph:
    """|(2 a, z - 1)| <= z + 1."""
    z = cp.Variable(len(free))
    return z, [cp.SOC(z + 1, cp.vstack([2 * a, z - 1]), axis=0)]


def of_power(a: Expression, atom: Any, free: Vector) -> Graph:
    """u <= z^(1/p) for a u >= a, and u >= -a where the power is even."""
    z, u = cp.Variable(len(free)), cp.Variable(len(free))
    exponent = atom.curve.exponent
    sides = [u >= a, u >= -a] if exponent % 2 == 0 else [u >= a, u >= 0]
    return z, [*sides, *gm_constrs(u, [z, cp.Constant(np.ones(len(free)))], power_cone_shares(1 / exponent))]


def of_inverse(a: Expression, atom: Any, free: Vector) -> Graph:
    """1 <= z^s a^(1 - s)."""
    z, p = cp.Variable(len(free)), atom.curve.exponent
    return z, gm_constrs(cp.Constant(np.ones(len(free))), [z, a], power_cone_shares(1 / (1 - p)))


def of_root(a: Expression, atom: Any, free: Vector) -> Graph:
    """t <= a^p, for the t that is -z."""
    t = cp.Variable(len(free))
    return -t, gm_constrs(t, [a, cp.Constant(np.ones(len(free)))], power_cone_shares(atom.curve.exponent))


def of_entropy(a: Expression, atom: Any, free: Vector) -> Graph:
    """a exp(-z / a) <= 1."""
    z = cp.Variable(len(free))
    return z, [cp.ExpCone(-z, a, cp.Constant(np.ones(len(free))))]


def of_huber(a: Expression, atom: Any, free: Vector) -> Graph:
    """huber(a) = min { q² / 2 + p : p >= |a - q| }."""
    q, p = cp.Variable(len(free)), cp.Variable(len(free))
    square, needed = of_square(q, atom, free)
    return square / 2 + p, [*needed, p >= a - q, p >= q - a]


def of_log(a: Expression, atom: Any, free: Vector) -> Graph:
    """exp(-z) <= a."""
    z = cp.Variable(len(free))
    return z, [exponential(-z, a)]


def of_perspective(a: Expression, atom: Any, free: Vector) -> Graph:
    """|(2 x, z - t)| <= z + t; t exp(x / t) <= z; x exp(-z / x) <= t; means of x and t."""
    x, t = a[::2], a[1::2]
    if atom.curve.negative:
        return of_mean(x, t, atom.curve)
    z = cp.Variable(len(free))
    if atom.curve.name == "squared":
        return z, [cp.SOC(z + t, cp.vstack([2 * x, z - t]), axis=0)]
    return z, [cp.ExpCone(x, t, z) if atom.curve.name == "exponential" else cp.ExpCone(-z, x, t)]


def of_mean(x: Expression, t: Expression, curve: Any) -> Graph:
    """s <= x^p t^(1 - p), for the s that is -z; or s = u + v, for u and v below x^p s^(1 - p) and t^p s^(1 - p)."""
    p, s = curve.exponent, cp.Variable(x.shape)
    if curve.name == "root":
        return -s, gm_constrs(s, [x, t], power_cone_shares(p))
    parts = cp.Variable(x.shape), cp.Variable(x.shape)
    constraints: Constraints = [s == parts[0] + parts[1]]
    for a, part in zip((x, t), parts, strict=True):
        constraints += (
            gm_constrs(part, [a, s], power_cone_shares(p))
            if p > 0
            else gm_constrs(s, [a, part], power_cone_shares(p / (p - 1)))
        )
    return -s, constraints


def of_x_exp(a: Expression, atom: Any, free: Vector) -> Graph:
    """a exp(w / a) <= z for a w >= a²."""
    z = cp.Variable(len(free))
    squared, needed = of_square(a, atom, free)
    return z, [*needed, cp.ExpCone(squared, a, z)]


def of_quadratic(a: Expression, atom: Any, free: Vector) -> Graph:
    """½ |R a|² + g a + c, for R' R = H."""
    z, n = cp.Variable(len(free)), atom.group
    roots, slopes, constants = (part.cpu().numpy()[free] for part in (atom.root(), atom.linear, atom.constant))
    constraints: Constraints = []
    for i, root in enumerate(roots):
        own = a[i * n : (i + 1) * n]
        rest = z[i] - slopes[i] @ own - constants[i]
        constraints.append(cp.SOC(rest + 0.5, cp.hstack([root @ own, rest - 0.5])))
    return z, constraints


def power_cone_shares(first: float) -> tuple[Fraction, Fraction]:
    """The weights of a geometric mean, as fractions of small numbers.

    Raises:
        NotCertified: they are none.
    """
    found = Fraction(first).limit_denominator(1024)
    if abs(found - Fraction(first)) > 1e-14:
        raise NotCertified(
            f"NOT EXPORTED: a power with the weight {first:g}, which is not a fraction of small integers"
        )
    return found, 1 - found


Cone = Callable[[Expression, Any, Vector], Graph]
GROUPED: dict[type[Atom], Cone] = {
    Kinks: of_kink,
    Largest: of_largest,
    SumLargest: of_sum_largest,
    LogSumExp: of_logsumexp,
    Norm: of_norm,
    Perspective: of_perspective,
    QuadraticAtom: of_quadratic,
}
CURVES: dict[str, Cone] = {
    "exponential": of_exp,
    "softplus": of_softplus,
    "elu": of_elu,
    "squared": of_square,
    "power": of_power,
    "negative power": of_inverse,
    "root": of_root,
    "minus log": of_log,
    "entropy": of_entropy,
    "huber": of_huber,
    "x exp": of_x_exp,
}
"""By the kind of the atom, or the name of its curve: an affine expression, and constraints under which it is at least
the atom, and can be it."""


def cone_of(atom: Atom) -> Cone:
    """The conic form of an atom."""
    return CURVES[atom.curve.name] if isinstance(atom, Smooth) else GROUPED[type(atom)]


def exponential(a: Expression, z: Expression) -> Any:
    """z >= exp(a)."""
    return cp.ExpCone(a, cp.Constant(np.ones(a.shape)), z)


def repeat_matrix(count: int, group: int) -> Any:
    """The matrix that repeats each entry for its group."""
    return sparse.kron(sparse.eye(count), np.ones((group, 1))).tocsr()


def placement_matrix(free: Vector, size: int) -> Any:
    """The matrix that puts entries in their places, (size, len(free))."""
    return sparse.csr_matrix((np.ones(len(free)), (free, np.arange(len(free)))), (size, len(free)))


def register() -> None:
    """Tell CVXPY of the atoms: how they become cones, and which kinds of cones those are."""
    methods, linear, exponentials, squares = map(as_any, (CANON_METHODS, NONPOS_ATOMS, EXP_ATOMS, SOC_ATOMS))
    for cones, kind in KINDS.items():
        methods[kind] = canonicalise
        linear.append(kind)
        exponentials += [kind] if "exp" in cones else []
        squares += [kind] if "soc" in cones else []


def as_any(value: Any) -> Any:
    """CVXPY's tables are typed by the atoms it has itself."""
    return value


register()
