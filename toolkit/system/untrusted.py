"""Untrusted JSON and CSV: limited in size and depth, and one line where it is not what it should be."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgeproof.errors import DataError

MAX_JSON_BYTES = 64 * 2**20  # the results of a thousand classes in ten forms under ten attacks have about 30 MB
MAX_DEPTH = 64

R = TypeVar("R", bound=BaseModel)
_HALF = re.compile(r"[\ud800-\udfff]")


def is_text(value: object) -> bool:
    """Return whether a value is text that UTF-8 can write: JSON and file names can hold half a character."""
    return isinstance(value, str) and not _HALF.search(value)


def read_index(text: str) -> int | None:
    """Return the number that a text of at most nine digits is, else None: Python refuses to read thousands of them."""
    return int(text) if text.isdecimal() and len(text) < 10 else None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: When it is missing, too large, nested too deep, or no JSON.
    """
    return parse_json(_content(path), what=str(path))


def parse_json(text: str | bytes, *, what: str) -> Any:
    """Read a JSON text.

    Args:
        text: The text, UTF-8 where it is bytes.
        what: What it is, for messages.

    Raises:
        DataError: When it is nested too deep, or no JSON.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} cannot be read as JSON ({str(error)[:200]}); write it again") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        lists = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [item for each in lists for item in each if isinstance(item, (dict, list))]
    if level:
        raise DataError(f"{what} is nested deeper than {MAX_DEPTH} levels; expected less")
    return value


def read_record(path: Path, kind: type[R]) -> R:
    """Read a JSON file of a known shape.

    Raises:
        DataError: When it is missing, too large, no JSON, or of another shape; the first misfit is named.
    """
    try:
        return kind.model_validate_json(_content(path))
    except ValidationError as error:
        raise DataError(f"{path} cannot be read ({first_problem(error)}); write it again") from error


def first_problem(error: ValidationError) -> str:
    """Name the first part of a record that is not as it should be, and say what is wrong with it."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))[:80]
    return f"{where or 'it'}: {first['msg'][:200]}"


def read_csv(path: Path) -> list[list[str]]:
    """Read the rows of a CSV file as spreadsheets write them: with or without a byte order mark, separated by commas, semicolons or
    tabs, whichever stands in the first row; where it is semicolons, 0,5 is one half. Empty rows are left out.

    Raises:
        DataError: When it is missing, too large, or no text in rows.
    """
    try:
        text = _content(path).decode("utf-8-sig")
        first = next((line for line in text.splitlines() if line.strip()), "")
        bare = re.sub(r'"[^"]*"', "", first)
        separator = next((mark for mark in (";", "\t") if mark in bare), ",")
        rows = [
            [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        ]
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{path} is no CSV file ({str(error)[:200]}); expected rows of values, separated by commas"
        ) from error
    if separator == ";":
        rows = [[re.sub(r"^([+-]?\d*),(\d+)$", r"\1.\2", cell) for cell in row] for row in rows]
    return [row for row in rows if any(row)]


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(f"{path} has {size} bytes; expected at most {MAX_JSON_BYTES}")
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)  # a device has no size and no end
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_JSON_BYTES:
        raise DataError(f"{path} goes on after {MAX_JSON_BYTES} bytes; expected at most as many")
    return content
