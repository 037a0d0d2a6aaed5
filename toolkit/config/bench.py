"""Timing engines and attacks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgeproof.config.base import MAX_SEED, Counts, Number, Strict, uses_processor
from edgeproof.types import GradientMode


class BenchConfig(Strict):
    """`edgeproof bench engines`: how fast engines are at several batch sizes."""

    counts: ClassVar[tuple[Counts, ...]] = (Counts(("threads",), uses_processor, "TensorRT plans run on the GPU"),)

    engines: tuple[str, ...] = Field((), description="[NAME=][BACKEND:]PATH each; a run folder gives all its graphs")
    output: str | None = Field(
        None, description="which output holds the scores of the classes, where a graph has several"
    )
    batch_sizes: tuple[int, ...] = Field((1, 8, 32), description="images a call")
    rounds: int = Field(50, ge=3, description="timed calls of each engine at each batch size; engines take turns")
    warm_up: int = Field(3, ge=0, description="calls before them that do not count")
    threads: int | None = Field(None, ge=1, le=1024, description="engine threads (default: all cores)")
    device: str = Field("cpu", description="cpu or cuda")
    mode: Literal["latency", "throughput"] = Field("latency", description="throughput: OpenVINO's streams")
    memory: bool = Field(True, description="measure peak memory, each engine in a process of its own")


class BenchAttacksConfig(Strict):
    """`edgeproof bench attacks`: adversarial images a second."""

    model: str = Field(description="source model: a train run, or an ONNX file")
    output: str | None = Field(
        None, description="which output holds the scores of the classes, where a graph has several"
    )
    attacks: tuple[str, ...] = Field(("fgsm", "pgd-linf", "apgd-ce"), description="names that `list attacks` shows")
    data: str | None = Field(None, description="data set (default: the one the source model was trained on)")
    eps: Number = Field(4 / 255, description="budget in [0, 1] pixel units; 4/255 is understood")
    stops: tuple[str, ...] = Field(("never", "first"), description="never | first | margin=K, each timed")
    gradients: tuple[GradientMode, ...] = Field(("fast",), description="exact | fast | bf16 | compiled, each timed")
    limit: int = Field(256, ge=1, description="images a round, stratified")
    rounds: int = Field(5, ge=1, description="timed rounds; the sides take turns")
    batch_size: int = Field(256, ge=1, description="images a step")
    threads: int | None = Field(None, ge=1, le=1024, description="processor threads (default: all cores)")
    device: str = Field("cpu", description="cpu or cuda")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the attacks' draws")
