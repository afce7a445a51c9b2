"""What a certificate costs, beside `torch.export` and a forward pass of the same model.

Run: python benchmarks/certify.py [--repeats 5] [--threads 2]

Time: the minimum over paired repeats (export, trace, walk, certify, one after the other in each round), after one
warm-up round. Memory: peak of live tensor bytes beyond what is alive before, from the profiler's record of allocations.
Weights after the first layer are made non-negative, so that the walk carries facts through the whole network; in
EfficientNet the SiLUs and gates are refused and the walk goes on with unknown facts. An uneven box has other bounds at
every pixel, so that no bound is uniform anywhere: the dearest case. An MLP's forward pass at batch 2 holds 1 KB beside
its weights, so its ratio says only that the walk looks at one weight at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from convexnet import Box
from convexnet.curvature import Program, certify_program, trace


def nonneg(model: nn.Module) -> nn.Module:
    """Absolute values of all weights after the first layer, and of every BatchNorm scale."""
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for module in [*weighted[1:], *(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))]:
            module.weight.abs_()
    return model.eval()


def mlp(depth: int, width: int = 64) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ELU()]
    return nonneg(nn.Sequential(*layers, nn.Linear(width, 10)))


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak of live CPU tensor bytes during a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure(model: nn.Module, example: Tensor, box: Box | None, repeats: int) -> dict[str, float]:
    """Minimum seconds of each stage, and peak bytes of the walk and of a forward pass."""
    found: dict[str, list[float]] = {"export": [], "trace": [], "walk": [], "certify": []}
    program: Program | None = None
    for round_ in range(repeats + 1):
        row: dict[str, float] = {}
        row["export"] = seconds(lambda: torch.export.export(model, (example,), strict=False))
        start = time.perf_counter()
        program = trace(model, example)
        row["trace"] = time.perf_counter() - start
        row["walk"] = seconds(lambda p=program: certify_program(p, domain=box))
        row["certify"] = row["trace"] + row["walk"]
        if round_:
            for name, value in row.items():
                found[name].append(value)
    assert program is not None
    result = {name: min(values) for name, values in found.items()}
    with torch.no_grad():
        result["forward_bytes"] = peak_bytes(lambda: model(example))
    result["walk_bytes"] = peak_bytes(lambda: certify_program(program, domain=box))
    result["operators"] = program.operators
    result["functional"] = program.functional
    result["convex"] = certify_program(program).convex
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    import torchvision.models as models

    image = torch.randn(2, 3, 224, 224)
    uneven = Box(torch.rand(3, 224, 224) - 1, torch.rand(3, 224, 224) + 1)
    cases: list[tuple[str, nn.Module, Tensor, Box | None]] = [
        ("ResNet-18", nonneg(models.resnet18()), image, None),
        ("DenseNet-121", nonneg(models.densenet121()), image, None),
        ("EfficientNet-B0", nonneg(models.efficientnet_b0()), image, None),
        ("ResNet-18, uneven box", nonneg(models.resnet18()), image, uneven),
        ("DenseNet-121, uneven box", nonneg(models.densenet121()), image, uneven),
        *((f"MLP {depth} layers", mlp(depth), torch.randn(2, 64), None) for depth in (10, 30, 100, 300, 1000)),
    ]
    print(f"torch {torch.__version__}, {options.threads} threads, minimum of {options.repeats} paired repeats")
    print("goals: walk <= 1 x export; certify <= 2 x export (3 x if functionalised);")
    print("walk's peak <= 1 x forward's (4 x with bounds that differ by element)\n")
    head = (
        "model", "operators", "verdict", "export s", "walk s", "walk/export", "certify/export", "us/operator",
        "walk peak MB", "peak/forward",
    )  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, model, example, box in cases:
        m = measure(model, example, box, options.repeats)
        verdict = ("convex" if m["convex"] else "refused") + (" (functionalised)" if m["functional"] else "")
        print(
            f"| {name} | {m['operators']:.0f} | {verdict} | {m['export']:.3f} | {m['walk']:.3f} "
            f"| {m['walk'] / m['export']:.2f} | {m['certify'] / m['export']:.2f} "
            f"| {1e6 * m['walk'] / m['operators']:.0f} | {m['walk_bytes'] / 1e6:.2f} "
            f"| {m['walk_bytes'] / m['forward_bytes']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
