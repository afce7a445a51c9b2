"""Keep in the user's cache folder what takes long to compute and is the same every time: whitenings, fingerprints.

The folder is that of the variable CONVEXNET_CACHE, or `convexnet` in the user's cache folder. It may be deleted at any
time: what is missing, damaged or cannot be written is computed again, and nothing else depends on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

import convexnet as cx

VARIABLE = "CONVEXNET_CACHE"
MOST = 2**31
"""Bytes that the folder may hold; what was used longest ago is deleted first."""


def cache_folder() -> Path:
    """Where things are kept."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convexnet"


def kept_module(key: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The module that was kept under a key, or a new one, which is kept."""
    path = cache_folder() / f"{key}.safetensors"
    with contextlib.suppress(Exception):  # whatever a damaged file raises
        found = cx.load(path)
        os.utime(path)
        return found
    made = make()
    with contextlib.suppress(OSError, ModuleNotFoundError):
        path.parent.mkdir(parents=True, exist_ok=True)
        cx.save(made, path)
        shrink(path.parent)
    return made


def kept_text(key: str, make: Callable[[], str]) -> str:
    """The line that was kept under a key, or a new one, which is kept."""
    path = cache_folder() / f"{key}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = path.read_text(encoding="utf-8")
        if found.endswith("\n"):  # whole
            return found.strip()
    made = make()
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(made + "\n", encoding="utf-8")
        draft.replace(path)
    return made


def shrink(folder: Path) -> None:
    """Delete what was used longest ago until the folder has no more than `MOST` bytes."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files[:-1]:
        if total <= MOST:
            return
        total -= path.stat().st_size
        path.unlink()
