"""Training of small networks on all samples at once: L-BFGS in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from convexnet.nn import FICNN
from convexnet.nn.steps import FullStep, innermost, weight_of

MEMORY = 20
"""Pairs of steps and gradients that L-BFGS keeps."""


def read(parameters: Sequence[nn.Parameter]) -> np.ndarray[Any, Any]:
    """All parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters]).double().numpy()


@torch.no_grad()
def write(parameters: Sequence[nn.Parameter], vector: np.ndarray[Any, Any]) -> None:
    """The reverse of `read`."""
    parts = torch.from_numpy(np.array(vector)).split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.copy_(part.view_as(parameter))


def fit_by_lbfgs(
    module: nn.Module,
    loss: Callable[[], Tensor],
    max_iter: int,
    tol: float,
    held_out: Callable[[], float] | None = None,
    patience: int = 20,
) -> tuple[list[float], list[float]]:
    """Minimise a loss over the parameters of a module, which it leaves at the best that was found.

    Args:
        module: whose parameters are trained, in float64.
        loss: of all samples, with gradients.
        max_iter: iterations at most.
        tol: stop where an iteration lowers the loss by less than this share of it.
        held_out: a loss on other samples; None: none is watched.
        patience: iterations without a better one after which to stop.

    Returns:
        The losses after each iteration, and those held out.

    Source: Liu & Nocedal (1989), "On the limited memory BFGS method for large scale optimization".
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter.numel()]
    losses: list[float] = []
    watched: list[float] = []
    best = read(parameters)

    def evaluate(vector: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        write(parameters, vector)
        value = loss()
        slopes = torch.autograd.grad(value, parameters)
        return value.item(), torch.cat([slope.flatten() for slope in slopes]).numpy()

    def note(intermediate_result: Any) -> None:
        nonlocal best
        losses.append(float(intermediate_result.fun))
        if held_out is None:
            return
        write(parameters, intermediate_result.x)
        with torch.no_grad():
            watched.append(held_out())
        if watched[-1] <= min(watched):
            best = np.array(intermediate_result.x)
        if len(watched) - int(np.argmin(watched)) > patience:
            raise StopIteration

    found = minimize(
        evaluate,
        best,
        jac=True,
        method="L-BFGS-B",
        callback=note,
        options={"maxiter": max_iter, "maxfun": 3 * max_iter, "maxcor": MEMORY, "ftol": tol, "gtol": 0.0},
    )
    write(parameters, best if watched else found.x)
    return losses, watched


def sum_of_squares(net: FICNN) -> Tensor:
    """Σ W² over all weights of the layers, those that are computed as they are."""
    steps = [step for step in net.layers if isinstance(step, FullStep)]
    maps = [part for step in steps for part in (step.z, step.y) if part is not None]
    return torch.stack([weight_of(innermost(part)).square().sum() for part in maps]).sum()
