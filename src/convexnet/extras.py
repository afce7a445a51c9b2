"""Packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any


def need(name: str, extra: str = "solve") -> Any:
    """An optional package, or an error that says how to get it.

    Args:
        name: of the module.
        extra: that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install 'convexnet[{extra}]'") from error
