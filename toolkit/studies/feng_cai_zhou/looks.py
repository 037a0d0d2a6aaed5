"""The study's detector: can whoever receives the images see that there is noise in them?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgeproof.config import DetectConfig, Strict
from edgeproof.evaluation.detection import DetectRecord, detect_noise
from edgeproof.evaluation.results import RateRecord
from edgeproof.reports.detection import detection_table
from edgeproof.reports.document import Block
from edgeproof.runs import Run, write_json
from edgeproof.studies.verdicts import Effect, Verdict, judge, within_seed
from edgeproof.system.untrusted import read_record

CLEAN = "clean"
Looks = Mapping[str, Sequence[DetectRecord]]  # by the name of the images; clean ones first, then the study's own noise
_FILE = "detected.json"
_SURE = 0.001


class LookRecord(Strict):
    """What was found in each draw of images."""

    draws: tuple[DetectRecord, ...]


def look(config: Mapping[str, Any], out: Run) -> None:
    """Compare draws of the training images, or of a poison's, with test images."""
    given = {"data": config["data"], "poison": config["poison"]}
    seeds = range(config["seed"], config["seed"] + config["draws"])
    found = [detect_noise(DetectConfig.model_validate({**given, "seed": seed})) for seed in seeds]
    write_json(out.path / _FILE, LookRecord(draws=tuple(found)).model_dump(mode="json"))


def read_looks(runs: Mapping[str, Run]) -> dict[str, tuple[DetectRecord, ...]]:
    """Read what was found in each kind of images, by its name."""
    return {title: read_record(run.file(_FILE), LookRecord).draws for title, run in runs.items()}


def look_cells(looks: Looks) -> Iterable[dict[str, Any]]:
    """Return each draw as a JSON object."""
    for name, draws in looks.items():
        for draw in draws:
            yield {"table": "detector", "images": name, **draw.model_dump(mode="json")}


def seen_by_detector(looks: Looks) -> Iterable[Verdict]:
    """Judge whether the study's own noise can be seen."""
    for name in list(looks)[1:2]:
        flagged = looks[name][0].flagged
        claim = "Whoever receives the images and has clean ones sees it: over 90 % are flagged, at 5 % false alarms."
        yield judge(claim, _percent(flagged), threshold=90)


def look_section(found: Looks) -> tuple[Block, ...]:
    """Return what the detector finds in each kind of images, and how often it is wrong about clean ones."""
    clean = found[CLEAN]
    fitted = max(draw.flagged.total for draws in found.values() for draw in draws)
    areas = [each.auc for each in clean]
    alarms = [100 * (each.false_alarms.value or 0) for each in clean]
    said = (
        "Two linear models on what a 3 x 3 blur takes away, as the command detect fits them: one tells these images from clean "
        f"test images, the other tells the classes. They are fitted to {fitted} images of each kind at most and measured on as many "
        "others. The threshold shall flag 5 % of clean images. "
        f"In {len(clean)} draws of clean training images it flagged {_between(alarms)} % of the trusted ones, and the area "
        f"under the curve, 0.5 where nothing can be told, was {min(areas):.3f} to {max(areas):.3f}; "
        f"{sum(each.p_value < _SURE for each in clean)} of them had p under {_SURE:g}. The first of them stands in the table."
    )
    return said, detection_table({name: draws[0] for name, draws in found.items()})


def _between(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def _percent(rate: RateRecord) -> Effect:
    value, low, high = (100 * (number or 0.0) for number in (rate.value, rate.low, rate.high))
    return within_seed(value, low=low, high=high, method="Wilson's over the images", unit="%")
