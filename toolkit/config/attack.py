"""One attack on one source model, and the search for counterexamples to properties."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgeproof.config.base import MAX_SEED, Number, Strict
from edgeproof.types import GradientMode, Pixels


class AttackConfig(Strict):
    """`edgeproof attack`: one attack on one source model at one budget."""

    attack: str = Field("pgd-linf", description="attack: a name that `list attacks` shows")
    model: str = Field(description="source model: a train run, or an ONNX file")
    output: str | None = Field(
        None, description="which output holds the scores of the classes, where a graph has several"
    )
    classes_file: str | None = Field(
        None, description="class names in the model's order, a line each or JSON, where the graph has none"
    )
    deployed: str | None = Field(
        None, description="second build, an ONNX file or train run, for attacks on the difference (diva)"
    )
    data: str | None = Field(None, description="data set (default: the one the source model was trained on)")
    split: Literal["test", "validation", "calibration", "train", "all"] = Field(
        "test", description="which images; all: every image of a folder that has no test/"
    )
    eps: Number = Field(8 / 255, description="budget in [0, 1] pixel units; 8/255 is understood")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the attack")
    pixels: Pixels = Field("float", description="uint8 keeps adversaries on the 8-bit grid, inside the budget")
    stop: str = Field("never", description="never | first | margin=K: when an image leaves the batch")
    gradients: GradientMode = Field(
        "fast", description="exact: the model as it is; fast: batch norms folded; bf16: under autocast; compiled"
    )
    limit: int | None = Field(None, ge=1, description="attack at most so many images, stratified")
    shard: str | None = Field(None, description="I/N: only every N-th image from the I-th on; `merge` joins the runs")
    ensemble_builds: tuple[str, ...] | None = Field(
        None, description="further builds (ONNX files or train runs) whose losses are averaged with the source model's"
    )
    probe: int | None = Field(
        None, ge=0, description="images on which masked gradients are looked for (default: 64; 0: none)"
    )
    batch_size: int = Field(256, ge=1, description="images a step")
    device: str = Field("cpu", description="cpu or cuda")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the attack's draws")


class FalsifyConfig(Strict):
    """`edgeproof attack --vnnlib`: counterexamples to properties of graphs, in the graphs' own units."""

    vnnlib: str | None = Field(None, description="VNN-LIB property, plain or .gz; with --graph")
    graph: str | None = Field(
        None, description="ONNX file that the property is about, its input of any shape and range"
    )
    instances: str | None = Field(None, description="CSV of many: graph,property,seconds a row, as in VNN-COMP")
    timeout: float | None = Field(None, gt=0, description="seconds for each property (default: the CSV's, else 20)")
    rounds: int | None = Field(None, ge=1, description="most rounds of a search (default: as the time allows)")
    points: int = Field(64, ge=2, description="points of the box that are moved at once")
    threads: int | None = Field(None, ge=1, le=1024, description="ONNX Runtime's threads (default: all cores)")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the search")
