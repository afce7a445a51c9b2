"""The documentation site: it builds in strict mode, every link in it leads somewhere, all that is public is in it."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.exceptions import PluginError

import convexnet as cx

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    *("convexnet.nn", "convexnet.energy", "convexnet.ensembles", "convexnet.initialise", "convexnet.rl"),
    "convexnet.zoo",
)
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
"""What a browser fetches by itself, as opposed to `a`, which a reader follows."""


@dataclass
class Page(HTMLParser):
    """One page: where one can link to in it, where it links to, and the words in `<code>`."""

    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[tuple[str, str]] = field(default_factory=list)
    code: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.inside = False
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        attribute = LOADED.get(tag, "href")
        if attribute in values:
            self.links.append((tag, values[attribute]))
        self.inside = tag == "code"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.code.add(data.strip())
        self.inside = False


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken(site: Path) -> list[str]:
    """Links of a built site to a file or anchor that is not there, and whatever a page loads from another host."""
    found = pages(site)
    wrong: list[str] = []
    for path, page in found.items():
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if tag in LOADED and parts.scheme != "data":
                    wrong.append(f"{path.relative_to(site)} loads {link}")
                continue
            name = unquote(parts.path)
            target = site / name.lstrip("/") if name.startswith("/") else path.parent / name
            target = path if not name else target.resolve()
            if target.is_dir():
                target /= "index.html"
            there = target.is_file() and target.is_relative_to(site)
            anchor = unquote(parts.fragment)
            if not there or (anchor and target in found and anchor not in found[target].anchors):
                wrong.append(f"{path.relative_to(site)} links to {link}")
    for sheet in site.rglob("*.css"):
        remote = re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+", sheet.read_text(encoding="utf-8"))
        wrong += [f"{sheet.relative_to(site)} loads {link}" for link in remote]
    return wrong


def undocumented(site: Path, owner: str, names: Iterable[str]) -> list[str]:
    """Names of a module without an entry of their own in the reference (classes, functions) or without a mention."""
    reference = [page for path, page in pages(site).items() if path.parent == site / "api"]
    anchors = {anchor for page in reference for anchor in page.anchors}
    mentioned = {word for page in reference for word in page.code}
    missing: list[str] = []
    for name in names:
        value = getattr(importlib.import_module(owner), name, None)
        entries = {f"{owner}.{name}"}
        if inspect.isclass(value) or inspect.isfunction(value):
            entries.add(f"{value.__module__}.{value.__qualname__}")
        elif value is not None:
            entries |= {name} & mentioned
            anchors |= {name} & mentioned
        if not entries & anchors:
            missing.append(f"{owner}.{name}")
    return missing


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does; with proxies that lead nowhere, so that nothing can be fetched."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_site(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not broken(tmp_path)

    assert not undocumented(tmp_path, "convexnet", cx.__all__)
    for module in MODULES:
        assert not undocumented(tmp_path, module, importlib.import_module(module).__all__)
    assert undocumented(tmp_path, "convexnet", ["certify", "nothing"]) == ["convexnet.nothing"]
    assert undocumented(tmp_path, "convexnet.domains", ["Bound"]) == ["convexnet.domains.Bound"]
    assert undocumented(tmp_path, "convexnet.memory", ["recall"]) == ["convexnet.memory.recall"]


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """With our settings, in a site of two pages: without the reference, which takes the time."""
    copy = tmp_path / "copy"
    (copy / "docs").mkdir(parents=True)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for section in ("hooks", "nav", "plugins", "theme", "extra_css"):
        settings, count = re.subn(rf"^{section}:\n(?:[ #].*\n|\n(?= ))*", "", settings, flags=re.MULTILINE)
        assert count == 1, section
    (copy / "mkdocs.yml").write_text(settings, encoding="utf-8")
    (copy / "docs" / "index.md").write_text("# Systems\n", encoding="utf-8")
    page, sound = copy / "docs" / "training.md", "[a page](index.md) [an anchor](index.md#systems)\n"
    page.write_text(sound, encoding="utf-8")
    done = build(copy, tmp_path / "sound")
    assert done.returncode == 0, done.stderr
    assert not [text for text in broken(tmp_path / "sound") if text.startswith("training.html links to index.html#")]

    page.write_text(f"{sound}\n[a page](nowhere.md) [an anchor](index.md#nowhere)\n", encoding="utf-8")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert "index.md#nowhere" in done.stderr
    assert "training.html links to index.html#nowhere" in broken(tmp_path / "site")


def tool(name: str) -> ModuleType:
    """A module of docs/tools, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_keep_what_they_say() -> None:
    docstrings = tool("docstrings")
    result = doctest.testmod(docstrings)
    assert result.attempted > 0
    assert result.failed == 0
    text = inspect.cleandoc(cx.convexify.__doc__ or "")
    rewritten = docstrings.rewritten(text)
    assert "    method: how the constraint is kept" in rewritten
    assert "    epsilon: how the constraint is kept" in rewritten
    assert set(re.findall(r"\w+", text)) - set(re.findall(r"\w+", rewritten)) == {"Example"}


def test_links_of_elsewherefrom_elsewhere() -> None:
    elsewhere = tool("pages")
    text = "[a](docs/systems.md#x) [b](CONTRIBUTING.md) [c](https://example.org) [d](#here)"
    turned = "[a](systems.md#x) [b](contributing.md) [c](https://example.org) [d](#here)"
    assert elsewhere.turned(text, "README.md") == turned
    assert elsewhere.turned("[a](../docs/systems.md)", "benchmarks/README.md") == "[a](systems.md)"
    with pytest.raises(PluginError, match="no page of the site"):
        elsewhere.turned("[a](src/convexnet/errors.py)", "README.md")


@pytest.mark.parametrize(
    ("html", "wrong"),
    [
        ('<h1 id="top"></h1><a href="#top"></a><a href="other.html#b"></a><a href="https://example.org"></a>', []),
        ('<a href="missing.html"></a>', ["page.html links to missing.html"]),
        ('<a href="#missing"></a>', ["page.html links to #missing"]),
        ('<a href="other.html#a"></a>', ["page.html links to other.html#a"]),
        ('<a href="../outside.txt"></a>', ["page.html links to ../outside.txt"]),
        ('<img src="missing.png">', ["page.html links to missing.png"]),
        ('<script src="https://example.org/x.js"></script>', ["page.html loads https://example.org/x.js"]),
        ('<link href="//example.org/x.css">', ["page.html loads //example.org/x.css"]),
        ("<style></style>", ["sheet.css loads url(https://example.org/font.woff2"]),
    ],
    ids=["sound", "page", "anchor", "anchor elsewhere", "outside", "picture", "script", "sheet", "font"],
)
def test_the_link_checker(html: str, wrong: list[str], tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.txt").write_text("")
    (site / "page.html").write_text(html)
    (site / "other.html").write_text('<p id="b"></p>')
    if "<style>" in html:
        (site / "sheet.css").write_text("@font-face { src: url(https://example.org/font.woff2) }")
    assert broken(site) == wrong
