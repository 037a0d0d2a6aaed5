"""`export` and `quantize`: checkpoints and graphs to builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeproof.commands.options import (
    RUN_OPTIONS,
    config_options,
    field_options,
    given_options,
    read_config,
    refuse_unused,
)
from edgeproof.commands.printing import emit, show_search
from edgeproof.config import BuildConfig, EvalConfig, ExportConfig, QuantizeConfig, build_config
from edgeproof.errors import ConfigError
from edgeproof.runs import Run
from edgeproof.stages import Place, run_stage
from edgeproof.system.optional import check_installed

#: Of an evaluation, what a bundle takes from the command line.
PACKED = {"sets", "reference", "fail_under", "max_drop", "max_cost", "protect", "cost", "side"}

#: Repeatable, since click would take the last one without a word; several make one bundle.
_SOURCES = [
    click.Option(["--model", "config_model"], multiple=True, help=ExportConfig.model_fields["model"].description),
    click.Option(["--from", "config_source"], multiple=True, help=BuildConfig.model_fields["source"].description),
]


@click.command(
    params=[
        *config_options(ExportConfig, hidden={"model"}),
        *field_options(BuildConfig, hidden={"source"}, when="(--from) "),
        *_SOURCES,
        click.Option(
            ["--bundle"], type=click.Path(path_type=Path), help="zip to pack it all into, for a device's eval"
        ),
        *field_options(EvalConfig, hidden=set(EvalConfig.model_fields) - PACKED, when="(--bundle) "),
        *RUN_OPTIONS,
    ]
)
def export(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Export a checkpoint to ONNX: FP32, FP16 and INT8 graphs, each past a parity gate on labelled images.

    With --from, bring a graph to what a device opens, on that device and without PyTorch: --target tensorrt or openvino; a
    graph that takes other images (--layout, --range, --mean, --std) is first brought to float32 NCHW in [0, 1].
    """
    bundle, packed = values.pop("bundle"), {key: values.pop(f"config_{key}") for key in PACKED}
    if not bundle and any(packed.values()):
        raise ConfigError("adversaries and limits are packed for a device's eval; add --bundle FILE.zip")
    chosen = {key: value for key, value in packed.items() if value not in (None, ())}
    if bundle:
        refuse_unused(build_config(EvalConfig, options=chosen), chosen)
    name, sources = next(
        ((name, found) for name in ("config_source", "config_model") if (found := values[name])),
        ("config_model", (None,)),
    )
    option = "--from" if name == "config_source" else "--model"
    if len(sources) > 1 and not bundle:
        raise ConfigError(
            f"{option} is given {len(sources)} times; pack them with --bundle FILE.zip, or give one at a time"
        )
    if len(sources) > 1 and out:
        raise ConfigError(f"--out names one folder and {option} is given {len(sources)} times; leave --out out")
    other = "config_model" if name == "config_source" else "config_source"
    alone = {**values, other: values[other][-1] if values[other] else None}
    runs = [_exported({**alone, name: source}, Place(out, fresh), pack_only=bool(bundle)) for source in sources]
    if bundle:
        from edgeproof.evaluation.bundle import write_bundle

        sets = [Path(path) for path in packed.pop("sets")]
        write_bundle(
            bundle,
            models=list(dict.fromkeys(run.path for run in runs)),
            sets=sets,
            config=build_config(EvalConfig, options=packed),
        )
        click.echo(f"bundle: {bundle}, {bundle.stat().st_size / 1e6:.1f} MB", err=True)
    packed_too = {"bundle": str(bundle), "packed": [str(run.path) for run in runs]} if bundle else {}
    for run in runs[:1] if as_json else runs:  # one JSON object, which names them all
        emit(run, as_json=as_json, **packed_too)


@click.command(params=[*config_options(QuantizeConfig), *RUN_OPTIONS])
def quantize(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Choose an INT8 build by its accuracy under attack on validation images; the run is one of `export`."""
    check_installed("torch", "onnxscript", "onnxruntime", purpose="choose an INT8 build")
    show_search(run_stage("quantize", read_config(QuantizeConfig, values), Place(out, fresh)), as_json=as_json)


def _exported(values: dict[str, Any], place: Place, *, pack_only: bool) -> Run:
    """Export a checkpoint, or turn a graph into another form; an export run that is only to be packed is left as it is."""
    built, export_only = given_options(BuildConfig, values), given_options(ExportConfig, values)
    if built and export_only:
        raise ConfigError(f"{built[0]} is for a graph and {export_only[0]} for a checkpoint; give one of the two")
    if built and "--from" not in built:
        raise ConfigError(f"{built[0]} is for a graph; name it with --from GRAPH.onnx")
    if not built:
        return run_stage("export", read_config(ExportConfig, values), place)
    config = read_config(BuildConfig, values)
    if pack_only and built == ["--from"] and Path(config.source).is_dir():
        return Run.open(config.source, kind="export")
    return run_stage("build", config, place)
