"""Load the HTML templates of the pages, which come with the package."""

from __future__ import annotations

import jinja2


def template(name: str) -> jinja2.Template:
    """One of the files in the folder `templates`; what it asks for and does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
