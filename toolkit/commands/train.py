"""`train`, `import`, `poison`, `detect`: networks, and the images that they learn from."""

from __future__ import annotations

from typing import Any

import click

from edgeproof.commands.options import RUN_OPTIONS, config_options, read_config
from edgeproof.commands.printing import emit, show_detection
from edgeproof.config import DetectConfig, ImportConfig, PoisonConfig, TrainConfig
from edgeproof.stages import import_run, poison_run, train_run


@click.command(params=[*config_options(TrainConfig), *RUN_OPTIONS])
def train(**values: Any) -> None:
    """Train a classifier; the run folder holds its checkpoint and history."""
    emit(train_run(read_config(TrainConfig, values), values), values)


@click.command(params=[*config_options(PoisonConfig), *RUN_OPTIONS])
def poison(**values: Any) -> None:
    """Make poisoned training images; `train --poison RUN` trains on them."""
    emit(poison_run(read_config(PoisonConfig, values), values), values)


@click.command(name="import", params=[*config_options(ImportConfig), *RUN_OPTIONS])
def import_(**values: Any) -> None:
    """Take a network and weights of your own; the run folder is like that of `train`, for attack, export and eval."""
    emit(import_run(read_config(ImportConfig, values), values), values)


@click.command(
    params=[*config_options(DetectConfig), click.Option(["--json", "as_json"], is_flag=True, help="print JSON")]
)
def detect(as_json: bool, **values: Any) -> None:
    """Look for noise in training images: a linear model on what a blur takes away, against trusted clean images."""
    from edgeproof.evaluation.detection import detect_noise

    config = read_config(DetectConfig, values)
    show_detection(detect_noise(config), name=config.poison or config.data.name, as_json=as_json)
