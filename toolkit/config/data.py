"""The images, and how they are split."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgeproof.config.base import MAX_SEED, Strict


class DataConfig(Strict):
    """The images, and how they are split."""

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
