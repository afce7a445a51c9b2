"""What a conversion costs, beside one `torch.export` of the same model.

Run: python benchmarks/convexify.py [--repeats 5] [--threads 1]

Processor time, the minimum over paired repeats (export, convexify, constrain, one after the other in each round), after
one warm-up round. `constrain` is the call that a training script makes on the converted model. Images of 224 x 224.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
import torchvision
from torch import nn

import convexnet as cx

MODELS = ("resnet18", "densenet121", "convnext_tiny")


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(model: nn.Module, repeats: int) -> dict[str, float]:
    """Seconds of each step: the least over the repeats."""
    example = torch.zeros(2, 3, 224, 224)
    ioc = cx.convexify(model, example)
    steps: dict[str, Callable[[], object]] = {
        "export": lambda: torch.export.export(model, (example,), strict=False),
        "convexify": lambda: cx.convexify(model, example),
        "constrain": lambda: cx.constrain(ioc, example),
    }
    rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(repeats + 1)]
    return {name: min(taken[name] for taken in rounds[1:]) for name in steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {options.threads} thread(s), minimum of {options.repeats} rounds")
    print(f"{'model':<16}{'export':>9}{'convexify':>11}{'constrain':>11}{'(both)/export':>15}   goal <= 4")
    for name in MODELS:
        torch.manual_seed(0)
        taken = measure(getattr(torchvision.models, name)().eval(), options.repeats)
        ratio = (taken["convexify"] + taken["constrain"]) / taken["export"]
        print(
            f"{name:<16}"
            + "".join(f"{taken[k]:>{w}.2f}" for k, w in zip(taken, (9, 11, 11), strict=True))
            + f"{ratio:>15.2f}"
        )


if __name__ == "__main__":
    main()
