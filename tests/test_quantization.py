"""The search for an INT8 build: what it is judged on, and what it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeproof.attacks.craft import attack
from edgeproof.config import AttackConfig, DataConfig, QuantizeConfig
from edgeproof.data.base import load_adversarial_set, load_splits, save_adversarial_set
from edgeproof.deployment.int8_search import CandidateRecord, SearchReport, _ranked, check_part, choose_build
from edgeproof.engines.specs import read_specs
from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import Rate
from edgeproof.runs import Run
from tests.test_deployment import train_run

DATA = {"name": "synthetic", "calibration": 48, "validation": 0.25}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory.mktemp("runs") / "train-toy", DATA)


def attacked(model: Path, folder: Path, split: str) -> Path:
    config = AttackConfig.model_validate({"model": str(model), "attack": "fgsm", "eps": 0.2, "split": split})
    with Run.start("attack", "toy", config=config.model_dump(mode="json"), out=folder / split) as out:
        attack(config, out)
    return folder / split


def search(model: Path, folder: Path, **options: object) -> tuple[Run, SearchReport]:
    given = {"model": str(model), "calibration_limit": 16, "calibrations": 2, "exporter": "torchscript", **options}
    config = QuantizeConfig.model_validate(given)
    with Run.start("export", "toy", config=config.model_dump(mode="json"), out=folder) as out:
        return out, choose_build(config, out)


def test_the_best_build_under_attack_is_kept_and_every_try_is_told(trained: Path, tmp_path: Path) -> None:
    judge, samples = (str(attacked(trained, tmp_path, split)) for split in ("validation", "calibration"))
    run, report = search(
        trained,
        tmp_path / "search",
        adversaries=judge,
        calibration_adversaries=samples,
        budget=8,
        methods=["minmax", "mse"],
    )
    assert [(each.method, each.calibration, len(each.keep_float)) for each in report.candidates] == [
        ("minmax", "clean 0", 0), ("minmax", "clean 1", 0), ("mse", "clean 0", 0),
        ("minmax", "adversarial", 0), ("mse", "adversarial", 0),
        *((each.method, each.calibration, n) for n, each in enumerate(report.candidates[5:], start=1)),
    ]  # fmt: skip
    assert len(report.candidates) == 8
    assert report.candidates[0].flips_clean == report.candidates[0].flips_robust == 0
    by_name = {each.name: each for each in report.candidates}
    assert by_name[report.best].robust.hits == max(
        each.robust.hits for each in report.candidates if each.clean.hits >= by_name[report.best].clean.hits
    )
    assert by_name[report.best].clean.hits >= 0.99 * max(each.clean.hits for each in report.candidates)
    noisiest = min(report.layers, key=lambda layer: layer.sqnr_db_adversarial or np.inf)
    assert report.candidates[5].keep_float == (noisiest.layer,)
    assert {spec.name for spec in read_specs([str(run.path)])} == {"ort-fp32", "ort-int8-trt", "ort-int8-trt-median"}
    assert run.outputs() == ["model.fp32.onnx", "model.int8-trt-median.onnx", "model.int8-trt.onnx", "search.json"]


def test_adversaries_of_test_images_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of its test split is not one of the model's validation images"):
        search(trained, tmp_path / "search", adversaries=str(attacked(trained, tmp_path, "test")))


def test_one_planted_test_image_is_found(trained: Path, tmp_path: Path) -> None:
    splits = load_splits(DataConfig.model_validate(DATA))
    good = load_adversarial_set(Run.open(attacked(trained, tmp_path, "validation")))
    check_part(good, splits.validation, what="the set")
    images = good.clean.images.copy()
    images[3] = splits.test.images[0]
    planted = replace(good, clean=replace(good.clean, images=images))
    with pytest.raises(DataError, match=rf"image {good.clean.index[3]} of its validation split is not one of"):
        check_part(planted, splits.validation, what="the set")
    with Run.start("attack", "planted", config={}, out=tmp_path / "planted") as out:
        save_adversarial_set(out, planted)
        out.finish()
    with pytest.raises(DataError, match="a build may only be chosen on these: attack with --split validation"):
        search(trained, tmp_path / "search", adversaries=str(tmp_path / "planted"))


def test_a_build_that_has_lost_its_clean_accuracy_is_not_chosen() -> None:
    def record(clean: int, robust: int) -> CandidateRecord:
        rates = {"clean": Rate(clean, 100), "robust": Rate(robust, 100)}
        about = {"name": "", "method": "", "calibration": "", "keep_float": (), "flips_clean": 0, "flips_robust": 0}
        return CandidateRecord.model_validate({**about, **rates})

    tried = {"sound": record(97, 20), "hidden": record(90, 60), "better": record(96, 30)}
    assert _ranked(tried, max_drop=0.02) == ["better", "sound", "hidden"]  # type: ignore[arg-type, comparison-overlap]
    assert _ranked(tried, max_drop=0.1) == ["hidden", "better", "sound"]  # type: ignore[arg-type, comparison-overlap]
