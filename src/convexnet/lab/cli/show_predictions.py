"""Print the classes that a saved network predicts, for the subcommand `predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from convexnet.lab.models.saved import network_of, predictions


def show(file: Path, images: Sequence[Path], *, top: int, allow: Sequence[str], as_json: bool) -> None:
    """Print what a network says of some images.

    Raises:
        UsageError: the file is not a network, or an image is not an image.
    """
    found = predictions(network_of(file, allow), images, top)
    if as_json:
        for one in found:
            shares = dict(zip(one.classes, one.confidences, strict=True))
            print(json.dumps({"image": str(one.path), "classes": shares, "note": one.note}))
        return
    noted = any(one.note for one in found)
    table = Table("image", "class", "confidence", "then", *(("how it was read",) if noted else ()))
    for one in found:
        said = [f"{100 * share:.1f} %" for share in one.confidences]
        rest = ", ".join(f"{name} {share}" for name, share in zip(one.classes[1:], said[1:], strict=True))
        table.add_row(str(one.path), one.classes[0], said[0], rest, *((one.note,) if noted else ()))
    Console(highlight=False).print(table)
