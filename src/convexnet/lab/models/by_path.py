"""Import a network by its path, `MODULE:FACTORY`, for `train` and `certify`; mistakes are one or two clear lines."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from convexnet.errors import meant
from convexnet.lab.errors import UsageError


def named(factory: str) -> object:
    """What `package.module:name` names; the current directory is importable. Raises UsageError."""
    module_name, colon, attribute = factory.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{factory!r} does not name a model. Write MODULE:FACTORY, such as my_package.models:build.")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").replace("/", ".").strip(".")
        raise UsageError(f"{module_name!r} is a file; name the module as in an import statement: {dotted}:{attribute}.")
    import_from_here()
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module {error.name!r} (asked for by {factory!r}).\n"
                f"Run the command in the folder that holds it, or install it. This folder: {Path.cwd()}"
            ) from None
        raise UsageError(failed(f"importing {module_name!r}", error)) from error
    except (Exception, SystemExit) as error:
        raise UsageError(failed(f"importing {module_name!r}", error)) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = meant(name, [other for other in dir(found) if not other.startswith("_")])
            raise UsageError(f"{module_name!r} has no {attribute!r}{near}{candidates(found)}.")
        found = getattr(found, name)
    return found


def import_from_here() -> None:
    """Let modules of the current directory be imported, as `python -m` does."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def made(factory: str, found: object, keywords: Mapping[str, Any]) -> nn.Module:
    """The module itself, or what the function returns if it is called so. Raises UsageError."""
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UsageError(
            f"{factory!r} is {kind(found)}. Name an nn.Module or a function without arguments that returns one."
        )
    try:
        model: object = found(**keywords)
    except (Exception, SystemExit) as error:
        how = f"with {', '.join(keywords)}" if keywords else "without arguments"
        raise UsageError(failed(f"calling {factory!r} {how}", error)) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{factory!r} returned {kind(model)}, not an nn.Module. Return the model itself.")
    return model


def failed(what: str, error: BaseException) -> str:
    """One or two lines: what failed, the error's type and the start of its message, and the user's own line."""
    told = " ".join(str(error).split())
    told = told if len(told) <= 300 else told[:299] + "…"
    place = ""
    frame = error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        ours = str(frame.tb_frame.f_globals.get("__name__", "")).startswith("convexnet.lab.")
        if not file.startswith("<") and "site-packages" not in file and not ours:
            place = f" ({file}:{frame.tb_lineno})"
        frame = frame.tb_next
    return f"{what} failed with {type(error).__name__}: {told}{place}"


def kind(value: object) -> str:
    """What a value is, with its article."""
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def candidates(module: object) -> str:
    """The names of the networks in a module, where it has some."""
    names = (
        sorted(
            name for name, value in vars(module).items() if not name.startswith("_") and isinstance(value, nn.Module)
        )
        if hasattr(module, "__dict__")
        else []
    )
    return f"; modules found there: {', '.join(names[:8])}" if names else ""
