"""Poisoned training images, and looking for them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgeproof.config.base import MAX_SEED, Counts, Number, Strict
from edgeproof.config.data import DataConfig
from edgeproof.types import Pixels


class PoisonConfig(Strict):
    """`edgeproof poison`: training images that mislead a network that is trained on them."""

    counts: ClassVar[tuple[Counts, ...]] = (
        Counts(
            ("eps", "pixels"),
            lambda config: config.method != "label-flip",
            "label-flip changes labels, and no image",
        ),
        Counts(
            ("target", "reuse", "generator", "generator_width", "generator_lr", "victim_epochs", "amp"),
            lambda config: config.method == "deep-confuse",
            "only deep-confuse has a generator, and the method is {0.method}",
            "--method deep-confuse",
        ),
        Counts(
            ("victim", "victim_lr", "trials", "batch_size"),
            lambda config: config.method in ("deep-confuse", "error-minimising"),
            "{0.method} fits no network",
        ),
        Counts(
            (
                "target",
                "generator",
                "generator_width",
                "generator_lr",
                "victim",
                "victim_lr",
                "victim_epochs",
                "trials",
                "batch_size",
                "amp",
            ),
            lambda config: config.reuse is None,
            "the generator of {0.reuse} is used as it is",
        ),
    )

    data: DataConfig = DataConfig()
    method: Literal["deep-confuse", "error-minimising", "class-patterns", "label-flip"] = Field(
        "deep-confuse",
        description="a generator's noise; noise that leaves nothing to learn; a random pattern per class; or random labels, a control",
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


class DetectConfig(Strict):
    """`edgeproof detect`: is there noise in training images?"""

    data: DataConfig = DataConfig()
    poison: str | None = Field(None, description="poison run whose images stand in for the training images")
    trusted: str | None = Field(
        None, description="data set whose test images are known to be clean (default: that of --data)"
    )
    images: int = Field(1000, ge=1, description="images of each kind, half to fit to and half to measure on")
    false_alarms: Number = Field(0.05, gt=0, lt=1, description="share of clean images that the threshold should flag")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the choice of images and of the halves")
