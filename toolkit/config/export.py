"""Checkpoints and graphs to the builds that are deployed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from edgeproof.config.base import MAX_SEED, Counts, Number, Strict
from edgeproof.config.reading import split_at_commas


class ParityLimits(Strict):
    """Limits on the difference between an exported graph and its source, on labelled images; outside is an error."""

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
    """`edgeproof export`: one checkpoint to the graphs that are deployed."""

    counts: ClassVar[tuple[Counts, ...]] = (
        Counts(
            (
                "recipes",
                "calibration_method",
                "calibration",
                "calibration_limit",
                "calibration_seed",
                "keep_float",
                "qat",
                "parity.int8_accuracy_drop",
                "parity.int8_min_agreement",
            ),
            lambda config: "int8" in config.precisions,
            "int8 is not among the precisions",
            "--precision int8",
        ),
        Counts(
            ("parity.fp16_accuracy_drop",),
            lambda config: "fp16" in config.precisions,
            "fp16 is not among the precisions",
            "--precision fp16",
        ),
        Counts(
            ("calibration_seed",),
            lambda config: config.calibration_limit is not None,
            "all calibration images are used",
            "--calibration-limit COUNT",
        ),
        Counts(
            ("qat.steps",),
            lambda config: config.qat is None or config.qat.eps is not None,
            "the INT8 graphs are not trained on adversarial images",
            "--set qat.eps=2/255",
        ),
    )

    model: str = Field(description="a train run")
    data: str | None = Field(
        None, description="where the train run's images lie now, such as folder:PATH (default: where the run says)"
    )
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
    """`edgeproof export --from`: graphs to what a device opens, on the device and without torch; foreign ones to our form."""

    counts: ClassVar[tuple[Counts, ...]] = (
        Counts(
            ("batch_range", "workspace_mib", "optimization_level", "timing_cache", "locked"),
            lambda config: config.target == "tensorrt",
            "it is for TensorRT plans, and the target is {0.target}",
            "--target tensorrt",
        ),
        Counts(
            ("prefix_class",),
            lambda config: config.prefix is not None,
            "no perturbation is put in front of the graphs",
            "--prefix RUN",
        ),
    )

    source: str = Field(description="an ONNX graph, or an export run for all its graphs, instead of --model")
    target: Literal["onnx", "openvino", "tensorrt"] = Field(
        "onnx", description="what to write; onnx brings a graph to images (N, C, H, W) in [0, 1]"
    )
    layout: Literal["nchw", "nhwc", "flat"] | None = Field(None, description="axes of the graph's input")
    input_range: Number | None = Field(None, gt=0, description="what white is to the graph: 1 or 255")
    mean: tuple[float, ...] = Field((), description="subtracted from each channel, in the graph's range")
    std: tuple[float, ...] = Field((), description="each channel is then divided by it")
    input_shape: tuple[int, int, int] | None = Field(None, description="C,H,W, where the graph does not say")
    output: str | None = Field(
        None, description="which output holds the scores of the classes, where a graph has several"
    )
    prefix: str | None = Field(
        None, description="attack run (or npz, npy) of a universal perturbation, put in front of each graph"
    )
    prefix_class: int | None = Field(None, ge=0, description="which one, where it holds one per class")
    batch_range: tuple[int, int, int] | None = Field(None, description="TensorRT: batches (default: 1,32,256)")
    workspace_mib: int | None = Field(None, ge=1, description="TensorRT: scratch memory of a layer (default: 1024)")
    optimization_level: int | None = Field(None, ge=0, le=5, description="TensorRT: 0 to 5 (default: 3)")
    timing_cache: str | None = Field(None, description="TensorRT: file with measured kernel times, read and written")
    locked: bool | None = Field(None, description="TensorRT: fail where the timing cache lacks a time")

    _split = field_validator("mean", "std", "input_shape", "batch_range", mode="before")(split_at_commas)


class QuantizeConfig(Strict):
    """`edgeproof quantize`: an INT8 build chosen by its accuracy under attack on validation images."""

    model: str = Field(description="a train run")
    data: str | None = Field(
        None, description="where the train run's images lie now, such as folder:PATH (default: where the run says)"
    )
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
