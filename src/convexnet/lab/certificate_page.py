"""A certificate as a page of its own, for somebody who has no terminal."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import convexnet as cx
from convexnet.lab.records import versions, write_whole
from convexnet.lab.theme import DARK, LIGHT


def write_page(certificate: cx.Certificate, path: Path, name: str) -> None:
    """Write a certificate, with what breaks it and how to mend that, as one HTML file.

    Args:
        certificate: what was found.
        path: of the page.
        name: what was certified.
    """
    environment = Environment(
        loader=PackageLoader("convexnet.lab"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("certificate.html.j2")
    text = page.render(certificate=certificate, name=name, versions=versions(), light=LIGHT, dark=DARK)
    write_whole(path, text)
