"""Training, and taking a network of the user's own."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from edgeproof.config.base import MAX_SEED, Counts, Number, Strict
from edgeproof.config.data import DataConfig
from edgeproof.config.reading import split_at_commas


class TrainConfig(Strict):
    """`edgeproof train`."""

    counts: ClassVar[tuple[Counts, ...]] = (
        Counts(
            ("momentum",),
            lambda config: config.optimizer == "sgd",
            "the optimizer is {0.optimizer}",
            "--optimizer sgd",
        ),
        Counts(
            ("lr_decay",),
            lambda config: config.schedule == "inverse-time",
            "the schedule is {0.schedule}",
            "--schedule inverse-time",
        ),
        Counts(
            ("min_delta",),
            lambda config: config.patience is not None,
            "training does not stop early",
            "--patience EPOCHS",
        ),
    )

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


class ImportConfig(Strict):
    """`edgeproof import`: a network and weights of the user's own, as a train run."""

    data: DataConfig = Field(description="the images that it classifies")
    model: str = Field(description="package.module:factory, timm:NAME or a name that `list models` shows")
    weights: str = Field(description="safetensors file, or torch checkpoint of tensors")
    weights_key: str | None = Field(
        None, description="which state dict of a file that has several: its key or index, or what its names begin with"
    )
    mean: tuple[float, ...] = Field((), description="subtracted from each channel, in [0, 1] units (default: 0)")
    std: tuple[float, ...] = Field((), description="then divided by (default: 1)")
    input_shape: tuple[int, int, int] | None = Field(None, description="C,H,W, checked against the data")
    classes: tuple[str, ...] = Field((), description="class names in the network's order (default: the data set's)")
    classes_file: str | None = Field(
        None, description='the same from a file: a name per line, or JSON such as {"0": "cat", "1": "dog, wild"}'
    )

    _split = field_validator("mean", "std", "input_shape", "classes", mode="before")(split_at_commas)
