"""Run folders: the only way in which stages talk to each other.

A stage writes its files into `runs/<kind>-<name>-<hash of config and inputs>/` and `manifest.json` last, atomically. A folder
without a manifest is unfinished: the same command continues it. One process at a time writes to a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from edgeproof.errors import ModelError, RunError, first_line
from edgeproof.onnx_files import hash_model
from edgeproof.onnx_files.loading import if_packed
from edgeproof.plugins.trusted import used_code
from edgeproof.runs.files import sync, take_lock, write_json, write_text
from edgeproof.runs.fresh import ASIDE, IDENTITY, LOCK, MANIFEST, REPLACED, bring_back, remove, set_aside
from edgeproof.runs.manifest import SCHEMA_VERSION, FileRecord, InputRecord, Manifest
from edgeproof.runs.tree import file_hashes, hash_tree
from edgeproof.system.distributed import world_size
from edgeproof.system.environment import describe_environment
from edgeproof.system.files import refuse_links, sha256_file
from edgeproof.system.untrusted import first_problem

#: Roles of inputs that are images in files: a folder of these counts whole, whatever is in it.
DATA_ROLES = ("data", "calibration")
_DISCARD = ".discard"
_MAX_MANIFEST_BYTES = 16 * 2**20
_NAMES = TypeAdapter(list[str])
_SPREAD = ("train", "attack")  # what several processes do together


def runs_root() -> Path:
    """Return where run folders live: EDGEPROOF_RUNS, else `runs`."""
    return Path(os.environ.get("EDGEPROOF_RUNS", "runs"))


class Run:
    """A run folder, either being written (`manifest` is None) or finished."""

    def __init__(self, path: Path, manifest: Manifest | None, *, draft: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._draft = dict(draft or {})
        self._verified: set[str] = set()
        self._intermediate: list[str] = []
        self._apart: list[str] = []
        self._lock: IO[str] | None = None
        self._started = time.monotonic()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {'finished' if self.manifest else 'unfinished'})"

    @property
    def done(self) -> bool:
        """Return whether the manifest has been written."""
        return self.manifest is not None

    @property
    def kind(self) -> str:
        """The stage that made the run, for instance "train"."""
        return self.manifest.kind if self.manifest else str(self._draft["kind"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that made (or is making) the run."""
        return dict(self.manifest.config if self.manifest else self._draft["config"])

    @classmethod
    def open(cls, path: Path | str, *, kind: str | None = None) -> Run:
        """Open a finished run.

        Raises:
            RunError: When the folder or its manifest is missing, unreadable or of another kind.
        """
        folder = Path(path)
        file = folder / MANIFEST
        if not folder.is_dir():
            raise RunError(
                f"no run folder at {folder}; expected one that train, poison, attack, export or eval has written"
            )
        if not file.is_file():
            raise RunError(f"{folder} has no {MANIFEST}: the run was not finished; repeat the command that began it")
        try:
            if file.stat().st_size > _MAX_MANIFEST_BYTES:
                raise RunError(f"{file} is larger than {_MAX_MANIFEST_BYTES} bytes: not one of ours")
            manifest = Manifest.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise RunError(f"{file} cannot be read ({reason}); repeat the command that made the run") from error
        if manifest.schema_version != SCHEMA_VERSION:
            raise RunError(f"{file} has schema version {manifest.schema_version}; this version reads {SCHEMA_VERSION}")
        if outside := next((record.path for record in manifest.outputs if not record.inside), None):
            raise RunError(f"{file} lists {outside[:200]!r}, which is not in its folder; do not trust this run")
        if kind and manifest.kind != kind:
            raise RunError(f"{folder} is the run of a {manifest.kind!r} stage; expected one of {kind!r}")
        return cls(folder, manifest)

    @classmethod
    def start(
        cls,
        kind: str,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, Path] | None = None,
        seed: int | None = None,
        root: Path | None = None,
        out: Path | None = None,
        fresh: bool = False,
        identity: Mapping[str, Any] | None = None,
    ) -> Run:
        """Begin a run, continue an unfinished one, or return a finished one of the same configuration and inputs.

        Args:
            kind: The stage, for instance "train".
            name: What a person recognises it by, for instance "digits-small-cnn".
            config: The resolved configuration, JSON-serialisable.
            inputs: Role to path; a run folder counts by the hash of its manifest, a model by all its files, images (`data`,
                `calibration`) by every file of theirs. The user's own code that the run uses is found by the configuration, and
                counts by the hash of its source.
            seed: The seed of the stage, repeated in the manifest.
            root: Where run folders live (default: EDGEPROOF_RUNS, else `runs`).
            out: The folder itself, instead of one under `root`.
            fresh: Replace what is in the folder; it stands in `.replaced` until the new run is finished.
            identity: What stands for the configuration when the run is looked up again, where that holds paths that may move.

        Raises:
            RunError: When the folder cannot be written, holds links, is locked by a living process or belongs to another run,
                or the stage is not for several processes.
        """
        if kind not in _SPREAD and world_size() > 1:
            raise RunError(f"{kind} runs in one process; torchrun is for {' and '.join(_SPREAD)}, see docs/scale.md")
        records = [_input_record(role, Path(path)) for role, path in (inputs or {}).items()]
        code = used_code(kind, config, {role: Path(path) for role, path in (inputs or {}).items()})
        records += [InputRecord(role=role, path=path, sha256=sha256) for role, path, sha256 in code]
        known = config if identity is None else identity
        text = json.dumps([kind, name, _given(known), [[r.role, r.sha256] for r in records]], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        folder = out or (root or runs_root()) / f"{kind}-{name}-{digest[:10]}"
        for role, path in (inputs or {}).items():
            if folder.resolve() in (Path(path).resolve(), *Path(path).resolve().parents):
                raise RunError(f"{folder} is to be written and read ({role}); choose another --out")
        draft = {
            "kind": kind,
            "name": name,
            "config": dict(config),
            "inputs": records,
            "seed": seed,
            "identity": digest,
        }
        run = cls(folder, None, draft=draft)
        run._acquire()
        try:
            if fresh and (folder / IDENTITY).exists():  # what is not ours `_claim` refuses
                set_aside(folder)
            if (folder / MANIFEST).exists():
                if run._identity() != digest:
                    raise RunError(
                        f"{folder} holds another finished run; choose another --out or add --fresh to replace it"
                    )
                run.manifest = cls.open(folder, kind=kind).manifest
                run._discard()
            else:
                run._claim(digest)
        except BaseException:
            run.close()
            raise
        return run

    def file(self, name: str) -> Path:
        """Return the path of one of the run's files; in a finished run its hash is verified once.

        Raises:
            RunError: When a finished run does not list the file, or the file is missing or has another hash.
        """
        path = self.path / name
        if self.manifest is None or name in self._verified:
            return path
        record = next((record for record in self.manifest.outputs if record.path == name), None)
        if record is None:
            raise RunError(f"{self.path} has no output {name!r}; it has: {', '.join(self.outputs())}")
        if not path.is_file():
            raise RunError(
                f"{path} is missing, though {MANIFEST} lists it; repeat the command that made the run with --fresh"
            )
        if sha256_file(path) != record.sha256:
            raise RunError(
                f"{path} was changed after the run (SHA-256 differs); repeat the command that made the run with --fresh"
            )
        self._verified.add(name)
        return path

    def records(self) -> tuple[FileRecord, ...]:
        """Return what a finished run's manifest says of its files."""
        return self.manifest.outputs if self.manifest else ()

    def outputs(self) -> list[str]:
        """Return the names of a finished run's files."""
        return [record.path for record in self.records()]

    def intermediate(self, *names: str) -> None:
        """Name files and folders of intermediate state, deleted once the manifest is written."""
        self._intermediate += names

    def apart(self, *names: str) -> None:
        """Name folders that are no outputs: logs, and runs with manifests of their own."""
        self._apart += names

    def finish(self) -> None:
        """Hash every file, write the manifest last and release the folder; the end of a `with` block does it."""
        skip = {LOCK, IDENTITY, _DISCARD, MANIFEST, REPLACED, ASIDE, *self._intermediate, *self._apart}
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file()]
        kept = [path for path in files if path.relative_to(self.path).parts[0] not in skip and ".tmp" not in path.name]
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=self._draft["kind"],
            name=self._draft["name"],
            command=tuple(sys.argv),
            config=self._draft["config"],
            inputs=tuple(self._draft["inputs"]),
            outputs=tuple(self._file_record(path) for path in kept),
            environment=describe_environment(),
            seed=self._draft["seed"],
            seconds=round(time.monotonic() - self._started, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        write_json(self.path / _DISCARD, (*self._intermediate, REPLACED, ASIDE))
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        self.manifest = manifest
        self._discard()
        self.close()

    def amend(self, names: tuple[str, ...]) -> None:
        """Record files of a finished run again, after they were made again from its other files."""
        if self.manifest is None:
            raise RunError(f"{self.path} is not finished; repeat the command that began it")
        kept = [record for record in self.manifest.outputs if record.path not in names]
        outputs = (*kept, *(self._file_record(self.path / name) for name in names))
        self.manifest = self.manifest.model_copy(
            update={"outputs": tuple(sorted(outputs, key=lambda record: record.path))}
        )
        write_text(self.path / MANIFEST, self.manifest.model_dump_json(indent=1) + "\n")

    def close(self) -> None:
        """Release the folder; harmless when it is not held."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lock and not self.done:
                if kind:
                    bring_back(self.path)
                else:
                    self.finish()
        finally:
            self.close()

    def _file_record(self, path: Path) -> FileRecord:
        sync(path)  # not all writers do, and the manifest must not outlive the files that it lists
        return FileRecord(
            path=path.relative_to(self.path).as_posix(), sha256=sha256_file(path), size=path.stat().st_size
        )

    def _identity(self) -> str:
        try:
            return (self.path / IDENTITY).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def _acquire(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            refuse_links(self.path)
            self._lock = take_lock(self.path / LOCK)
        except BlockingIOError as error:
            raise RunError(
                f"{self.path} is being written by another process; wait for it or choose another --out"
            ) from error
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}); choose another --out or EDGEPROOF_RUNS"
            ) from error

    def _claim(self, digest: str) -> None:
        other = self._identity()
        if other and other != digest:
            raise RunError(
                f"{self.path} holds another unfinished run; choose another --out or add --fresh to replace it"
            )
        # A process that is killed while it claims the folder leaves what `atomic` was writing.
        ours = (LOCK, REPLACED, f".{IDENTITY}.")
        foreign = [path.name for path in self.path.iterdir() if not path.name.startswith(ours)]
        if not other and foreign:
            raise RunError(
                f"{self.path} is not empty and not a run folder (it holds {foreign[0]!r}); choose another --out"
            )
        # Delete what killed processes were writing. A folder with a lock of its own is another run's.
        for folder, inside, names in os.walk(self.path):
            inside[:] = [name for name in inside if not Path(folder, name, LOCK).exists()]
            for name in names:
                if name.startswith(".") and ".tmp" in name:
                    Path(folder, name).unlink()
        write_text(self.path / IDENTITY, digest + "\n")

    def _discard(self) -> None:
        """Delete intermediate state of a finished run, by the list that survives a kill in the middle of it."""
        listed = self.path / _DISCARD
        if not listed.is_file():
            return
        try:
            for name in _NAMES.validate_json(listed.read_bytes()):
                if name and name == Path(name).name != "..":  # the folder may be untrusted input
                    remove(self.path / name)
        except ValueError as error:  # also of a name that no file can have
            raise RunError(
                f"{listed} is no list of names ({first_line(error)}); repeat the command with --fresh"
            ) from error
        listed.unlink()


def _given(config: Any) -> Any:
    """Leave out what is None, so that a new option that is not used leaves the identity of older runs as it was."""
    if isinstance(config, Mapping):
        return {key: _given(value) for key, value in config.items() if value is not None}
    return config


def _refuse_changed(folder: Path) -> None:
    """Refuse a run of which a file is not what it was: its manifest, by which it counts, would speak of another content."""
    listed = {record.path: record.sha256 for record in Run.open(folder).records()}
    found = file_hashes(folder, [name for name in listed if (folder / name).is_file()])
    for name, sha256 in found.items():
        if sha256 != listed[name]:
            raise RunError(
                f"{folder / name} was changed after the run (SHA-256 differs); repeat the command that made the run with --fresh"
            )


def _input_record(role: str, path: Path) -> InputRecord:
    if role in DATA_ROLES:
        return InputRecord(role=role, path=str(path), sha256=hash_tree(path))
    if path.is_dir() and (path / MANIFEST).is_file():
        _refuse_changed(path)
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file():
        raise RunError(f"{role}: no finished run and no file at {path}{if_packed(path)}")
    try:
        return InputRecord(role=role, path=str(path), sha256=hash_model(file))
    except ModelError:  # the stage says what is wrong, of one graph among many without stopping
        return InputRecord(role=role, path=str(path), sha256=sha256_file(file))
