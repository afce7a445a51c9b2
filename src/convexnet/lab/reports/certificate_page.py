"""Write a certificate as an HTML page of its own, for `convexnet certify --html`."""

from __future__ import annotations

from pathlib import Path

import convexnet as cx
from convexnet.lab.atomic import write_whole
from convexnet.lab.reports.templates_read import template
from convexnet.lab.reports.theme import DARK, LIGHT
from convexnet.lab.runs.records import versions


def write_page(certificate: cx.Certificate, path: Path, name: str) -> None:
    """Write a certificate, with what breaks it and how to mend that, as one HTML file.

    Args:
        certificate: what was found.
        path: of the page.
        name: what was certified.
    """
    page = template("certificate.html.j2")
    text = page.render(certificate=certificate, name=name, versions=versions(), light=LIGHT, dark=DARK)
    write_whole(path, text)
