"""Stages of made-up jobs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeproof.errors import DataError
from edgeproof.runs import Run, write_json


def add(config: Mapping[str, Any], out: Run) -> None:
    """Write the sum of a number and of what other jobs have written; each call leaves a line in `calls`."""
    with Path(config["calls"]).open("a") as file:
        file.write(f"{out.path.name}\n")
    time.sleep(config.get("seconds", 0))
    others = [int((Path(path) / "sum.json").read_text()) for path in config.get("of", ())]
    write_json(out.path / "sum.json", config["number"] + sum(others))


def refuse(config: Mapping[str, Any], out: Run) -> None:
    raise DataError(f"no {config['what']} today; bring some")


def die(config: Mapping[str, Any], out: Run) -> None:
    os._exit(9)
