"""`bench`: engines and attacks, timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeproof.commands.options import RUN_OPTIONS, config_options, read_config
from edgeproof.commands.printing import show_bench
from edgeproof.config import BenchAttacksConfig, BenchConfig
from edgeproof.stages import Place, run_stage


@click.group()
def bench() -> None:
    """Time engines and attacks; every sample is kept, and what is compared takes turns."""


@bench.command(name="engines", params=[*config_options(BenchConfig), *RUN_OPTIONS])
def bench_engines_(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Latency percentiles, images a second and peak memory of engines at several batch sizes."""
    show_bench(run_stage("bench-engines", read_config(BenchConfig, values), Place(out, fresh)), as_json=as_json)


@bench.command(name="attacks", params=[*config_options(BenchAttacksConfig), *RUN_OPTIONS])
def bench_attacks_(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Adversarial images a second, crafted alone and with their evaluation, for each rule to stop."""
    show_bench(run_stage("bench-attacks", read_config(BenchAttacksConfig, values), Place(out, fresh)), as_json=as_json)
