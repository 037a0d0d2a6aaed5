"""`list`, `inspect`, `doctor`: what is there, and what this machine can do."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeproof.commands.printing import show_entries, show_weights
from edgeproof.errors import one_line
from edgeproof.plugins.registry import FOLDERS, entries

LISTED = {kind if kind == "data" else "studies" if kind == "study" else f"{kind}s": kind for kind in FOLDERS}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def inspect(path: Path, as_json: bool) -> None:
    """Measure how weights are distributed, layer by layer: of a checkpoint, an ONNX file or a run folder that holds some.

    Of an ONNX file it also says what it takes, gives and computes in, and which files belong to it.
    """
    from edgeproof.evaluation.weights import inspect_weights
    from edgeproof.onnx_files import files_of, hash_model, read_onnx, size_of

    if path.suffix == ".onnx":
        about = read_onnx(path)
        takes, gives = (", ".join(map(str, values)) for values in (about.inputs, about.outputs))
        files = ", ".join(file.relative_to(path.parent).as_posix() for file in files_of(path))
        said = f"takes {takes}; gives {gives}; opset {about.opset}, {about.precision}; {size_of(path)} bytes in {files}"
        click.echo(one_line(f"{path} {said}; SHA-256 {hash_model(path)}"), err=True)
    show_weights(inspect_weights(path), as_json=as_json)


@click.command(name="list")
@click.argument("kind", type=click.Choice(list(LISTED)))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def list_(kind: str, as_json: bool) -> None:
    """Show what is registered: attacks, data sets, models, engines, objectives, studies."""
    show_entries(entries(LISTED[kind]), as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def doctor(as_json: bool) -> None:
    """Say what is installed, what each engine can do here, and the one line that installs what is missing."""
    from edgeproof.commands.doctor import diagnose, print_diagnosis

    findings = diagnose()
    if as_json:
        click.echo(json.dumps([finding.__dict__ for finding in findings], indent=1))
    else:
        print_diagnosis(findings)
