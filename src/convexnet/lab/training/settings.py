"""Compare settings, which are dataclasses: what differs from the defaults, a key, what two do not share.

Jobs are found by such a key, and checkpoints of other settings are refused with the differences.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def chosen(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, those of dataclasses inside too.

    Example:
        >>> from convexnet.lab.models.convex import Convex
        >>> chosen(Convex(method="clip"))
        {'method': 'clip'}
    """
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            value = chosen(value)
            if not value:
                continue
        elif field.default is not MISSING and value == field.default:
            continue
        found[field.name] = value
    return found


def digest(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that differ where settings differ.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), digest({"a": 1}) == digest({"a": 2})
        (True, False)
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """What two settings do not have in common, one line each.

    Example:
        >>> differences({"seed": 0, "recipe": {"batch": 64}}, {"seed": 0, "recipe": {"batch": 128}})
        ['recipe.batch was 64, is 128']
    """
    found: list[str] = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}{name}.")
        elif old != new:
            found.append(f"{path}{name} was {old!r}, is {new!r}")
    return found
