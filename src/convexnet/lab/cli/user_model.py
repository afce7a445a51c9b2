"""Import or load a user's model, and make the example to certify it at; every mistake is one or two clear lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.lab.errors import UsageError
from convexnet.lab.models.by_path import failed, kind, made, named


def load(factory: str, *, seed: int, weights: Path | None) -> nn.Module:
    """The module that `package.module:name` names; random starts are drawn from `seed`. Raises UsageError."""
    found = named(factory)
    torch.manual_seed(seed)
    model = made(factory, found, {})
    if weights is not None:
        _load_weights(model, weights)
    return model


def model_and_shapes(
    words: str, shapes: Sequence[str] | None, *, seed: int, weights: Path | None, allow: Sequence[str]
) -> tuple[nn.Module, Sequence[str]]:
    """The module that the command's first word names, by import or as a file, and the shapes of its inputs.

    Raises:
        UsageError: there is none, or nothing says what its inputs are like.
    """
    if (path := Path(words)).is_file() and path.suffix != ".py":
        from convexnet.lab.models.saved import example_in, network_of

        model = network_of(path, allow)
        if weights is not None:
            _load_weights(model, weights)
        return model, shapes or [",".join(map(str, part.shape[1:])) for part in example_in(path, model)]
    if ":" not in words:
        inside = path / "network.safetensors"
        where = "is a folder" if path.is_dir() else "is not there, as a file"
        of_a_run = f"; the network in it is {inside}" if inside.is_file() else ""
        raise UsageError(
            f"{words!r} {where}{of_a_run}. Write MODULE:FACTORY, such as my_package.models:build, or the path of a "
            "file that `convexnet.save` wrote."
        )
    model = load(words, seed=seed, weights=weights)
    if not shapes:
        raise UsageError("give the shape of one sample, without the batch, for every input: --shape 3,32,32")
    return model, shapes


def arguments(
    shapes: Sequence[str], *, batch: int, wrt: str | None, box: str | None, seed: int
) -> tuple[tuple[Tensor, ...], int | tuple[int, ...] | None, cx.Box | None]:
    """The example, the inputs to be convex in and the domain, read from the command's words. Raises UsageError."""
    sizes = [_numbers(text) for text in shapes]
    indices = None if wrt is None else _indices(wrt, len(sizes))
    limits = None if box is None else limits_of(box)
    domain = None
    if limits is not None:
        chosen = range(len(sizes)) if indices is None else indices
        if len(chosen) != 1:
            raise UsageError("--box describes one input; choose which with --wrt, such as --wrt 0.")
        domain = cx.Box(*limits, shape=sizes[chosen[0]])
    generator = torch.Generator().manual_seed(seed)
    example = tuple(torch.rand(batch, *size, generator=generator) for size in sizes)
    if limits is not None:
        lo, hi = (max(min(limit, 1e3), -1e3) for limit in limits)
        example = tuple(lo + (hi - lo) * part for part in example)
    if indices is None:
        return example, None, domain
    return example, indices[0] if len(indices) == 1 else indices, domain


def fit_example(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The example in the model's floating type and on its device, after one forward pass that must succeed."""
    anchor = next((p for p in model.parameters() if p.is_floating_point()), None)
    if anchor is not None:
        example = tuple(part.to(device=anchor.device, dtype=anchor.dtype) for part in example)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(*example)
    except Exception as error:
        given = ", ".join(str(tuple(part.shape)) for part in example)
        raise UsageError(
            failed(f"the model's forward pass at inputs of shape {given}", error)
            + "\nGive the shape of one sample, without the batch, for every input: --shape 3,32,32."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    return example


def _numbers(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise UsageError(f"--shape {text!r} is not a shape. Write positive integers, such as 3,32,32 or 64.")
    return sizes


def _indices(text: str, inputs: int) -> tuple[int, ...]:
    try:
        indices = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--wrt {text!r} is not an input. Count from 0, such as 0 or 0,2.") from None
    if any(not 0 <= index < inputs for index in indices) or len(set(indices)) != len(indices):
        raise UsageError(
            f"--wrt {text!r} does not fit {inputs} input(s), counted from 0. Give one --shape for every input."
        )
    return indices


def limits_of(text: str) -> tuple[float, float]:
    """The two numbers of `--box`. Raises UsageError."""
    try:
        lo, hi = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--box {text!r} is not a box. Write two numbers, such as 0,1.") from None
    if not lo <= hi:
        raise UsageError(f"--box {text!r} is empty: the first number must not exceed the second.")
    return lo, hi


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"--weights {path}: there is no such file.") from None
    except Exception:  # a file that is no archive fails in many ways
        # torch's own message advises weights_only=False, which is exactly what must not happen here.
        raise UsageError(
            f"--weights {path} does not hold plain tensors. Save it with torch.save(model.state_dict(), FILE)."
        ) from None
    if not isinstance(state, dict):
        raise UsageError(f"--weights {path} holds {kind(state)}. Save it with torch.save(model.state_dict(), FILE).")
    try:
        model.load_state_dict(cast("dict[str, Tensor]", state))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(failed(f"--weights {path} does not fit the model", error)) from error
