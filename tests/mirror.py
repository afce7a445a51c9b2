"""What the code does today, written down, so that a later revision can be compared with it: `python -m tests.mirror`.

    python -m tests.mirror write FILE [--parts operators,foreign,fuzz,modules] [--seeds 5000]
    python -m tests.mirror compare BEFORE AFTER [--all]

A dump is one JSON object a line. It holds verdict, curvature, scope and the first finding of each program, and what
`minimise` returns where that is cheap:

    operators   each sample of `tests/curvature/oracles.py` behind affine maps, without a domain and on a box, minimised
    foreign     the small networks of `tests/test_foreign_networks.py`: converted, refused, with each norm
    fuzz        the random programs of `tests/curvature/fuzz.py`, seeds 0 to 4999 of "anything" and of "convex"
    modules     its modules that write in place, seeds 0 to 199

Neither knows what is right: a test says that. It shows what a change has changed, so that nothing changes unnoticed.
`compare` groups the differences by kind, and tells programs that are drawn differently from programs that are judged
differently. Where the tests have changed too, run the older checkout's `tests` on the newer sources:
`cd OLDER && PYTHONPATH=NEWER/src python -m tests.mirror write FILE`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.curvature import certify_program
from tests.curvature import fuzz
from tests.curvature.oracles import SAMPLES, Fixed, Moving, Sample

Row = dict[str, Any]
INPUTS = 3
"""Variables that an operator's sample is minimised over."""
NUMBERS = ("value", "lower_bound")
WORDS = ("reason", "path")
"""Compared, but grouped without their text: sentences are rewritten more often than verdicts."""


# --- one program -----------------------------------------------------------------------------------------------------


def judged(certificate: cx.Certificate) -> Row:
    """The verdict and its first reason. A file's name says where the machine keeps it, and is left out."""
    row: Row = {"curvature": certificate.curvature, "convex": certificate.convex, "scope": certificate.scope}
    return row | found(certificate.findings[0]) if certificate.findings else row


def found(finding: Any) -> Row:
    return {"operator": finding.operator, "path": finding.path, "reason": finding.reason}


def attempt(act: Callable[[], Row]) -> Row:
    """A row, or the kind of error and its first line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return act()
    except Exception as error:  # whatever it raises is what it does
        row: Row = {"error": type(error).__name__, "reason": (str(error).splitlines() or [""])[0][:200]}
        findings = getattr(error, "findings", ())
        return row | found(findings[0]) if findings and isinstance(findings[0], cx.Finding) else row


def minimised(model: nn.Module, domain: cx.Box) -> Row:
    def act() -> Row:
        solution = cx.minimise(model, domain, max_steps=60)
        return {
            "value": solution.value.tolist(),
            "lower_bound": solution.lower_bound.tolist(),
            "converged": solution.converged.tolist(),
            "solver": solution.solver,
        }

    return {
        f"minimise_{key}" if key in ("error", "operator", "path", "reason") else key: v
        for key, v in attempt(act).items()
    }


# --- parts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """The place of a tensor among a sample's arguments: module attributes of this number hold it."""

    place: int
    moves: bool
    shape: tuple[int, ...]


class Behind(nn.Module):
    """One operator's sample, what varies in it an affine function of y within the range it was written for."""

    def __init__(self, name: str, sample: Sample, seed: int) -> None:
        super().__init__()
        self.name = name
        self.generator = torch.Generator().manual_seed(seed)
        self.slots: dict[int, Slot] = {}
        self.args = self.lifted(sample.args)
        self.kwargs = self.lifted(sample.kwargs)
        del self.generator, self.slots

    def lifted(self, value: Any) -> Any:
        """An argument with a slot for each tensor, which is drawn; one object is one tensor."""
        if isinstance(value, dict):
            return {key: self.lifted(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.lifted(item) for item in value]
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        if not isinstance(value, (Fixed, Moving)):
            return value
        if id(value) not in self.slots:
            moves = isinstance(value, Moving)
            slot = self.slots[id(value)] = Slot(len(self.slots), moves, tuple(value.shape))
            self.hold(slot, value)
        return self.slots[id(value)]

    def hold(self, slot: Slot, value: Moving | Fixed) -> None:
        if isinstance(value, Fixed):
            tensor = self.normal(*value.shape)
            self.register_buffer(f"fixed{slot.place}", tensor if value.sign == "any" else tensor.abs() + 0.1)
            return
        size = math.prod(value.shape[1:])
        slopes, offset = self.normal(size, INPUTS), self.normal(size)
        lo, hi = value.within[0]
        if math.isfinite(lo) or math.isfinite(hi):  # within the range for every y of [-1, 1]^n
            lo, hi = (lo if math.isfinite(lo) else hi - 3.0), (hi if math.isfinite(hi) else lo + 3.0)
            slopes = slopes / slopes.abs().sum(1, keepdim=True) * (hi - lo) * 0.45
            offset = torch.full((size,), (lo + hi) / 2, dtype=torch.float64)
        self.register_buffer(f"slopes{slot.place}", slopes)
        self.register_buffer(f"offset{slot.place}", offset)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def filled(self, value: Any, y: Tensor) -> Any:
        if isinstance(value, list):
            return [self.filled(item, y) for item in value]
        if not isinstance(value, Slot):
            return value
        if not value.moves:
            return getattr(self, f"fixed{value.place}")
        slopes, offset = getattr(self, f"slopes{value.place}"), getattr(self, f"offset{value.place}")
        return (y @ slopes.T + offset).reshape(y.shape[0], *value.shape[1:])

    def forward(self, y: Tensor) -> Any:
        args = [self.filled(value, y) for value in self.args]
        kwargs = {key: self.filled(value, y) for key, value in self.kwargs.items()}
        return getattr(torch.ops.aten, self.name)(*args, **kwargs)


class Sum(nn.Module):
    """sign · Σ of the first output, (B,)."""

    def __init__(self, inner: nn.Module, sign: float) -> None:
        super().__init__()
        self.inner, self.sign = inner, sign

    def forward(self, y: Tensor) -> Tensor:
        out = self.inner(y)
        out = out if isinstance(out, Tensor) else out[0]
        return self.sign * out.reshape(y.shape[0], -1).sum(1)


def operators(seeds: int) -> Iterator[tuple[str, Row]]:
    del seeds
    domain = cx.Box(-1.0, 1.0, shape=(INPUTS,))
    for name, samples in SAMPLES.items():
        if not hasattr(torch.ops.aten, name):
            continue
        for place, sample in enumerate(samples):
            row = attempt(lambda n=name, s=sample: on_box(n, s, domain))
            yield f"{name} {place}", row | {"digest": digest(repr(sample))}


def on_box(name: str, sample: Sample, domain: cx.Box) -> Row:
    model = Behind(name, sample, 7)
    example = torch.zeros(2, INPUTS, dtype=torch.float64)
    row = attempt(lambda: judged(cx.certify(model, example)))
    boxed = attempt(lambda: judged(cx.certify(model, example, domain=domain)))
    row |= {f"boxed_{key}": boxed[key] for key in ("curvature", "error") if key in boxed}
    curvature = row["curvature"] if row.get("curvature", "unknown") != "unknown" else boxed.get("curvature", "unknown")
    if curvature != "unknown":
        row |= minimised(Sum(model, -1.0 if curvature == "concave" else 1.0), domain)
    return row


def foreign(seeds: int) -> Iterator[tuple[str, Row]]:
    del seeds
    from tests import test_foreign_networks as known

    def converted(build: Callable[[], nn.Module], shape: tuple[int, ...], **settings: Any) -> Row:
        torch.manual_seed(11)
        net, example = build(), torch.randn(4, *shape)
        before = attempt(lambda: judged(cx.certify(net, example)))
        row = {f"plain_{key}": before[key] for key in ("curvature", "operator", "path", "error") if key in before}

        def act() -> Row:
            ioc = cx.convexify(net, example, **settings)
            changed = [f"{change.path}: {change.before} -> {change.after}" for change in cx.changes(ioc)]
            return judged(cx.certify(ioc, example)) | {"changes": digest("\n".join(changed)), "changed": len(changed)}

        return row | attempt(act)

    for name, case in known.SMALL.items():
        settings = {key: getattr(case, key) for key in ("method", "activation", "norm", "init", "replace")}
        yield name, converted(case.build, case.shape, **settings)
    for name, case in known.REFUSED.items():
        if name not in known.LONG_TO_REFUSE:
            yield name, converted(case.build, case.shape)
    for name, (build, shape, _) in known.NORMS.items():
        yield name, converted(lambda b=build, s=shape: known.around(b(), s), shape)
    for place, inner in enumerate((*known.KEPT, *known.NOT_KEPT)):
        yield f"sequence {place} {inner}", converted(lambda m=inner: known.sequence(m), (5,))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def random_programs(seeds: int) -> Iterator[tuple[str, Row]]:
    for kind in ("anything", "convex"):
        for seed in range(seeds):
            built = fuzz.GENERATORS[kind](seed)
            row = attempt(lambda b=built: judged(certify_program(b.program, b.wrt, b.domain)))
            yield f"{kind} {seed}", row | {"digest": digest(built.describe())}


def modules(seeds: int) -> Iterator[tuple[str, Row]]:
    for seed in range(min(seeds, 200)):
        model = fuzz.Scribbler(seed).double()
        example = torch.zeros(2, model.width, dtype=torch.float64)
        row = attempt(lambda m=model, e=example: judged(cx.certify(m, e)))
        yield f"module {seed}", row | {"digest": digest(str(model.plan))}


PARTS: dict[str, Callable[[int], Iterator[tuple[str, Row]]]] = {
    "operators": operators,
    "foreign": foreign,
    "fuzz": random_programs,
    "modules": modules,
}


# --- a dump ----------------------------------------------------------------------------------------------------------


def write(path: Path, parts: list[str], seeds: int) -> int:
    """Write a dump, a line a program, whole or not at all."""
    torch.set_num_threads(1)
    unfinished = path.with_name(f"{path.name}.part")
    count = 0
    with unfinished.open("w", encoding="utf-8") as out:
        for part in parts:
            for key, row in PARTS[part](seeds):
                out.write(json.dumps({"part": part, "key": key, **row}, ensure_ascii=False, sort_keys=True) + "\n")
                count += 1
                if count % 500 == 0:
                    print(f"{part}: {count} programs", file=sys.stderr, flush=True)
    unfinished.replace(path)
    print(f"{count} programs in {path}")
    return 0


def read(path: Path) -> dict[tuple[str, str], Row]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row.pop("part"), row.pop("key")): row for row in rows}


# --- a comparison ----------------------------------------------------------------------------------------------------


def is_near(a: Any, b: Any) -> bool:
    """Whether two numbers, or lists of them, are the same up to what a solver may leave open."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(is_near(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 1e-5 * max(1.0, abs(a), abs(b))
    return bool(a == b)


def differences(before: Row, after: Row) -> Iterator[str]:
    """Each difference of two rows of one program, in the words that it is grouped by."""
    if before.get("digest") != after.get("digest"):
        yield "the program itself is another: its generator or its sample has changed"
        return
    for field in sorted({*before, *after}):
        old, new = before.get(field), after.get(field)
        if is_near(old, new):
            continue
        if old is not None and new is not None and field in NUMBERS:
            rises = sum(b > a for a, b in zip(old, new, strict=False)) if len(old) == len(new) else 0
            yield f"{field} {'rose' if rises == len(old) else 'fell' if rises == 0 else 'moved'}"
        elif field.endswith(WORDS) or field in (*NUMBERS, "changes"):
            yield f"{field} is {'new' if old is None else 'gone' if new is None else 'another'}"
        else:
            yield f"{field}: {old} -> {new}"


def compare(first: Path, second: Path, everything: bool) -> int:
    """Print what differs between two dumps, grouped by kind; 1 if anything does."""
    before, after = read(first), read(second)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    changed: set[tuple[str, str]] = set()
    for place in {**before, **after}:
        if place not in before or place not in after:
            groups[place[0], "only in the first dump" if place in before else "only in the second dump"].append(
                place[1]
            )
            changed.add(place)
            continue
        for words in differences(before[place], after[place]):
            groups[place[0], words].append(place[1])
            changed.add(place)
    for (part, words), keys in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1])):
        shown = keys if everything else keys[:6]
        more = "" if len(shown) == len(keys) else ", …"
        print(f"{part:<10} {len(keys):6d}  {words}\n{'':19}{', '.join(shown)}{more}")
    print(f"{len(changed)} of {len({**before, **after})} programs differ")
    return 1 if changed else 0


def main(arguments: list[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m tests.mirror")
    verbs = parser.add_subparsers(dest="verb", required=True)
    writing = verbs.add_parser("write", help="write a dump of what the code does")
    writing.add_argument("file", type=Path)
    writing.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    writing.add_argument("--seeds", type=int, default=5000, help="random programs of each kind")
    comparing = verbs.add_parser("compare", help="show what differs between two dumps")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--all", action="store_true", help="name every program")
    options = parser.parse_args(arguments)
    if options.verb == "compare":
        if missing := [str(path) for path in (options.before, options.after) if not path.is_file()]:
            parser.error(f"there is no file {' and no file '.join(missing)}: make one with write")
        return compare(options.before, options.after, options.all)
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return write(options.file, parts, options.seeds)


if __name__ == "__main__":
    sys.exit(main())
