"""Kill every stage with SIGKILL, continue it by the same command, and hold the result to that of an undisturbed run.

    python -m tests.reliability.kills --kills 100 --write docs/reliability-kills.json

Half of the kills come after a random share of the undisturbed time, half before a random one of the changes that the stage
makes to its run folder (files opened for writing, renamed, removed, synchronised), which is where a mistake would show.
Every file of the folder is compared byte by byte, hidden ones and left-over ones included. Left out: in `manifest.json` the
times (`seconds`, `created`), in `parity.json` `export_seconds`, and with it that file's hash and size in the manifest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.children import KILLED, Outcome, command, preload, run_child
from tests.reliability.stages import STAGES, Stage, killed_stages

_LOCK = ".lock"


@dataclass
class Figures:
    """What came of killing one stage.

    Attributes:
        stage: Its name.
        seconds: Of the undisturbed run.
        moments: Changes that it makes to its folder.
        by_time: Kills after a random share of the time.
        by_moment: Kills before a random change.
        too_late: Kills that came when the stage had ended; they do not count.
        differences: What was not as in the undisturbed run, with the kill that made it.
    """

    stage: str
    seconds: float
    moments: int
    by_time: int = 0
    by_moment: int = 0
    too_late: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Kills that came while the stage ran."""
        return self.by_time + self.by_moment


def kill_stage(stage: Stage, root: Path, *, kills: int, seed: int) -> Figures:
    """Kill one stage so many times, each time from an empty folder, and compare what the next run makes of it.

    Args:
        stage: The stage; those that it reads are finished under `root`.
        root: Where the run folders are.
        kills: How many.
        seed: Of the moments.
    """
    # Apart from what others read: another manifest would be another input of theirs.
    out, log = root / "killed" / stage.name, root / f"{stage.name}.log"
    undisturbed = _run(stage, root, out, log)
    expected = snapshot(out)
    figures = Figures(stage.name, round(undisturbed.seconds, 2), undisturbed.moments)
    dice = random.Random(f"{seed} {stage.name}")
    while figures.kills < kills:
        shutil.rmtree(out, ignore_errors=True)
        by_moment = figures.kills % 2 == 1
        if by_moment:
            kill: dict[str, Any] = {"moment": dice.randint(1, undisturbed.moments)}
        else:
            kill = {"after": dice.random() * undisturbed.seconds}
        outcome = run_child(command(stage.arguments(root, out)), watched=out, log=log, **kill)
        if outcome.status != KILLED:
            figures.too_late += 1
            continue
        figures.by_moment += by_moment
        figures.by_time += not by_moment
        figures.differences += [f"killed {kill}: {each}" for each in _continue(stage, root, out, log, expected)]
    return figures


def _continue(stage: Stage, root: Path, out: Path, log: Path, expected: Mapping[str, bytes]) -> list[str]:
    """Repeat the command, and name what its result differs in."""
    try:
        _run(stage, root, out, log)
    except RuntimeError as error:
        return [str(error)]
    return differences(expected, snapshot(out))


def prepare(root: Path, wanted: Sequence[Stage]) -> None:
    """Make the runs that these stages read, and those that these need in turn."""
    for stage in _needed(wanted):
        _run(stage, root, root / stage.name, root / f"{stage.name}.log")


def _needed(wanted: Sequence[Stage]) -> list[Stage]:
    names = {stage.name for stage in wanted}
    needed: set[str] = set()
    for stage in reversed(STAGES):
        if stage.name in names | needed:
            needed |= {other.name for other in STAGES if f"{{{other.name}}}" in stage.command}
    return [stage for stage in STAGES if stage.name in needed]


def _run(stage: Stage, root: Path, out: Path, log: Path) -> Outcome:
    outcome = run_child(command(stage.arguments(root, out)), watched=out, log=log)
    if outcome.status:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
        raise RuntimeError(f"{stage.name} ended with status {outcome.status}: {said}")
    return outcome


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file, without what is measured in seconds."""
    files = [path for path in sorted(folder.rglob("*")) if path.name != _LOCK]
    return {path.relative_to(folder).as_posix(): _content(path) for path in files}


def _content(path: Path) -> bytes:
    if path.is_dir():
        return b"a folder"
    if path.name not in ("manifest.json", "parity.json"):
        return path.read_bytes()
    return json.dumps(_untimed(json.loads(path.read_bytes())), sort_keys=True).encode()


def _untimed(value: Any) -> Any:
    if isinstance(value, Mapping):
        timed = {"seconds", "created", "export_seconds"}
        if value.get("path") == "parity.json":
            timed |= {"sha256", "size"}
        return {key: _untimed(item) for key, item in value.items() if key not in timed}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Name the files that are missing, too many, or of other content."""
    missing = [f"{name} is missing" for name in expected.keys() - found.keys()]
    extra = [f"{name} is left over" for name in found.keys() - expected.keys()]
    changed = [f"{name} differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(missing + extra + changed)


def kill_all(root: Path, names: Sequence[str], *, kills: int, seed: int) -> list[Figures]:
    """Kill the named stages (all where none is named), and tell what came of each on stderr."""
    wanted = [stage for stage in killed_stages() if not names or stage.name in names]
    prepare(root, wanted)
    made = []
    for stage in wanted:
        began = time.monotonic()
        figures = kill_stage(stage, root, kills=kills, seed=seed)
        took = time.monotonic() - began
        print(
            f"{stage.name}: {figures.by_time} kills by time, {figures.by_moment} by change, {figures.too_late} too late, "
            f"{len(figures.differences)} differences, {took:.0f} s",
            *figures.differences[:20],
            sep="\n  ",
            file=sys.stderr,
        )
        made.append(figures)
    return made


def main() -> int:
    """Run from the command line; exit status 1 when anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each stage (default: 100)")
    parser.add_argument("--stage", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEPROOF_RUNS"] = folder
        figures = kill_all(Path(folder), options.stage, kills=options.kills, seed=options.seed)
    if options.write:
        options.write.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n", encoding="utf-8")
    return int(any(each.differences for each in figures))


if __name__ == "__main__":
    sys.exit(main())
