"""Pages of the site that are files elsewhere in the repository, so that nothing is written down twice.

MkDocs takes pages from one folder. README.md, CONTRIBUTING.md and benchmarks/README.md are where people and tools look
for them; here they become pages too, with their links, which count from where the file lies, turned to the site's.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "benchmarks/README.md": "benchmarks.md"}
"""Files of the repository, and the pages they become."""

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; called by MkDocs before it reads any."""
    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=turned((root / source).read_text(encoding="utf-8"), source)))
    return files


def turned(text: str, source: str) -> str:
    """A file of the repository with its links turned to pages of the site."""

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        if target not in PAGES and not target.startswith("docs/"):
            raise PluginError(
                f"{source} links to {found[1]}, which is no page of the site: name the file without a link, or make "
                "it a page in docs/tools/pages.py"
            )
        return f"]({PAGES.get(target, target.removeprefix('docs/'))}"

    return LINK.sub(link, text)
