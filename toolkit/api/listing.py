"""The run folders that are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeproof.errors import RunError
from edgeproof.runs import MANIFEST, Run, runs_root
from edgeproof.runs.fresh import IDENTITY


@dataclass(frozen=True)
class RunEntry:
    """A run folder.

    Attributes:
        kind: The stage that made it: train, attack, export, eval, ...
        name: What a person recognises it by.
        done: Whether it is finished; the same command continues one that is not.
        path: The folder.
    """

    kind: str
    name: str
    done: bool
    path: Path


def list_runs(root: str | Path | None = None) -> list[RunEntry]:
    """List the run folders under a folder, by name.

    Args:
        root: The folder (default: EDGEPROOF_RUNS, else `runs`).

    Raises:
        RunError: When there is no such folder, or a manifest in it cannot be read.
    """
    folder = Path(root) if root is not None else runs_root()
    if not folder.is_dir():
        raise RunError(f"no folder {folder}; expected one that holds run folders")
    return [
        _entry(path) for path in sorted(folder.iterdir()) if (path / MANIFEST).is_file() or (path / IDENTITY).is_file()
    ]


def _entry(path: Path) -> RunEntry:
    if (path / MANIFEST).is_file():
        manifest = Run.open(path).manifest
        if manifest is not None:
            return RunEntry(manifest.kind, manifest.name, True, path)
    kind, _, rest = path.name.partition("-")
    return RunEntry(kind, rest.rpartition("-")[0] or rest, False, path)
