"""The edge bundle: one zip with everything that an evaluation on a device needs, as run folders.

Inside stand `bundle.json` (the evaluation's configuration and every file with its size and SHA-256) and run folders just as the
stages wrote them: an export run with its graphs or plans, attack runs with the images, labels and the source's logits. Nothing
is unpacked before every member has been checked.
"""

from __future__ import annotations

import hashlib
import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from edgeproof import __version__
from edgeproof.config import EvalConfig, Strict
from edgeproof.data.records import SetAbout, SetFields
from edgeproof.data.source import check_ordinary
from edgeproof.engines.specs import names_on_any_backend, read_specs
from edgeproof.errors import ConfigError, DataError, RunError, first_line
from edgeproof.evaluation.gates import bind_gates, parse_gates
from edgeproof.evaluation.results import SetRecord
from edgeproof.onnx_files import hash_model, read_onnx
from edgeproof.runs import MANIFEST, Run, atomic, sha256_file
from edgeproof.runs.manifest import FileRecord
from edgeproof.system.untrusted import read_record

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
_MAX_MANIFEST_BYTES = 16 * 2**20
_MAX_MEMBERS = 10_000
_MAX_BYTES = 64 * 2**30
_PIECE = 1 << 20
#: What zipfile raises on a damaged file, in addition to its own.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip has no earlier date; a fixed one makes equal bundles equal bytes


class BundleManifest(Strict):
    """`bundle.json`: paths are relative to the bundle, `/` between the parts."""

    schema_version: int
    edgeproof: str
    config: dict[str, Any]
    files: tuple[FileRecord, ...]


def write_bundle(dst: Path, *, models: Sequence[Path], sets: Sequence[Path], config: EvalConfig) -> None:
    """Pack finished runs and the evaluation's configuration (gates included) into a zip; equal runs give equal bytes.

    Args:
        dst: The zip.
        models: Export runs.
        sets: Attack runs.
        config: The evaluation; its `engines` and `sets` are replaced by the packed runs.

    Raises:
        RunError: For an unfinished or changed run, or two runs of one name.
        ConfigError: For limits that name no packed engine, set or class, or that would compare an engine with itself.
    """
    check_packed_limits(config, models=models, sets=sets)
    folders = {path.resolve().name: Run.open(path) for path in (*models, *sets)}
    if len(folders) < len(models) + len(sets):
        raise RunError(f"two of the runs have the same folder name ({', '.join(sorted(folders))}); rename one")
    files = {f"{name}/{member}": run.file(member) for name, run in folders.items() for member in run.outputs()}
    files |= {f"{name}/{MANIFEST}": run.path / MANIFEST for name, run in folders.items()}
    inside = {"engines": [path.resolve().name for path in models], "sets": [path.resolve().name for path in sets]}
    manifest = BundleManifest(
        schema_version=SCHEMA_VERSION,
        edgeproof=__version__,
        config={**config.model_dump(mode="json"), **inside},
        files=tuple(
            FileRecord(path=name, sha256=sha256_file(path), size=path.stat().st_size)
            for name, path in sorted(files.items())
        ),
    )
    with atomic(dst) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry(MANIFEST_NAME), manifest.model_dump_json(indent=1) + "\n")
        for record in manifest.files:
            with files[record.path].open("rb") as source, archive.open(_entry(record.path), "w") as target:
                shutil.copyfileobj(source, target, _PIECE)


def check_packed_limits(config: EvalConfig, *, models: Sequence[Path], sets: Sequence[Path]) -> None:
    """Refuse, before a device has measured for an hour, limits that match nothing that is packed.

    On the device another backend may open the graphs, so a limit may use the name of a graph under any.

    Raises:
        ConfigError: For a limit that cannot be read, or that names no packed engine, set or class.
    """
    gates = parse_gates(config.fail_under, config.max_drop, config.max_cost or ())
    if not gates:
        return
    specs = read_specs([str(path) for path in models])
    precisions = {}
    for spec in specs:
        named = next((tag for tag in ("fp32", "fp16", "bf16", "int8") if f".{tag}" in spec.path.name), "unknown")
        precisions[spec.name] = read_onnx(spec.path).precision if spec.path.suffix == ".onnx" else named
    usual = {name: spec.name for spec in specs for name in names_on_any_backend(spec)}

    def packed(name: str | None) -> str | None:
        """Return the usual name of a packed engine; `ov-fp32-bf16` asks for another arithmetic of `ov-fp32`."""
        longest = max((each for each in usual if name and f"{name}-".startswith(f"{each}-")), key=len, default=None)
        return usual[longest] if longest and name not in precisions else name

    about = [read_record(Run.open(path, kind="attack").file("set.json"), SetAbout) for path in sets]
    bound = bind_gates(
        [replace(gate, engine=packed(gate.engine)) for gate in gates],
        engines=precisions,
        reference=packed(config.reference) or next(iter(precisions)),
        sets=[
            SetRecord(**each.model_dump(include={*SetFields.model_fields}), kind="adversarial", count=0, sha256="")
            for each in about
        ],
        classes=about[0].classes if about else (),
    )
    files = {spec.name: hash_model(spec.path) for spec in specs}
    reference = packed(config.reference) or next(iter(files))
    for gate in bound:
        if gate.relative and all(files[engine] == files.get(reference) for engine in gate.engines):
            raise ConfigError(
                f"--{gate.text}: {gate.engines[0]} is the same file as the reference {reference}; name another engine"
            )


def check_bundle(path: Path) -> BundleManifest:
    """Check every member's name, size and hash without writing anything.

    Raises:
        DataError: When it is no bundle, or a member is unsafe, unlisted, missing, oversized or has another hash.
    """
    with _opened(path) as archive:
        return _check(path, archive)


def open_bundle(path: Path, folder: Path) -> EvalConfig:
    """Unpack a checked bundle into a folder and return the evaluation that it asks for, with paths into that folder.

    Args:
        path: The bundle.
        folder: Where the run folders go; a folder that already holds this very bundle is used as it is.

    Raises:
        DataError: As `check_bundle`, or when the folder holds something else.
    """
    with _opened(path) as archive:
        manifest = _check(path, archive)
        config = _evaluation(path, manifest, folder)
        if folder.exists() and any(folder.iterdir()):
            _check_same(manifest, folder)
        else:
            _unpack(archive, manifest, folder)
    return config


def _evaluation(path: Path, manifest: BundleManifest, folder: Path) -> EvalConfig:
    packed = {record.path.partition("/")[0] for record in manifest.files}
    named = {key: manifest.config.get(key, ()) for key in ("engines", "sets")}
    for name in (
        name for names in named.values() for name in (names if isinstance(names, (list, tuple)) else (names,))
    ):
        if not isinstance(name, str) or name not in packed:
            raise DataError(f"{path}: its configuration names {str(name)[:200]!r}, which is not packed; pack it again")
    if foreign := [key for key in ("data", "costs") if manifest.config.get(key) is not None]:
        raise DataError(
            f"{path}: its configuration names {foreign[0]}, a file of this machine; expected packed runs only, pack it again"
        )
    inside = {key: [str(folder / name) for name in names] for key, names in named.items()}
    try:
        return EvalConfig.model_validate({**manifest.config, **inside})
    except ValidationError as error:
        raise DataError(f"{path}: its configuration is not understood ({first_line(error)}); pack it again") from error


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def _opened(path: Path) -> zipfile.ZipFile:
    check_ordinary(path)
    try:
        return zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise DataError(
            f"{path} cannot be opened as a bundle ({error}); expected a zip that export --bundle has written"
        ) from error


def _check(path: Path, archive: zipfile.ZipFile) -> BundleManifest:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise DataError(f"{path} has {len(members)} members; the limit is {_MAX_MEMBERS}")
    for member in members:
        _check_name(path, member)
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two members of one name; pack it again")
    manifest = _read_manifest(path, archive)
    wanted = {record.path for record in manifest.files} | {MANIFEST_NAME}
    if odd := sorted(wanted ^ set(names)):
        state = "lists" if odd[0] in wanted else "does not list"
        raise DataError(
            f"{path}: {MANIFEST_NAME} {state} {odd[0][:200]!r}, and the zip {'lacks' if odd[0] in wanted else 'has'} it"
        )
    if (total := sum(record.size for record in manifest.files)) > _MAX_BYTES:
        raise DataError(f"{path} would unpack to {total} bytes; the limit is {_MAX_BYTES}")
    for record in manifest.files:
        _check_member(path, archive, record)
    return manifest


def _check_name(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse names that could be written outside the folder, and members that are no plain files."""
    name = member.filename
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and not name.startswith("/") and "\\" not in name and ":" not in name
    if not plain or not parts or ".." in parts:
        raise DataError(
            f"{path} has a member {name!r}, which could be written outside its folder; do not trust this file"
        )
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.is_dir() or kind not in (0, stat.S_IFREG):
        raise DataError(f"{path} has a member {name!r} that is no plain file; do not trust this file")


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> BundleManifest:
    try:
        if archive.getinfo(MANIFEST_NAME).file_size > _MAX_MANIFEST_BYTES:
            raise DataError(f"{path}: {MANIFEST_NAME} is larger than {_MAX_MANIFEST_BYTES} bytes: not one of ours")
        manifest = BundleManifest.model_validate_json(archive.read(MANIFEST_NAME))
    except (*_UNREADABLE, KeyError, ValidationError) as error:
        raise DataError(
            f"{path} has no {MANIFEST_NAME} that can be read ({first_line(error)}); is it a bundle?"
        ) from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {manifest.schema_version}; this version reads {SCHEMA_VERSION}")
    return manifest


def _check_member(path: Path, archive: zipfile.ZipFile, record: FileRecord) -> None:
    size = archive.getinfo(record.path).file_size
    if size != record.size:
        raise DataError(
            f"{path}: {record.path} has {size} bytes where {MANIFEST_NAME} says {record.size}; pack it again"
        )
    digest, count = hashlib.sha256(), 0
    for piece in _pieces(path, archive, record):
        digest.update(piece)
        count += len(piece)
    if count != record.size or digest.hexdigest() != record.sha256:
        raise DataError(f"{path}: {record.path} was changed after packing (SHA-256 differs); pack it again")


def _pieces(path: Path, archive: zipfile.ZipFile, record: FileRecord) -> Iterator[bytes]:
    """Read a member in pieces, at most a byte more than it says."""
    left = record.size
    try:
        with archive.open(record.path) as source:
            # One byte more than may be left: it shows a member that is longer than it says.
            while piece := source.read(min(_PIECE, left + 1)):
                left -= len(piece)
                yield piece
    except _UNREADABLE as error:
        raise DataError(f"{path}: {record.path} cannot be unpacked ({error}); pack it again") from error


def _unpack(archive: zipfile.ZipFile, manifest: BundleManifest, folder: Path) -> None:
    """Write all members next to the folder and move them there at once, so that a half-unpacked bundle is never found."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if partial.is_symlink():  # which rmtree leaves, and which leads elsewhere
            partial.unlink()
        shutil.rmtree(partial, ignore_errors=True)
        for record in manifest.files:
            target = partial / record.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(record.path) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _PIECE)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_same(manifest: BundleManifest, folder: Path) -> None:
    for record in manifest.files:
        file = folder / record.path
        if not file.is_file() or sha256_file(file) != record.sha256:
            raise DataError(
                f"{folder} is not empty and does not hold this bundle ({record.path} differs); choose another folder"
            )
