"""Properties by the list: each instance is a graph, a property and a time limit; what is answered survives an interruption."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeproof.attacks.properties.falsify import Answer, falsify
from edgeproof.attacks.properties.graph import Graph, open_graph
from edgeproof.attacks.properties.regions import Vector
from edgeproof.attacks.properties.vnnlib import read_vnnlib
from edgeproof.config import FalsifyConfig, Strict, parse_number
from edgeproof.errors import ConfigError, DataError, ToolkitError
from edgeproof.runs import Run, write_json, write_text
from edgeproof.system.progress import progress
from edgeproof.system.untrusted import read_csv

LOG = logging.getLogger(__name__)

_SECONDS = 20.0
_MAX_LIST_BYTES = 2**24
_ANSWERS = "answers"


@dataclass(frozen=True)
class Instance:
    """One question."""

    graph: Path
    vnnlib: Path
    seconds: float


class AnswerRecord(Strict):
    """One answer, as `answers.json` has it. "error" says that the question could not be put, and why."""

    graph: str
    vnnlib: str
    verdict: Literal["sat", "unknown", "error"]
    seconds: float
    rounds: int = 0
    found_by: str = ""
    rejected: int = 0
    note: str = ""


def read_instances(config: FalsifyConfig) -> tuple[Instance, ...]:
    """Return the one instance that a configuration names, or those of its CSV file.

    A row is `graph,property,seconds`, as in VNN-COMP, without a header; paths are relative to the file. A property that is not
    there is looked for with .gz behind its name.

    Raises:
        ConfigError: When the configuration names neither, or both.
        DataError: For a row that is no instance.
    """
    single = (config.graph, config.vnnlib)
    if config.instances is None and all(single):
        seconds = _SECONDS if config.timeout is None else config.timeout
        return (Instance(Path(str(config.graph)), _present(Path(str(config.vnnlib))), seconds),)
    if config.instances is None or any(single):
        raise ConfigError("expected either --vnnlib FILE with --graph FILE.onnx, or --instances FILE.csv")
    file = Path(config.instances)
    if file.is_file() and file.stat().st_size > _MAX_LIST_BYTES:
        raise DataError(f"{file} has {file.stat().st_size} bytes; expected at most {_MAX_LIST_BYTES}")
    rows = read_csv(file)
    if not rows:
        raise DataError(f"{file} has no rows; expected graph,property,seconds in each")
    return tuple(_instance(row, number, file, timeout=config.timeout) for number, row in enumerate(rows, 1))


def answer_instances(config: FalsifyConfig, out: Run) -> None:
    """Search for a counterexample to every instance, and write `answers.json`, `results.csv` and `counterexamples/`.

    Raises:
        ToolkitError: When the only instance cannot be searched; among several it is recorded as an error and counted.
    """
    instances = read_instances(config)
    opened: dict[Path, Graph] = {}
    with progress("properties", len(instances)) as advance:
        for number, instance in enumerate(instances):
            file = out.path / _ANSWERS / f"{number:05d}.json"
            if not file.exists():
                record = _answer(
                    instance, opened, out.path / counterexample_name(number), config, alone=len(instances) == 1
                )
                write_json(file, record.model_dump())
            advance(1)
    files = sorted((out.path / _ANSWERS).glob("*.json"))
    records = [AnswerRecord.model_validate_json(file.read_bytes()) for file in files]
    write_json(out.path / "answers.json", [record.model_dump() for record in records])
    rows = [f"{record.graph},{record.vnnlib},{record.verdict},{record.seconds:.3f}" for record in records]
    write_text(out.path / "results.csv", "\n".join(rows) + "\n")
    counts = [sum(record.verdict == verdict for record in records) for verdict in ("sat", "unknown", "error")]
    first = next((f"; first error: {record.note}" for record in records if record.verdict == "error"), "")
    LOG.info("{} sat, {} unknown, {} errors{}".format(*counts, first))
    out.intermediate(_ANSWERS)


def read_answers(run: Run) -> tuple[list[AnswerRecord], dict[int, str]]:
    """Return the answers of a finished run, and the text of the counterexamples by their number."""
    values = json.loads(run.file("answers.json").read_text(encoding="utf-8"))
    records = [AnswerRecord.model_validate(value) for value in values]
    numbers = [number for number, record in enumerate(records) if record.verdict == "sat"]
    return records, {n: run.file(counterexample_name(n)).read_text(encoding="utf-8") for n in numbers}


def counterexample_name(number: int) -> str:
    """Return where the counterexample of an instance stands in its run."""
    return f"counterexamples/{number:05d}.txt"


def format_answer(verdict: str, x: Vector | None = None, y: Vector | None = None) -> str:
    """Write an answer as VNN-COMP has it: the verdict, then the values of X_i and Y_j, which read back exactly."""
    if x is None or y is None:
        return f"{verdict}\n"
    pairs = [
        f"({letter}_{k} {float(value)!r})" for letter, values in (("X", x), ("Y", y)) for k, value in enumerate(values)
    ]
    return f"{verdict}\n(" + "\n ".join(pairs) + ")\n"


def _present(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    # os.path answers where a Path raises: a name may be of any length.
    return packed if os.path.isfile(packed) and not os.path.isfile(path) else path


def _instance(row: Sequence[str], number: int, file: Path, *, timeout: float | None) -> Instance:
    words = [word.strip() for word in row]
    if len(words) not in (2, 3) or not all(words):
        raise DataError(f"{file}, row {number}: {','.join(row)[:80]!r}; expected graph,property,seconds")
    own = parse_number(words[2]) if len(words) == 3 else _SECONDS
    return Instance(file.parent / words[0], _present(file.parent / words[1]), own if timeout is None else timeout)


def _answer(
    instance: Instance, opened: dict[Path, Graph], file: Path, config: FalsifyConfig, *, alone: bool
) -> AnswerRecord:
    """Answer one instance and write its counterexample."""
    names = {"graph": str(instance.graph), "vnnlib": str(instance.vnnlib)}
    began = time.monotonic()
    try:
        found = _search(instance, opened, config, began=began)
    except ToolkitError as error:
        if alone:
            raise
        return AnswerRecord(**names, verdict="error", seconds=time.monotonic() - began, note=str(error))
    if found.verdict == "sat":
        write_text(file, format_answer("sat", found.x, found.y))
    return AnswerRecord(
        **names,
        verdict=found.verdict,
        seconds=time.monotonic() - began,
        rounds=found.rounds,
        found_by=found.found_by,
        rejected=found.rejected,
        note=found.note,
    )


def _search(instance: Instance, opened: dict[Path, Graph], config: FalsifyConfig, *, began: float) -> Answer:
    if instance.graph not in opened:
        opened.clear()  # lists go graph by graph, and graphs may be large
        opened[instance.graph] = open_graph(instance.graph, threads=config.threads)
    asked = read_vnnlib(instance.vnnlib)
    left = began + instance.seconds - time.monotonic()
    return falsify(
        opened[instance.graph], asked, timeout=left, rounds=config.rounds, points=config.points, seed=config.seed
    )
