"""`train`, `import`, `poison`, `detect`: networks, and the images that they learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeproof.commands.options import RUN_OPTIONS, config_options, read_config
from edgeproof.commands.printing import emit, show_detection
from edgeproof.config import DetectConfig, ImportConfig, PoisonConfig, TrainConfig
from edgeproof.stages import Place, run_stage


@click.command(params=[*config_options(TrainConfig), *RUN_OPTIONS])
def train(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Train a classifier; the run folder holds its checkpoint and history."""
    emit(run_stage("train", read_config(TrainConfig, values), Place(out, fresh)), as_json=as_json)


@click.command(params=[*config_options(PoisonConfig), *RUN_OPTIONS])
def poison(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Make poisoned training images; `train --poison RUN` trains on them."""
    emit(run_stage("poison", read_config(PoisonConfig, values), Place(out, fresh)), as_json=as_json)


@click.command(name="import", params=[*config_options(ImportConfig), *RUN_OPTIONS])
def import_(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Take a network and weights of your own; the run folder is like that of `train`, for attack, export and eval."""
    emit(run_stage("import", read_config(ImportConfig, values), Place(out, fresh)), as_json=as_json)


@click.command(
    params=[*config_options(DetectConfig), click.Option(["--json", "as_json"], is_flag=True, help="print JSON")]
)
def detect(as_json: bool, **values: Any) -> None:
    """Look for noise in training images: a linear model on what a blur takes away, against trusted clean images."""
    from edgeproof.evaluation.detection import detect_noise

    config = read_config(DetectConfig, values)
    show_detection(detect_noise(config), name=config.poison or config.data.name, as_json=as_json)
