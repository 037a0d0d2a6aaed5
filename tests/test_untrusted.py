"""JSON from strangers, and messages that hold what strangers wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproof.config import Strict
from edgeproof.errors import DataError
from edgeproof.system import untrusted
from edgeproof.system.untrusted import read_csv, read_json, read_record


class Point(Strict):
    x: int


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[" * 80 + b"]" * 80, "nested deeper than 64 levels"),
        (b"[" + b"1" * 100 + b"]", "has 102 bytes; expected at most 100"),
    ],
)
def test_what_is_no_json_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    if "expected at most" in message:
        monkeypatch.setattr(untrusted, "MAX_JSON_BYTES", 100)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "a.json")


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read \\(No such file"):
        read_json(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ['{"x": "one"}', '{"y": 1}', "[]", '{"x": ' + "[" * 500 + "]" * 500 + "}"])
def test_another_shape_is_refused_and_the_misfit_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json cannot be read \((x|y|it|Invalid.*):"):
        read_record(tmp_path / "a.json", Point)


def test_a_message_is_one_line_that_a_terminal_only_shows() -> None:
    text = str(DataError("name \x1b[31m\nsecond line " + "x" * 10_000))
    assert text.startswith(r"name \x1b[31m\nsecond line x")
    assert "\n" not in text
    assert len(text) < 2100


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "line, expected",
    [
        (b"cat,dog", ["cat", "dog"]),
        (b"cat;dog", ["cat", "dog"]),
        (b"cat\tdog", ["cat", "dog"]),
        (b"0,5;1", ["0.5", "1"]),
        (b"-0,25;a,b", ["-0.25", "a,b"]),
        (b'"a,b",c', ["a,b", "c"]),
        (b'"a;b",c', ["a;b", "c"]),
        (b"only", ["only"]),
    ],
)
def test_csv_files_are_read_as_spreadsheets_write_them(
    tmp_path: Path, mark: bytes, end: bytes, line: bytes, expected: list[str]
) -> None:
    (tmp_path / "a.csv").write_bytes(mark + line + end + end + line + end)
    assert read_csv(tmp_path / "a.csv") == [expected, expected]
