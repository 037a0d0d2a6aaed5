"""Configurations of the stages: what can be set, its default and its meaning, in one place.

Every configuration is a pydantic model that refuses unknown keys. It is built from `--config FILE` (JSON), then
repeatable `--set a.b=c`, then the options of the command line, and is kept, defaults resolved, in the run's manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from toolkit.config_reading import build_config, parse_assignments, parse_number, split_at_commas
from toolkit.errors import ConfigError
from toolkit.types import GradientMode, Norm, Pixels


def check_eps(eps: float, *, norm: str) -> float:
    """Refuse a budget that cannot be meant.

    Raises:
        ConfigError: When eps is negative or not finite, or an L-infinity budget is over 1, the whole pixel range.
    """
    if not 0 <= eps < float("inf"):
        raise ConfigError(f"eps = {eps:g} is not a budget; expected a number from 0 on, such as 8/255")
    if norm == "linf" and eps > 1:
        raise ConfigError(
            f"eps = {eps:g} is more than the whole pixel range, since images are in [0, 1]; did you mean {eps:g}/255?"
        )
    return eps


def format_eps(eps: float) -> str:
    """Write a budget as users write it: a short decimal where it is one, `8/255` where it is a number of grey levels."""
    short = f"{eps:g}"
    if float(short) == eps and len(short) <= 4:
        return short
    levels = eps * 255 if eps < 1 else 0.0
    whole = round(levels)
    return f"{whole}/255" if whole and abs(levels - whole) < 1e-6 else short


MAX_SEED = 2**63 - 1
Number = Annotated[float, BeforeValidator(parse_number)]


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataConfig(Strict):
    """Which images, and how they are split."""

    name: str = Field("digits", description="data set: a name that `list data` shows, npz:PATH or folder:PATH")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the data set, as `list data` shows")
    split_seed: int = Field(
        0, ge=0, le=MAX_SEED, description="seed of the split into train, validation and calibration"
    )
    validation: float = Field(0.1, ge=0, lt=1, description="share of the training images held out for validation")
    calibration: int = Field(256, ge=0, description="training images kept for INT8 calibration, class-balanced")
    limit_train: int | None = Field(None, ge=1, description="use at most so many training images, stratified")
    imbalance: str | None = Field(
        None, description="class sizes: under:CLASS=COUNT, over:CLASS=COUNT (of each other class) or long-tailed:RATIO"
    )


class TrainConfig(Strict):
    """`cli.py train`."""

    data: DataConfig = DataConfig()
    model: str = Field("small-cnn", description="network: a name that `list models` shows")
    objective: str = Field("standard", description="training objective: a name that `list objectives` shows")
    objective_params: dict[str, Any] = Field(default_factory=dict, description="parameters of the objective")
    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=1, description="images a step")
    optimizer: Literal["sgd", "adam", "rmsprop"] = Field("sgd", description="update rule")
    lr: Number = Field(0.05, gt=0, description="(peak) learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum (SGD only)")
    weight_decay: Number = Field(5e-4, ge=0, description="L2 penalty on the weights")
    schedule: Literal["constant", "cosine", "onecycle", "inverse-time"] = Field(
        "onecycle", description="learning-rate schedule"
    )
    lr_decay: Number = Field(1e-5, ge=0, description="decay of the inverse-time schedule: lr / (1 + decay * step)")
    augment: Literal[
        "none", "flip", "crop", "flip-crop", "cutout", "flip-cutout", "crop-cutout", "flip-crop-cutout"
    ] = Field("none", description="random flip, padded crop and/or cut-out")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better validation loss")
    min_delta: float = Field(1e-4, ge=0, description="what counts as better for the early stop")
    amp: bool = Field(False, description="autocast to bfloat16")
    device: str = Field("cpu", description="cpu or cuda")
    threads: int | None = Field(None, ge=1, le=1024, description="processor threads (default: all cores)")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the weights, the order and the augmentation")
    start_from: str | None = Field(None, description="a train run whose weights and normalisation training starts from")
    poison: str | None = Field(None, description="poison run whose images stand in for the training images")
    squeeze: str | None = Field(
        None, description="what training images go through first: grey, jpeg=10, bits=3, blur=1"
    )

    def inputs(self) -> dict[str, Path]:
        """Return what a run is made from beside its data set: role to run folder or file."""
        named = {"start": self.start_from, "poison": self.poison, "costs": self.objective_params.get("costs")}
        return {role: Path(path) for role, path in named.items() if path is not None}


class PoisonConfig(Strict):
    """`cli.py poison`: training images that confuse whoever trains on them."""

    data: DataConfig = DataConfig()
    method: Literal["deep-confuse", "error-minimising", "class-patterns", "label-flip"] = Field(
        "deep-confuse",
        description="a generator's noise; noise that leaves nothing to learn; a random pattern a class; or random labels, a control",
    )
    eps: Number = Field(0.3, gt=0, le=1, description="L-infinity budget in [0, 1] pixel units; 8/255 is understood")
    ratio: Number = Field(1.0, gt=0, le=1, description="share of each class that is poisoned")
    pixels: Pixels = Field("uint8", description="uint8 keeps poisoned images on the 8-bit grid, inside the budget")
    target: str | None = Field(None, description="label-specific: next, to=CLASS, or the wanted class of each: 1,2,0")
    reuse: str | None = Field(None, description="poison run whose generator is applied, instead of training one")
    generator: Literal["encoder-decoder", "unet"] = Field("encoder-decoder", description="noise generator")
    generator_width: int | None = Field(None, ge=1, description="channels of its first stage (default: as published)")
    generator_lr: Number = Field(1e-3, gt=0, description="Adam's learning rate")
    victim: str = Field("confuse-cnn", description="network in the loop: a name that `list models` shows")
    victim_lr: Number = Field(0.01, gt=0, description="learning rate of its SGD")
    victim_epochs: int = Field(1, ge=1, description="passes of each victim over the training images")
    trials: int = Field(
        20, ge=1, description="fresh victims that the generator learns from; most rounds of error-minimising"
    )
    batch_size: int = Field(64, ge=1, description="images a step")
    amp: bool = Field(False, description="autocast to bfloat16")
    device: str = Field("cpu", description="cpu or cuda")
    threads: int | None = Field(None, ge=1, le=1024, description="processor threads (default: all cores)")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the generator, the victims and their order")

    def inputs(self) -> dict[str, Path]:
        """Return what a run is made from beside its data set: role to run folder or file."""
        return {} if self.reuse is None else {"generator": Path(self.reuse)}


class DetectConfig(Strict):
    """`cli.py detect`: is there noise in training images?"""

    data: DataConfig = DataConfig()
    poison: str | None = Field(None, description="poison run whose images stand in for the training images")
    trusted: str | None = Field(
        None, description="data set whose test images are known to be clean (default: that of --data)"
    )
    images: int = Field(1000, ge=1, description="images of each kind, half to fit to and half to measure on")
    false_alarms: Number = Field(0.05, gt=0, lt=1, description="share of clean images that the threshold shall flag")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the choice of images and of the halves")


class ImportConfig(Strict):
    """`cli.py import`: a network and weights of the user's own, as a train run."""

    data: DataConfig = Field(description="the images that it classifies")
    model: str = Field(description="package.module:factory, timm:NAME or a name that `list models` shows")
    weights: str = Field(description="safetensors file, or torch checkpoint of tensors")
    mean: tuple[float, ...] = Field((), description="subtracted from each channel, in [0, 1] units (default: 0)")
    std: tuple[float, ...] = Field((), description="then divided by (default: 1)")
    input_shape: tuple[int, int, int] | None = Field(None, description="C,H,W, checked against the data")
    classes: tuple[str, ...] = Field((), description="class names in the network's order (default: the data set's)")

    _split = field_validator("mean", "std", "input_shape", "classes", mode="before")(split_at_commas)


class AttackConfig(Strict):
    """`cli.py attack`: one attack on one source model at one budget."""

    attack: str = Field("pgd-linf", description="attack: a name that `list attacks` shows")
    model: str = Field(description="source model: a train run, or an ONNX file")
    deployed: str | None = Field(
        None, description="second build, an ONNX file or train run, for attacks on the difference (diva)"
    )
    data: str | None = Field(None, description="data set (default: the one the source model was trained on)")
    split: Literal["test", "validation", "calibration", "train"] = Field("test", description="which images")
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
    """`cli.py attack --vnnlib`: counterexamples to properties of graphs, in the graphs' own units."""

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


class ParityLimits(Strict):
    """How far an exported graph may be from its source, on labelled images; outside is an error."""

    fp32_max_diff: float = Field(1e-3, gt=0, description="largest |logit difference| of the FP32 graph")
    fp16_accuracy_drop: float = Field(0.005, ge=0, description="clean accuracy that FP16 may lose (fraction)")
    int8_accuracy_drop: float = Field(0.01, ge=0, description="clean accuracy that INT8 may lose (fraction)")
    int8_min_agreement: float = Field(0.95, ge=0, le=1, description="share of images on which INT8 agrees with FP32")


class QatConfig(Strict):
    """Quantisation-aware training of the INT8 graphs, after their calibration."""

    epochs: int = Field(1, ge=1, description="passes over the training images")
    lr: Number = Field(1e-4, gt=0, description="Adam's first learning rate; it falls to 0 along a cosine")
    batch_size: int = Field(64, ge=1, description="images a step")
    augment: Literal["none", "flip", "crop", "flip-crop"] = Field("none", description="random flip and/or padded crop")
    eps: Number | None = Field(
        None, gt=0, le=1, description="train on PGD adversaries of the INT8 graph of this budget"
    )
    steps: int = Field(3, ge=1, description="of that PGD")
    limit: int | None = Field(None, ge=1, description="use at most so many training images, stratified")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the order, the augmentation and the attack's starts")


class ExportConfig(Strict):
    """`cli.py export`: one checkpoint to the graphs that are deployed."""

    model: str = Field(description="a train run")
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(
        ("fp32", "fp16", "int8"), description="graphs to write"
    )
    recipes: tuple[Literal["trt", "cpu"], ...] = Field(("trt", "cpu"), description="INT8 recipes")
    calibration_method: Literal["minmax", "entropy", "percentile", "mse"] = Field("minmax", description="INT8 ranges")
    calibration: str | None = Field(
        None, description="INT8 calibration images: a data set such as npz:PATH (default: the train run's own split)"
    )
    calibration_limit: int | None = Field(None, ge=1, description="use at most so many of them, stratified")
    calibration_seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the choice when there are more")
    keep_float: tuple[str, ...] | None = Field(
        None, description="layers of the INT8 graphs that stay float, by the tensors that they give"
    )
    qat: QatConfig | None = Field(
        None, description="fine-tune the INT8 graphs, for instance qat.epochs=1 qat.eps=2/255"
    )
    exporter: Literal["dynamo", "torchscript"] = Field("dynamo", description="PyTorch's exporter")
    opset: int = Field(20, ge=17, description="ONNX operator set")
    parity: ParityLimits = ParityLimits()
    parity_limit: int = Field(1000, ge=1, description="labelled images that the parity gate uses")
    batch_size: int = Field(256, ge=1, description="images a step")


class BuildConfig(Strict):
    """`cli.py export --from`: graphs to what a device opens, on the device and without torch; foreign ones to our form."""

    source: str = Field(description="an ONNX graph, or an export run for all its graphs, instead of --model")
    target: Literal["onnx", "openvino", "tensorrt"] = Field(
        "onnx", description="what to write; onnx brings a graph to images (N, C, H, W) in [0, 1]"
    )
    layout: Literal["nchw", "nhwc", "flat"] | None = Field(None, description="axes of the graph's input")
    input_range: Number | None = Field(None, gt=0, description="what white is to the graph: 1 or 255")
    mean: tuple[float, ...] = Field((), description="subtracted from each channel, in the graph's range")
    std: tuple[float, ...] = Field((), description="each channel is then divided by it")
    input_shape: tuple[int, int, int] | None = Field(None, description="C,H,W, where the graph does not say")
    prefix: str | None = Field(
        None, description="attack run (or npz, npy) of a universal perturbation, put in front of each graph"
    )
    prefix_class: int | None = Field(None, ge=0, description="which one, where it holds one a class")
    batch_range: tuple[int, int, int] | None = Field(None, description="TensorRT: batches (default: 1,32,256)")
    workspace_mib: int | None = Field(None, ge=1, description="TensorRT: scratch memory of a layer (default: 1024)")
    optimization_level: int | None = Field(None, ge=0, le=5, description="TensorRT: 0 to 5 (default: 3)")
    timing_cache: str | None = Field(None, description="TensorRT: file with measured kernel times, read and written")
    locked: bool | None = Field(None, description="TensorRT: fail where the timing cache lacks a time")

    _split = field_validator("mean", "std", "input_shape", "batch_range", mode="before")(split_at_commas)


class QuantizeConfig(Strict):
    """`cli.py quantize`: an INT8 build chosen by its accuracy under attack on validation images."""

    model: str = Field(description="a train run")
    adversaries: str = Field(description="attack run of that model's validation images (attack --split validation)")
    calibration_adversaries: str | None = Field(
        None, description="attack run of its calibration images, tried as calibration images too"
    )
    recipe: Literal["trt", "cpu"] = Field("trt", description="INT8 recipe")
    methods: tuple[Literal["minmax", "entropy", "percentile", "mse"], ...] = Field(
        ("minmax", "entropy", "percentile", "mse"),
        min_length=1,
        description="INT8 ranges; the first is tried on every sample",
    )
    calibrations: int = Field(5, ge=1, description="samples of clean calibration images")
    calibration_limit: int = Field(128, ge=1, description="images of a sample, stratified")
    budget: int = Field(12, ge=1, description="builds that are tried")
    max_drop: float = Field(
        0.01, ge=0, le=1, description="clean accuracy that the choice may lose against the best tried"
    )
    exporter: Literal["dynamo", "torchscript"] = Field("dynamo", description="PyTorch's exporter")


class EvalConfig(Strict):
    """`cli.py eval`: engines x adversarial sets."""

    engines: tuple[str, ...] = Field((), description="[NAME=][BACKEND:]PATH each; a run folder gives all its graphs")
    sets: tuple[str, ...] = Field((), description="attack runs, or npz/pt files of other tools")
    data: str | None = Field(
        None, description="data set whose test images are the clean ones, where no attack run is given"
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
        None, description="what mistakes cost: CSV, JSON or npy, a row a true class, a column a predicted one"
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


class BenchConfig(Strict):
    """`cli.py bench engines`: how fast engines are at several batch sizes."""

    engines: tuple[str, ...] = Field((), description="[NAME=][BACKEND:]PATH each; a run folder gives all its graphs")
    batch_sizes: tuple[int, ...] = Field((1, 8, 32), description="images a call")
    rounds: int = Field(50, ge=3, description="timed calls of each engine at each batch size; engines take turns")
    warm_up: int = Field(3, ge=0, description="calls before them that do not count")
    threads: int | None = Field(None, ge=1, le=1024, description="engine threads (default: all cores)")
    device: str = Field("cpu", description="cpu or cuda")
    mode: Literal["latency", "throughput"] = Field("latency", description="throughput: OpenVINO's streams")
    memory: bool = Field(True, description="measure peak memory, each engine in a process of its own")


class BenchAttacksConfig(Strict):
    """`cli.py bench attacks`: adversarial images a second."""

    model: str = Field(description="source model: a train run, or an ONNX file")
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


__all__ = [
    "AttackConfig",
    "BenchAttacksConfig",
    "BenchConfig",
    "BuildConfig",
    "DataConfig", "DetectConfig",
    "EvalConfig",
    "ExportConfig",
    "FalsifyConfig",
    "ImportConfig",
    "Norm",
    "Number",
    "ParityLimits",
    "PoisonConfig",
    "QatConfig", "QuantizeConfig",
    "Strict",
    "TrainConfig",
    "build_config",
    "check_eps",
    "format_eps",
    "parse_assignments",
    "parse_number",
]  # fmt: skip
