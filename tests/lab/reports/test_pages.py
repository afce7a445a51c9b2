"""Every page that is written, in a real browser: on a phone and on a desk, light and dark, nothing is cut off.

The browser is an installed Chromium (`chromium`, `google-chrome`, or the one of `playwright install chromium`), driven
by playwright, which comes with the extra `dev`. Where one of the two is missing, the tests are skipped with a sentence.
They look for what a reader would notice: a page wider than its screen, words that leave their box, a picture that is
not drawn, an error in the console.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet.lab.reports.certificate_page import write_page
from convexnet.lab.reports.report import write_report
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import append_record
from convexnet.lab.studies import STUDIES, table1
from convexnet.lab.training.recipes import recipe
from tests.lab.studies.test_studies import row

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCREENS = {"phone": (390, 844), "desk": (1280, 900)}

CUT_OFF = """() => {
  // Words that reach beyond the right edge of the page, or of a box that hides them; pictures that are not drawn.
  const found = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) found.push(`the page is ${wide} wide, the screen ${innerWidth}`);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, text = node.textContent;
    const head = node.parentElement.closest('thead');
    if (!text.trim() || head && getComputedStyle(head).position === 'absolute') continue;  // for screen readers alone
    let edge = innerWidth;
    for (let e = node.parentElement; e; e = e.parentElement)
      if (getComputedStyle(e).overflowX !== 'visible') edge = Math.min(edge, e.getBoundingClientRect().right);
    const range = document.createRange();
    range.selectNodeContents(node);
    if (Array.from(range.getClientRects()).every(box => box.right <= edge + 1)) continue;
    for (const word of text.matchAll(/\\S+/g)) {  // blanks at the end of a line hang beyond it, and nobody misses them
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      for (const box of range.getClientRects())
        if (box.width > 1 && box.right > edge + 1) found.push(`${word[0]} ends at ${box.right}, its box at ${edge}`);
    }
  }
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) found.push(`no picture: ${image.alt}`);
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    missing = "no playwright; it comes with the extra `dev`: pip install '.[dev]'"
    sync_api: Any = pytest.importorskip("playwright.sync_api", reason=missing)
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    # As root, and in most containers, Chromium has no sandbox; the pages are our own.
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=path, args=flags)
        except sync_api.Error as error:
            pytest.skip(f"no Chromium could be started ({str(error).splitlines()[0]}); install one, such as `chromium`")
        yield started
        started.close()


def looked_at(browser: Any, path: Path, screen: str, scheme: str, tmp_path: Path) -> None:
    """Open a page on a screen; anything that is cut off or that the console reports fails."""
    width, height = SCREENS[screen]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        is_mobile=screen == "phone",
        has_touch=screen == "phone",
    )
    try:
        page = context.new_page()
        reports: list[str] = []
        page.on("console", lambda message: reports.append(message.text))
        page.on("pageerror", lambda error: reports.append(str(error)))
        page.on("request", lambda request: reports.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        problems = page.evaluate(CUT_OFF) + reports
        if problems:
            page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        assert not problems, f"{path.name}, {screen}, {scheme}; see {tmp_path / 'page.png'}"
        # The ground follows the reader's choice.
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
        assert (sum(ground) > 384) is (scheme == "light")
    finally:
        context.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A study's report, one of own runs of two kinds of learner, a certificate, and one with findings."""
    folder = tmp_path_factory.mktemp("pages")
    for job in table1.STUDY.jobs("two-core", 2):
        if job.dataset != "mnist":  # some lines are "not run"
            append_record(folder / "study" / "table1.jsonl", row(job))
    for number, name in enumerate(("mlp", "ioc-mlp", "ioc-mlp", "ioc-mlp", "mlp")):
        how = replace(recipe("ours", convex=name != "mlp"), epochs=2 + number)
        job = Job("train", name, "folder:/home/somebody/pictures-of-a-long-name/train-and-test", how, number)
        points = [{"epoch": e, "train_accuracy": 0.5, "test_accuracy": 0.4, "train_loss": 1.5} for e in (1.0, 2.0)]
        made = row(job, curve=points, noise="symmetric-including 40 %")
        made["recipe"] = {"name": "ours", "epochs": how.epochs, "convex": {"method": "clip"}}
        append_record(folder / "own" / "record.jsonl", made)
    other = {**row(Job("own", "k-means", "points", recipe("ours", convex=False), 9)), "task": "clustering"}
    other |= {"inertia": -12.5, "curve": [{"epoch": 1.0, "inertia": 20.0}, {"epoch": 2.0, "inertia": 12.5}]}
    append_record(folder / "own" / "record.jsonl", other)
    found = {name: folder / f"{name}.html" for name in ("study", "own", "convex", "not-convex")}
    for name in ("study", "own"):
        write_report([folder / name], found[name], STUDIES)
    torch.manual_seed(0)
    free = nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 1))
    held = cx.nn.FICNN(4, hidden=(8, 8))
    long = "a_package_of_a_long_name.models.with_many_parts:factory_of_the_network"
    write_page(cx.certify(held, torch.zeros(1, 4)), found["convex"], long)
    write_page(cx.certify(free, torch.zeros(1, 4)), found["not-convex"], long)
    return found


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", ["study", "convex", *(pytest.param(name, marks=pytest.mark.slow) for name in ("own", "not-convex"))]
)
def test_nothing_is_cut_off(name: str, pages: dict[str, Path], browser: Any, tmp_path: Path) -> None:
    for screen, scheme in (("phone", "light"), ("desk", "dark")):  # colours move nothing: all four in the slow test
        looked_at(browser, pages[name], screen, scheme, tmp_path)


@pytest.mark.browser
def test_a_page_that_is_too_wide_is_noticed(browser: Any, tmp_path: Path) -> None:
    """The test itself is tested: a long word, a table in a box that hides its end, and an error in the console."""
    words = {
        "wide": "<p style='white-space:nowrap'>" + "a word " * 40,
        "hidden": "<div style='overflow:hidden;width:100px;white-space:nowrap'>cut off in the middle of a sentence",
        "empty": "<img alt='x' src='data:image/png;base64,AA'>",
        "error": "<script>throw new Error('of the page')</script>",
    }
    for name, body in words.items():
        path = tmp_path / f"{name}.html"
        path.write_text(
            f"<!doctype html><meta name=viewport content='width=device-width'><body style='background:#fff'>{body}"
        )
        with pytest.raises(AssertionError):
            looked_at(browser, path, "phone", "light", tmp_path)


@pytest.mark.browser
def test_a_table_is_a_card_on_a_phone(pages: dict[str, Path], browser: Any) -> None:
    """Each cell then stands under the name of its column, and a line that was not run shows no dashes."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    page = context.new_page()
    page.goto(pages["study"].as_uri())
    shown = page.evaluate(
        """() => { const row = document.querySelector('tbody tr:not(.open)'), open = document.querySelector('tr.open');
        return {display: getComputedStyle(row).display,
                names: [...row.children].map(e => e.dataset.name),
                heads: [...row.closest('table').querySelectorAll('th')].map(e => e.textContent),
                said: getComputedStyle(row.children[3], '::before').content,
                dashes: [...open.children].filter(e => e.textContent === '–' && e.offsetHeight).length}; }"""
    )
    context.close()
    assert shown["display"] == "grid"
    assert shown["names"] == shown["heads"]
    assert json.loads(shown["said"]) == shown["heads"][3]
    assert shown["dashes"] == 0


@pytest.mark.browser
def test_a_lone_picture_is_not_stretched(pages: dict[str, Path], browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(pages["own"].as_uri())
    stretched = page.evaluate(
        """() => [...document.querySelectorAll('.panels > figure:only-child img')]
             .map(e => e.closest('figure').offsetWidth / e.getAttribute('width'))"""
    )
    context.close()
    assert stretched
    assert max(stretched) < 1.4


def test_runs_are_told_apart(pages: dict[str, Path]) -> None:
    text = pages["own"].read_text(encoding="utf-8")
    assert "<title>convexnet: runs</title>" in text
    assert "papers" not in text
    for label in ("MLP, ours, seed 0, epochs 2", "IOC-MLP, ours, seed 2, epochs 4", "inertia", "−12.5"):
        assert label in text
    assert "runs 1 to 4 of 5" in text, "four runs a picture"
    assert "run 5 of 5" in text
    plain = pages["own"].with_suffix(".md").read_text(encoding="utf-8")
    assert "Orange: MLP, ours, seed 0, epochs 2; blue: IOC-MLP" in plain


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "results"])
def test_nothing_is_cut_off_in_the_real_ones(name: str, browser: Any, tmp_path: Path) -> None:
    words = (
        ["demo", "--quick", "--out", str(tmp_path)] if name == "demo" else ["report", "results", "-o", "report.html"]
    )
    words[-1] = str(tmp_path / "report.html") if name == "results" else words[-1]
    # In a process of its own: playwright's loop runs in this one.
    subprocess.run([sys.executable, "-m", "convexnet.lab.cli", *words], cwd=ROOT, check=True, capture_output=True)
    for screen in SCREENS:
        for scheme in ("light", "dark"):
            looked_at(browser, tmp_path / "report.html", screen, scheme, tmp_path)
