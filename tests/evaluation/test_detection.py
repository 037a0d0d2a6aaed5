"""The detector of noise in training images: it finds what repeats and what does not, and is quiet about clean images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.config import DetectConfig
from edgeproof.data.base import LabelledImages, load_splits
from edgeproof.errors import DataError
from edgeproof.evaluation.detection import DetectRecord, compare, detect_noise, residuals

pytest.importorskip("sklearn")


def images(count: int, *, seed: int, classes: int = 4) -> LabelledImages:
    """Smooth pictures with a little grain, as a camera makes them: 12 x 12, brighter towards one side."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    slope = np.linspace(0, 1, 12)[None, :, None] * rng.uniform(0.3, 0.6, (count, 1, 1))
    level = rng.uniform(0.1, 0.3, (count, 1, 1))
    x = np.broadcast_to(level + slope, (count, 12, 12)) + rng.normal(0, 0.01, (count, 12, 12))
    names = tuple(map(str, range(classes)))
    return LabelledImages(
        x.clip(0, 1)[:, None].astype(np.float32), labels.astype(np.int64), np.arange(count), names, "toy", "train"
    )


def noisy(data: LabelledImages, noise: np.ndarray) -> LabelledImages:
    return replace(data, images=np.clip(data.images + noise, 0, 1).astype(np.float32))


def found(suspected: LabelledImages, seed: int = 0, **changes: float) -> DetectRecord:
    return compare(suspected, images(400, seed=2), **{"images": 400, "false_alarms": 0.05, **changes}, seed=seed)


def test_a_residual_is_the_image_less_the_mean_of_its_nine_pixels_and_its_magnitude() -> None:
    x = np.random.default_rng(0).random((2, 3, 5, 5)).astype(np.float32)
    rows = residuals(x)
    assert rows.shape == (2, 150)
    signed = rows[:, :75].reshape(x.shape)
    assert signed[1, 2, 3, 2] == pytest.approx(x[1, 2, 3, 2] - x[1, 2, 2:5, 1:4].mean(), abs=1e-6)
    assert np.array_equal(rows[:, 75:], np.abs(rows[:, :75]))


def test_a_pattern_a_class_is_found_and_tells_the_class() -> None:
    clean = images(400, seed=1)
    patterns = np.random.default_rng(3).choice([-0.03, 0.03], (4, 1, 12, 12))
    seen = found(noisy(clean, patterns[clean.labels]))
    assert seen.auc > 0.99
    assert seen.p_value < 1e-6
    assert seen.flagged.hits > 0.95 * seen.flagged.total
    assert seen.labels_suspected.hits > 0.95 * seen.labels_suspected.total
    assert seen.labels_trusted.hits < 0.5 * seen.labels_trusted.total
    assert seen.flagged.total == seen.false_alarms.total == 200


def test_noise_that_never_repeats_is_found_by_its_size() -> None:
    clean = images(400, seed=1)
    seen = found(noisy(clean, np.random.default_rng(4).choice([-0.03, 0.03], clean.images.shape)))
    assert seen.auc > 0.99
    assert seen.labels_suspected.hits < 0.5 * seen.labels_suspected.total


def test_clean_images_raise_as_many_alarms_as_were_asked_for() -> None:
    clean = images(4000, seed=1)
    other = images(4000, seed=2)
    seen = compare(clean, other, images=4000, false_alarms=0.1, seed=0)
    assert 0.45 < seen.auc < 0.55
    for rate in (seen.false_alarms, seen.flagged):
        assert rate.total == 2000
        assert 0.07 < rate.hits / rate.total < 0.13
    areas = [found(clean, seed=seed).p_value for seed in range(20)]
    assert sum(p < 0.05 for p in areas) <= 4


def test_other_class_sizes_are_not_taken_for_noise() -> None:
    rng = np.random.default_rng(6)
    patches = rng.uniform(-0.1, 0.1, (4, 1, 12, 12))  # what makes the classes, in clean images

    def of(labels: np.ndarray, seed: int) -> LabelledImages:
        plain = images(len(labels), seed=seed)
        return noisy(replace(plain, labels=labels), patches[labels])

    even, odd = np.arange(1200) % 4, np.repeat([0, 1, 2, 3], [900, 100, 100, 100])
    seen = compare(of(odd, 1), of(even, 2), images=1200, false_alarms=0.05, seed=0)
    assert 0.42 < seen.auc < 0.58
    assert seen.flagged.total == seen.false_alarms.total == 300


def test_half_of_the_images_with_noise_are_about_half_of_the_flagged_ones() -> None:
    clean = images(4000, seed=1)
    noise = (
        np.random.default_rng(5).choice([-0.05, 0.05], clean.images.shape)
        * (np.arange(4000) // 4 % 2)[:, None, None, None]
    )
    seen = compare(noisy(clean, noise), images(4000, seed=2), images=4000, false_alarms=0.05, seed=0)
    assert 0.45 < seen.flagged.hits / seen.flagged.total < 0.58


def test_too_few_images_and_other_shapes_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"^toy/train has 39 images, of which 39 of 4 classes can be compared; expected 40 or more"
    ):
        found(images(39, seed=1))
    with pytest.raises(DataError, match=r"400 images, of which 400 of 1 classes can be compared"):
        found(images(400, seed=1, classes=1))
    wide = replace(images(400, seed=1), images=np.zeros((400, 1, 12, 13), np.float32))
    with pytest.raises(DataError, match=r"suspected images are \(1, 12, 13\) and trusted ones \(1, 12, 12\)"):
        found(wide)


def test_a_data_sets_own_test_images_are_trusted_unless_others_are_named() -> None:
    config = DetectConfig.model_validate({"data": {"name": "digits"}, "images": 400})
    splits = load_splits(config.data)
    assert detect_noise(config) == compare(splits.train, splits.test, images=400, false_alarms=0.05, seed=0)
    assert detect_noise(config.model_copy(update={"trusted": "digits"})) == detect_noise(config)


def test_the_command_line_finds_the_noise_of_a_poison_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = str(tmp_path / "run")
    made = CliRunner().invoke(
        cli, ["poison", "--data", "digits", "--method", "class-patterns", "--eps", "0.1", "--out", out]
    )
    assert made.exit_code == 0, made.output
    told = CliRunner().invoke(cli, ["detect", "--data", "digits", "--poison", out])
    assert told.exit_code == 0, told.output
    assert "Separated from clean ones (AUC)" in told.stdout
    seen = json.loads(CliRunner().invoke(cli, ["detect", "--data", "digits", "--poison", out, "--json"]).stdout)
    assert seen["auc"] > 0.95
    assert f"{seen['auc']:.3f}" in told.stdout
