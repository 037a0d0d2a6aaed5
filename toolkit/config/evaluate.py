"""Engines on adversarial sets."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from edgeproof.config.base import Counts, Strict, uses_processor
from edgeproof.config.reading import split_at_commas


class EvalConfig(Strict):
    """`edgeproof eval`: engines x adversarial sets."""

    counts: ClassVar[tuple[Counts, ...]] = (
        Counts(("cost", "side"), lambda config: bool(config.protect), "no class is protected", "--protect CLASS"),
        Counts(
            ("data",),
            lambda config: not any(Path(path).is_dir() for path in config.sets),
            "attack runs hold their clean images",
        ),
        Counts(("gallery",), lambda config: bool(config.sets), "there are no adversarial images", "--adversaries RUN"),
        Counts(("threads",), uses_processor, "TensorRT plans run on the GPU"),
    )

    engines: tuple[str, ...] = Field((), description="[NAME=][BACKEND:]PATH each; a run folder gives all its graphs")
    sets: tuple[str, ...] = Field((), description="attack runs, or npz/pt files of other tools")
    data: str | None = Field(
        None, description="data set whose test images are the clean ones, where no attack run is given"
    )
    split: Literal["test", "all"] = Field(
        "test", description="which images of the data set; all: every image of a folder that has no test/"
    )
    output: str | None = Field(
        None, description="which output holds the scores of the classes, where a graph has several"
    )
    classes_file: str | None = Field(
        None, description="class names in the models' order, a line each or JSON, for graphs that have none"
    )
    reference: str | None = Field(None, description="engine that the others are compared with (default: the first)")
    batch_size: int = Field(256, ge=1, description="images a call")
    threads: int | None = Field(None, ge=1, le=1024, description="engine threads (default: all cores)")
    device: str = Field("cpu", description="cpu or cuda")
    throughput: bool = Field(True, description="measure images/s too")
    shard: str | None = Field(None, description="I/N: only every N-th image from the I-th on; `merge` joins the runs")
    invariance: int = Field(16, ge=0, description="images tried in several batch sizes and slots; 0 tries none")
    fail_under: tuple[str, ...] = Field((), description="[ENGINE:]METRIC[@CLASS]=VALUE, at least")
    max_drop: tuple[str, ...] = Field((), description="ENGINE:METRIC[@CLASS]=VALUE, at most under the reference")
    costs: str | None = Field(
        None, description="what mistakes cost: CSV, JSON or npy, a row per true class, a column per predicted one"
    )
    protect: tuple[str, ...] | None = Field(
        None, description="instead: a class whose mistakes cost more than 1, by name or number; repeatable"
    )
    cost: float | None = Field(None, gt=0, description="what they cost (default: 10)")
    side: Literal["miss", "false-alarm", "both"] | None = Field(
        None, description="miss: it is taken for another; false-alarm: another is taken for it (default: both)"
    )
    max_cost: tuple[str, ...] | None = Field(
        None, description="[ENGINE:]clean_cost or robust_cost[[SET]][@CLASS]=VALUE, expected cost at most"
    )
    gallery: int = Field(8, ge=0, description="adversaries shown in the report")

    _split = field_validator("protect", mode="before")(split_at_commas)
