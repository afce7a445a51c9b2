"""What a change costs: the working tree and another revision, side by side in one run.

Run: python benchmarks/paired.py REV [--cases certify,newton-20] [--rounds 5] [--threads 1] [--list]

REV is anything that git knows (`HEAD~3`, a tag), whose `src` is unpacked into a temporary folder, or a folder that
holds a `src`. Every round starts one fresh process for each of the two trees and goes through the cases; each case is
run by one tree and then at once by the other, and in the next round the other first. A process makes the inputs of a
case, calls it once to warm up, and then takes the median of up to three calls (one, where that takes long). A ratio is
that of the two times in one round; medians and quartiles are over rounds. The clock is the processor time of the
process that works (with several threads, the wall's), which leaves out the turns of other processes. `paired.py HEAD`
on a clean tree shows the noise.

A case calls what is public in both revisions. One that fails in a tree is reported with its error, and has no ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 3
LONG = 0.3
"""Seconds of one call that are not repeated."""
Call = Callable[[], object]


# --- cases: each makes its inputs, and returns what is timed ---------------------------------------------------------


def nonneg(model: Any) -> Any:
    """Absolute values of all weights after the first layer and of every BatchNorm scale: certified."""
    import torch
    from torch import nn

    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for module in [*weighted[1:], *(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))]:
            module.weight.abs_()
    return model.eval()


def mlp(depth: int, width: int = 64, inputs: int = 64) -> Any:
    from torch import nn

    layers: list[Any] = []
    for index in range(depth):
        layers += [nn.Linear(inputs if index == 0 else width, width), nn.ELU()]
    return nonneg(nn.Sequential(*layers, nn.Linear(width, 10)))


def certify(make: Callable[[], Any], side: int = 64) -> Call:
    import torch

    import convexnet as cx

    model, example = make(), torch.zeros(2, 3, side, side)
    return lambda: cx.certify(model, example)


def certify_resnet() -> Call:
    import torchvision

    return certify(lambda: nonneg(torchvision.models.resnet18()))


def certify_densenet() -> Call:
    import torchvision

    return certify(lambda: nonneg(torchvision.models.densenet121()))


def certify_deep() -> Call:
    import torch

    import convexnet as cx

    model, example = mlp(100), torch.zeros(2, 64)
    return lambda: cx.certify(model, example)


def certify_uneven() -> Call:
    """On a box with other bounds at every pixel: intervals through every layer."""
    import torch
    import torchvision

    import convexnet as cx

    model, example = nonneg(torchvision.models.resnet18()), torch.zeros(2, 3, 32, 32)
    box = cx.Box(torch.rand(3, 32, 32) - 1, torch.rand(3, 32, 32) + 1)
    return lambda: cx.certify(model, example, domain=box)


def convexify() -> Call:
    import torch
    import torchvision

    import convexnet as cx

    model, example = torchvision.models.resnet18().eval(), torch.zeros(2, 3, 32, 32)
    return lambda: cx.convexify(model, example)


def step(method: str) -> Call:
    """Twenty constrained steps of Adam on an MLP."""
    import torch
    from torch.nn import functional as F

    import convexnet as cx

    model = mlp(3, 256, 256).train()
    cone = cx.constrain(model, torch.zeros(2, 256), method=method)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cone.attach(optimizer)
    x, y = torch.randn(64, 256), torch.randint(10, (64,))

    def call() -> None:
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return call


def minimise(family: str, n: int, batch: int, times: int = 1, tol: float = 1e-4, **options: Any) -> Call:
    """The poster's network of 600 and 600 units, as in `minimise.py`."""
    from workload.icnn import problem

    import convexnet as cx

    net, x, box = problem(family, n, batch)
    return lambda: [cx.minimise(net, box, given=x, tol=tol, **options) for _ in range(times)]


def small(n: int = 10, batch: int = 64, **options: Any) -> Call:
    import torch

    import convexnet as cx

    net = cx.nn.PICNN(4, n, hidden=(64, 64), activation="relu").eval().requires_grad_(False)
    box, x = cx.Box(-1, 1, shape=(n,)), torch.randn(batch, 4)
    return lambda: cx.minimise(net, box, given=x, tol=1e-5, **options)


def smooth() -> Call:
    import torch

    import convexnet as cx

    net = cx.nn.PICNN(4, 10, hidden=(32, 32), activation="softplus", quadratic=2).eval().requires_grad_(False)
    box, x = cx.Box(-1, 1, shape=(10,)), torch.randn(32, 4)
    return lambda: cx.minimise(net, box, given=x, tol=1e-6)


def first_call() -> Call:
    """Of networks that were never seen: with tracing, certificate and reading."""
    import torch

    import convexnet as cx

    box, x = cx.Box(-1, 1, shape=(5,)), torch.randn(4, 3)

    def call() -> None:
        for seed in range(3):
            torch.manual_seed(seed)
            cx.minimise(cx.nn.PICNN(3, 5, hidden=(16, 16), activation="relu"), box, given=x, tol=1e-5)

    return call


def backward() -> Call:
    """Value and minimiser differentiated to x and to all weights."""
    import torch
    from workload.icnn import problem

    import convexnet as cx

    net, x, box = problem("tilt", 20, 64)
    net.requires_grad_(True)
    x.requires_grad_(True)

    def call() -> None:
        solution = cx.minimise(net, box, given=x, tol=1e-4)
        torch.autograd.grad(solution.value.sum() + solution.x.sum(), [x, *net.parameters()], allow_unused=True)

    return call


def images() -> Call:
    import convexnet as cx

    net = cx.nn.ConvFICNN((1, 10, 10), [(4, 3, 2), (4, 3)], hidden=(8,), activation="relu").eval().requires_grad_(False)
    box = cx.Box(0, 1, shape=(1, 10, 10))
    return lambda: cx.minimise(net, box, tol=1e-4)


def falsify(broken: bool) -> Call:
    """A convex network at the whole budget, or the search for one entry in a hundred that is negative."""
    import torch

    import convexnet as cx

    net = mlp(4, 32, 8)
    if broken:
        with torch.no_grad():
            weight = net[4].weight
            weight[torch.rand_like(weight) < 0.01] *= -0.1
    return lambda: cx.falsify(net, torch.zeros(2, 8))


def files() -> Call:
    import torchvision

    import convexnet as cx

    model, folder = torchvision.models.resnet18(), tempfile.mkdtemp()

    def call() -> None:
        cx.save(model, f"{folder}/model.safetensors")
        cx.load(f"{folder}/model.safetensors")

    return call


CASES: dict[str, Callable[[], Call]] = {
    "certify-resnet18": certify_resnet,
    "certify-densenet121": certify_densenet,
    "certify-100-layers": certify_deep,
    "certify-uneven-box": certify_uneven,
    "convexify-resnet18": convexify,
    "step-exponentiate": lambda: step("exponentiate"),
    "step-clip": lambda: step("clip"),
    "step-softplus": lambda: step("softplus"),
    "newton-2": lambda: minimise("tilt", 2, 64),
    "newton-20": lambda: minimise("tilt", 20, 64),
    "newton-20-tight": lambda: minimise("tilt", 20, 64, tol=1e-6),
    "newton-20-random": lambda: minimise("random", 20, 64),
    "newton-20-single": lambda: minimise("tilt", 20, 1, times=5),
    "newton-100": lambda: minimise("tilt", 100, 16),
    "newton-small": small,
    "newton-smooth": smooth,
    "bundle-small": lambda: small(4, 16, solver="bundle"),
    "fista-small": lambda: small(10, 16, solver="fista", max_steps=200),
    "minimise-images": images,
    "minimise-first-call": first_call,
    "minimise-backward": backward,
    "falsify-convex": lambda: falsify(broken=False),
    "falsify-rare": lambda: falsify(broken=True),
    "save-and-load": files,
}


# --- one of the two processes ----------------------------------------------------------------------------------------


def work(source: Path, threads: int) -> None:
    """Answer each name of a case on standard input with one line of JSON: seconds, or an error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    import torch

    import convexnet as cx

    assert Path(cx.__file__).resolve().is_relative_to(source.resolve()), f"{cx.__file__} is not in {source}"
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    clock = time.process_time if threads == 1 else time.perf_counter
    made: dict[str, Call] = {}
    print(json.dumps({"ready": str(cx.__file__)}), file=replies, flush=True)
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in made:
                torch.manual_seed(0)
                made[name] = CASES[name]()
                made[name]()
            taken: list[float] = []
            while len(taken) < REPEATS and not (taken and taken[0] > LONG):
                start = clock()
                made[name]()
                taken.append(clock() - start)
            made.pop(name)
            reply: dict[str, Any] = {"seconds": statistics.median(taken)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(reply), file=replies, flush=True)


# --- both ------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """The times of one case in every round, before (the other revision) and now."""

    before: list[float] = field(default_factory=list[float])
    now: list[float] = field(default_factory=list[float])
    errors: dict[str, str] = field(default_factory=dict[str, str])

    def ratios(self) -> list[float]:
        return [now / before for before, now in zip(self.before, self.now, strict=True)]


@contextlib.contextmanager
def worker(tree: Path, options: argparse.Namespace) -> Generator[Callable[[str], dict[str, Any]]]:
    """A fresh process on a tree's sources; what it gives runs a case there and returns the answer."""
    count = str(options.threads)
    paths = [str(tree / "src"), str(ROOT / "benchmarks")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count, "PYTHONHASHSEED": "0",
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).resolve()), "--work", str(tree / "src"), "--threads", count]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    writing: IO[str] = process.stdin
    reading: IO[str] = process.stdout

    def answer() -> dict[str, Any]:
        line = reading.readline()
        if not line:
            raise SystemExit(f"the process on {tree} ended, with status {process.wait()}")
        return json.loads(line)

    def run(name: str) -> dict[str, Any]:
        writing.write(f"{name}\n")
        writing.flush()
        return answer()

    try:
        answer()
        yield run
    finally:
        writing.close()
        process.wait()
        reading.close()


@contextlib.contextmanager
def unpacked(revision: str) -> Generator[tuple[Path, str]]:
    """A folder with the sources of a revision, or the folder that was named; and what to call it."""
    if (Path(revision) / "src").is_dir():
        yield Path(revision).resolve(), revision
        return
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", f"{revision}^{{commit}}"], capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{revision!r} is neither a revision that git knows nor a folder with a src in it")
    archive = subprocess.run([*git, "archive", found.stdout.strip(), "src"], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="paired-") as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder), found.stdout.strip()


def measured(other: Path, names: Sequence[str], options: argparse.Namespace) -> dict[str, Case]:
    """Every case in every round, the two trees in turn."""
    cases = {name: Case() for name in names}
    for number in range(options.rounds):
        with worker(other, options) as before, worker(ROOT, options) as now:
            for name, case in cases.items():
                pair = [("before", before), ("now", now)]
                answers = {label: run(name) for label, run in (pair if number % 2 == 0 else reversed(pair))}
                failed = {label: answer["error"] for label, answer in answers.items() if "error" in answer}
                case.errors |= failed
                if not failed:
                    case.before.append(answers["before"]["seconds"])
                    case.now.append(answers["now"]["seconds"])
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return cases


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def table(cases: dict[str, Case]) -> list[str]:
    """One row a case: medians of both, and of their ratios the median and quartiles."""
    rows = ["| case | before ms | now ms | now/before | quartiles |", "|---|---|---|---|---|"]
    for name, case in cases.items():
        if case.errors:
            told = "; ".join(f"{label}: {text}" for label, text in case.errors.items())
            rows.append(f"| {name} | | | | {told} |")
            continue
        low, middle, high = quartiles(case.ratios())
        before, now = (1000 * statistics.median(times) for times in (case.before, case.now))
        rows.append(f"| {name} | {before:.3g} | {now:.3g} | {middle:.3f} | {low:.3f}-{high:.3f} |")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", metavar="REV", help="a revision, or a folder with a src")
    parser.add_argument("--cases", default="", help="those whose name contains one of these, between commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work is not None:
        work(options.work, options.threads)
        return
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads are at least 1")
    wanted = [part for part in options.cases.split(",") if part]
    names = [name for name in CASES if not wanted or any(part in name for part in wanted)]
    if unknown := [part for part in wanted if not any(part in name for name in CASES)]:
        parser.error(f"no case contains {', '.join(unknown)}; there are {', '.join(CASES)}")
    if options.list:
        print("\n".join(names))
        return
    if options.revision is None:
        parser.error("name the revision to compare with, such as HEAD~1")
    with unpacked(options.revision) as (other, label):
        cases = measured(other, names, options)
    print(f"working tree / {label}: {options.rounds} round(s), {options.threads} thread(s)\n")
    print("\n".join(table(cases)))


if __name__ == "__main__":
    main()
