"""Write what is recorded of the paper's claims into the pages that show it: `python docs/tools/claims.py`."""

from __future__ import annotations

from pathlib import Path

from convexnet.lab.reports.claims import claims, filled
from convexnet.lab.reports.report import collected

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "docs" / "what-holds-of-the-claims.md", ROOT / "results" / "README.md")


def main() -> None:
    """Rewrite the pages from the records."""
    text = claims(collected([ROOT / "results"]))
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
