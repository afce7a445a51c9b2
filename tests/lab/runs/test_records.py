"""Files of records: whole lines or nothing, whoever writes and whatever breaks."""

from __future__ import annotations

import json
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convexnet.lab.runs.records import FIELDS, VERSION, RecordError, append_record, read_records
from convexnet.lab.runs.serial import error_in_words


def row(**changes: Any) -> dict[str, Any]:
    return dict.fromkeys(FIELDS) | {"record": VERSION, "key": "k", "versions": {"convexnet": "0.1.0"}} | changes


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "r.jsonl"
    rows = [row(key=str(number), note="ä → “x”") for number in range(3)]
    for one in rows:
        append_record(path, one)
    assert read_records(path) == rows
    assert read_records(path) != rows[::-1]


@given(cut=st.integers(0, 10_000))
def test_half_a_last_line_is_left_out_and_mended(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("records") / "r.jsonl"
    append_record(path, row(key="a"))
    whole = path.read_bytes()
    torn = (json.dumps(row(key="b", note="x" * 300)) + "\n").encode()
    path.write_bytes(whole + torn[: cut % len(torn)])
    assert [one["key"] for one in read_records(path)] == ["a"]
    append_record(path, row(key="c"))
    assert [one["key"] for one in read_records(path)] == ["a", "c"]


def test_a_very_long_torn_line_is_mended_too(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, row(key="a"))
    with path.open("a") as file:
        file.write("x" * 200_000)
    append_record(path, row(key="b"))
    assert [one["key"] for one in read_records(path)] == ["a", "b"]
    path.write_text("y" * 200_000)
    append_record(path, row(key="c"))
    assert [one["key"] for one in read_records(path)] == ["c"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{not json", r"r\.jsonl, line 2: not JSON"),
        ("[1]", "line 2: a record of version None"),
        (json.dumps(row(record=99, versions={"convexnet": "9.9"})), r"version 99, .*reads version 1.*\(9\.9\)"),
        (json.dumps(row(record=0, versions=None)), "version 0"),
        (json.dumps({"record": VERSION, "key": "x"}), "lacks .*clean_train_accuracy"),
    ],
    ids=["no json", "no object", "newer", "older", "fields"],
)
def test_what_cannot_be_read_is_named(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, row())
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RecordError, match=told):
        read_records(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        read_records(tmp_path / "none.jsonl")


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, row(key="a"))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(RecordError, match=r'could not be added.*by hand: \{.*"key": "b"') as told:
            append_record(path, row(key="b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    # A sweep goes on with the same command, and its terminal need not show the whole record.
    assert error_in_words(told.value).endswith("run the same command again")
    # The line in the message is the record.
    by_hand = str(told.value).partition("by hand: ")[2]
    path.write_bytes(before + by_hand.encode() + b"\n")
    assert [one["key"] for one in read_records(path)] == ["a", "b"]


def test_nan_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"'test_accuracy': .* not JSON"):
        append_record(tmp_path / "r.jsonl", row(test_accuracy=float("nan")))
    assert not (tmp_path / "r.jsonl").exists()


def write_many(path: Path, name: str) -> None:
    for number in range(50):
        append_record(path, row(key=f"{name}{number}", note="x" * 5000))


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {one["key"] for one in read_records(path)} == {f"{name}{number}" for name in "ab" for number in range(50)}
