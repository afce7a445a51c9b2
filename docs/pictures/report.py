"""The picture of the demo's report in README.md: the page of `convexnet demo --seed 0`, as a browser shows it.

    convexnet demo --seed 0 --out runs/picture
    python docs/pictures/report.py runs/picture/report.html

Needs playwright and an installed Chromium, and Pillow, which matplotlib brings.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

OUT = Path(__file__).with_name("report.png")
SIZE = {"width": 1120, "height": 860}


def main(page: Path) -> None:
    """Write the top of the page, and under it how the networks learn, side by side in 200 colours."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        top = tab.screenshot()
        tab.evaluate("document.querySelector('.legend').previousElementSibling.previousElementSibling.scrollIntoView()")
        learning = tab.screenshot()
        browser.close()
    parts = [Image.open(io.BytesIO(part)).convert("RGB") for part in (top, learning)]
    whole = Image.new("RGB", (sum(part.width for part in parts) + 2, parts[0].height), "#d5dae1")
    whole.paste(parts[0], (0, 0))
    whole.paste(parts[1], (parts[0].width + 2, 0))
    whole = whole.resize((whole.width * 3 // 4, whole.height * 3 // 4), Image.Resampling.LANCZOS)
    whole.quantize(200, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
