"""An INT8 build chosen by its accuracy under attack, on validation images; the test images have no part in it.

Candidates are tried until the budget is spent: the same method on several samples of calibration images (how much do builds of
one network vary?), the other methods, adversaries as calibration images, and at last the best of these with its noisiest layers
left in float. What has been tried stands in `tries/` and is not tried again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edgeproof.config import ExportConfig, QuantizeConfig, Strict
from edgeproof.data.base import AdversarialSet, LabelledImages, Splits, load_adversarial_set
from edgeproof.data.origin import splits_of
from edgeproof.deployment.build import as_model_error
from edgeproof.deployment.export import CHECKPOINT, FP32, write_fp32
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.errors import ConfigError, DataError
from edgeproof.evaluation.metrics import Rate, accuracy, predictions
from edgeproof.runs import Run, atomic, write_text
from edgeproof.system.progress import progress
from edgeproof.types import Images, Labels

SCHEMA_VERSION = 1
SEARCH = "search.json"
_TRIES = "tries"


class CandidateRecord(Strict):
    """One build that was tried.

    calibration: "clean 0" is the sample of the first seed; "adversarial" are adversaries of the calibration split. keep_float:
    layers left in float. clean, robust: right on the validation images, and on their adversaries. flips_clean, flips_robust: how
    many of these get another class than from the first candidate.
    """

    name: str
    method: str
    calibration: str
    keep_float: tuple[str, ...]
    clean: Rate
    robust: Rate
    flips_clean: int
    flips_robust: int


class LayerRecord(Strict):
    """How far a layer of the best calibrated build is from the FP32 graph, on clean images and on adversaries; null: equal."""

    layer: str
    operator: str
    sqnr_db_clean: float | None
    sqnr_db_adversarial: float | None


class SearchReport(Strict):
    """`search.json`."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    adversaries: str
    images: int
    budget: int
    candidates: tuple[CandidateRecord, ...]
    best: str
    median: str
    layers: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class _Candidate:
    method: str
    calibration: str
    keep_float: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        kept = f", {len(self.keep_float)} in float" if self.keep_float else ""
        return f"{self.method}, {self.calibration}{kept}"


class _Bench:
    """What every candidate is made from and judged on."""

    def __init__(self, config: QuantizeConfig, folder: Path, splits: Splits, judge: AdversarialSet) -> None:
        self._config, self._folder, self._judge = config, folder, judge
        self._samples = _calibration_samples(config, splits)
        self._first: tuple[Labels, Labels] | None = None

    def graph(self, candidate: _Candidate) -> Path:
        """Return the candidate's file."""
        return self._folder / _TRIES / f"{candidate.name.replace(', ', '--').replace(' ', '-')}.onnx"

    def try_(self, candidate: _Candidate) -> CandidateRecord:
        """Build a candidate, unless it is there, and judge it."""
        path = self.graph(candidate)
        if not path.exists():
            self._build(candidate, path)
        found = [self._classes(path, images) for images in (self._judge.clean.images, self._judge.images)]
        self._first = self._first or (found[0], found[1])
        clean, robust = (accuracy(classes, self._judge.clean.labels) for classes in found)
        flips = [int((classes != first).sum()) for classes, first in zip(found, self._first, strict=True)]
        return CandidateRecord(
            name=candidate.name,
            method=candidate.method,
            calibration=candidate.calibration,
            keep_float=candidate.keep_float,
            clean=clean,
            robust=robust,
            flips_clean=flips[0],
            flips_robust=flips[1],
        )

    def plan(self) -> Iterator[_Candidate]:
        """Go through the candidates that differ in their calibration."""
        clean = [name for name in self._samples if name.startswith("clean")]
        first, *others = self._config.methods
        yield from (_Candidate(first, name) for name in clean)
        yield from (_Candidate(method, clean[0]) for method in others)
        yield from (
            _Candidate(method, name) for name in self._samples if name not in clean for method in self._config.methods
        )

    def noise(self, candidate: _Candidate) -> tuple[LayerRecord, ...]:
        """Measure the layers of a candidate."""
        from edgeproof.export.sensitivity import layer_noise

        source, path = self._folder / FP32, self.graph(candidate)
        with as_model_error():
            clean = layer_noise(source, path, [self._judge.clean.images])
            attacked = layer_noise(source, path, [self._judge.images])
        return tuple(
            LayerRecord(
                layer=one.layer,
                operator=one.operator,
                sqnr_db_clean=_finite(one.sqnr_db),
                sqnr_db_adversarial=_finite(other.sqnr_db),
            )
            for one, other in zip(clean, attacked, strict=True)
        )

    def _build(self, candidate: _Candidate, path: Path) -> None:
        from edgeproof.export.int8 import quantize_int8

        with atomic(path) as temporary, as_model_error():
            quantize_int8(
                self._folder / FP32,
                temporary,
                calibration=[self._samples[candidate.calibration]],
                recipe=self._config.recipe,
                method=candidate.method,  # type: ignore[arg-type]
                keep_float=candidate.keep_float,
            )

    def _classes(self, path: Path, images: Images) -> Labels:
        with open_engine(path, backend="onnxruntime") as engine:
            return predictions(predict_all(engine, images, batch_size=256))


def choose_build(config: QuantizeConfig, out: Run) -> SearchReport:
    """Try INT8 builds and keep the one that is right on most adversaries of validation images, and the median one.

    Writes the FP32 graph, `model.int8-<recipe>.onnx` (best), `model.int8-<recipe>-median.onnx` (of the calibrated ones) and
    `search.json`, and finishes the run, which the other stages take as an export run.

    Raises:
        DataError: When the adversaries were not made from validation images of the model's own split.
        ConfigError: When there are no images to calibrate with.
        ModelError: When a graph cannot be made.
    """
    source = Run.open(config.model, kind="train")
    splits = splits_of(source, data=config.data)
    judge = load_adversarial_set(Run.open(config.adversaries, kind="attack"))
    check_part(judge, splits.validation, what="--adversaries")
    if not (out.path / FP32).exists():
        with atomic(out.path / FP32) as temporary:
            write_fp32(source.file(CHECKPOINT), temporary, ExportConfig(model=config.model, exporter=config.exporter))
    bench = _Bench(config, out.path, splits, judge)
    with progress("search", config.budget) as advance:
        tried: dict[_Candidate, CandidateRecord] = {}
        for candidate in islice(bench.plan(), config.budget):
            tried[candidate] = bench.try_(candidate)
            advance(note=candidate.name)
        calibrated = _ranked(tried, max_drop=config.max_drop)
        layers = bench.noise(calibrated[0])
        for candidate in islice(_with_float_layers(calibrated[0], layers), config.budget - len(tried)):
            tried[candidate] = bench.try_(candidate)
            advance(note=candidate.name)
    best, median = _ranked(tried, max_drop=config.max_drop)[0], calibrated[(len(calibrated) - 1) // 2]
    shutil.copyfile(bench.graph(best), out.path / f"model.int8-{config.recipe}.onnx")
    shutil.copyfile(bench.graph(median), out.path / f"model.int8-{config.recipe}-median.onnx")
    report = SearchReport(
        recipe=config.recipe,
        adversaries=judge.name,
        images=len(judge.clean),
        budget=config.budget,
        candidates=tuple(tried.values()),
        best=best.name,
        median=median.name,
        layers=layers,
    )
    write_text(out.path / SEARCH, report.model_dump_json(indent=1) + "\n")
    out.intermediate(_TRIES)
    return report


def check_part(set_: AdversarialSet, part: LabelledImages, *, what: str) -> None:
    """Refuse adversaries of other images than those of one part of the data, image by image.

    Raises:
        DataError: With the first image that is not of that part.
    """
    rows = {int(index): row for row, index in enumerate(part.index)}
    for position, index in enumerate(set_.clean.index.tolist()):
        row = rows.get(index)
        if (
            set_.clean.split != part.split
            or row is None
            or not np.array_equal(set_.clean.images[position], part.images[row])
        ):
            raise DataError(
                f"{what} {set_.name!r}: image {index} of its {set_.clean.split} split is not one of the model's {part.split} "
                f"images; a build may only be chosen on these: attack with --split {part.split}"
            )


def _calibration_samples(config: QuantizeConfig, splits: Splits) -> dict[str, Images]:
    pool = splits.calibration
    if not len(pool):
        raise ConfigError(
            f"{splits.test.name} leaves no calibration images; train with data.calibration above 0, 512 for instance"
        )
    count = min(config.calibration_limit, len(pool))
    samples = {f"clean {seed}": pool.head(count, seed=seed).images for seed in range(config.calibrations)}
    if config.calibration_adversaries:
        attacked = load_adversarial_set(Run.open(config.calibration_adversaries, kind="attack"))
        check_part(attacked, pool, what="--calibration-adversaries")
        samples["adversarial"] = attacked.images
    return samples


def _ranked(tried: Mapping[_Candidate, CandidateRecord], *, max_drop: float) -> list[_Candidate]:
    """Order candidates by what they get right under attack, then clean, then by when they were tried.

    Those that have lost too much clean accuracy come last: a range that is far too narrow hides a network from attacks on another.
    """
    least = max(each.clean.hits for each in tried.values()) - max_drop * next(iter(tried.values())).clean.total
    return sorted(
        tried, key=lambda each: (tried[each].clean.hits < least, -tried[each].robust.hits, -tried[each].clean.hits)
    )


def _with_float_layers(best: _Candidate, layers: Sequence[LayerRecord]) -> Iterator[_Candidate]:
    """Leave the noisiest layer in float, then the two noisiest, and so on, but not all of them."""
    by_noise = sorted(
        layers, key=lambda layer: float("inf") if layer.sqnr_db_adversarial is None else layer.sqnr_db_adversarial
    )
    for count in range(1, len(by_noise)):
        yield _Candidate(best.method, best.calibration, tuple(layer.layer for layer in by_noise[:count]))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
