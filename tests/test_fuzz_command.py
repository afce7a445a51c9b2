"""`make fuzz`: every part runs, and the first thing that is wrong ends it with a command that shows it again."""

from __future__ import annotations

import re

import pytest

from tests import fuzz

WRONG = (
    ("curvature", "tests.curvature.fuzz.check"),
    ("solve", "tests.solve.fuzz.checked"),
    ("rows", "tests.fuzz.attack"),
)


@pytest.mark.parametrize(("part", "place"), WRONG)
def test_what_is_wrong_is_told(
    part: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> list[str]:
        raise AssertionError("it is wrong")

    monkeypatch.setattr(place, fails)
    assert fuzz.main([part, "forms", "--seconds", "600", "--seed", "3"]) == 1
    shown = capsys.readouterr()
    assert "it is wrong" in shown.out + shown.err
    assert "make fuzz SEED=3" in shown.out
    assert re.search(r'^Again: python -c "from tests\.', shown.out.replace("WRONG. ", ""), re.MULTILINE)
    assert "== forms" not in shown.out


def test_the_parts_share_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--seconds", "0", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^== (\w+), 0 s$", shown, re.MULTILINE) == list(fuzz.SHARES)
    assert shown.count("seeds 3 to 2") == len(fuzz.SHARES)
    assert sum(fuzz.SHARES.values()) == pytest.approx(1.0)
