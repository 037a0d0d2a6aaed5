"""Eval runs made of drawn predictions: consistent with themselves, counted here without the toolkit's metrics."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np

from edgeproof.config import format_eps
from edgeproof.data.arrays import write_npz
from edgeproof.evaluation.results import (
    CellRecord,
    ClassRecord,
    Description,
    EngineRecord,
    GateRecord,
    McNemar,
    Rate,
    Results,
    SetRecord,
    ThroughputRecord,
)
from edgeproof.runs import Run, write_text
from edgeproof.types import Array

ENGINES = {"torch-fp32": 0.0, "ort-fp16": 0.0, "ort-int8-trt": 0.05}  # share of predictions that quantisation changes
SETS = (("fgsm", 0.05), ("pgd-linf", 0.05), ("pgd-linf", 0.1), ("noise", 0.1))
STRENGTH = {"fgsm": 6.0, "pgd-linf": 9.0, "noise": 0.4}


def make_eval_run(
    root: Path,
    *,
    classes: tuple[str, ...] = ("cat", "dog", "frog", "horse"),
    count: int = 200,
    engines: dict[str, float] | None = None,
    sets: tuple[tuple[str, float], ...] = SETS,
    names: dict[str, str] | None = None,
    gates: tuple[GateRecord, ...] = (),
    warnings: tuple[str, ...] = (),
    channels: int = 1,
    missing: tuple[int, ...] = (),
    seed: int = 0,
) -> Run:
    """Write `results.json` and `samples.npz` of an eval run that is not finished, and return it.

    Args:
        root: Where run folders go.
        classes: Class names.
        count: Images.
        engines: Name to the share of predictions that differ from the first engine's.
        sets: Attack and budget of each adversarial set.
        names: Adversarial set name to the name to use instead.
        gates: Limits to record.
        warnings: Sentences to record.
        channels: Of the gallery's images.
        missing: Classes without images.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    engines = ENGINES if engines is None else engines
    present = np.setdiff1d(np.arange(len(classes)), missing)
    labels = present[np.arange(count) % len(present)]
    difficulty = 0.02 + 0.1 * np.arange(len(classes)) / len(classes)
    set_records = [_set("clean", None, None, count)]
    set_records += [_set(_named(attack, eps, names), attack, eps, count) for attack, eps in sets]
    predictions: dict[tuple[str, str], Array] = {}
    for record in set_records:
        loss = difficulty[labels] * (1 + STRENGTH.get(record.attack or "", 0) * (record.eps or 0) / 0.1)
        wrong = random.random(count) < np.minimum(loss * (1 if record.kind == "clean" else 3), 1)
        base = np.where(wrong, (labels + 1 + random.integers(0, 2, count)) % len(classes), labels)
        for engine, share in engines.items():
            changed = random.random(count) < share
            predictions[engine, record.name] = np.where(changed, random.integers(0, len(classes), count), base)
    run = Run.start("eval", "synthetic", config=_config(engines, set_records), root=root, seed=seed)
    results = Results(
        tool={"name": "edgeproof", "version": "0.1.0"},
        data={"name": "digits", "split": "test", "count": count, "input_shape": [channels, 8, 8]},
        classes=classes,
        reference=next(iter(engines)),
        engines=tuple(_engine(name, place) for place, name in enumerate(engines)),
        sets=tuple(set_records),
        cells=tuple(
            _cell(engine, record, predictions, labels, classes) for record in set_records for engine in engines
        ),
        gates=gates,
        warnings=warnings,
        environment={"python": "3.11.2", "processor": "a processor", "cores": "2"},
    )
    write_text(run.path / "results.json", results.text())
    _write_samples(run, predictions, labels, set_records, channels=channels, random=random)
    run.close()
    return run


def describe(*, classes: int, images: int, engines: int, sets: int) -> Description:
    """Describe an evaluation of that size; the first set is the clean one."""
    names = [("clean", None, None), *((f"pgd-linf {k}/255", "pgd-linf", k / 255) for k in range(1, sets))]
    return Description(
        tool={"name": "edgeproof", "version": "0.1.0"},
        data={"name": "synthetic", "split": "test", "count": images, "input_shape": [3, 8, 8]},
        classes=tuple(f"class {label}" for label in range(classes)),
        reference="engine-0",
        engines=tuple(_engine(f"engine-{place}", place) for place in range(engines)),
        sets=tuple(_set(name, attack, eps, images) for name, attack, eps in names),
        environment={},
    )


def gate(text: str = "robust_accuracy=0.4", *, passed: bool = False, measured: float | None = 0.12) -> GateRecord:
    """Return a limit on the robust accuracy of the INT8 engine."""
    return GateRecord(
        text=text, metric="robust_accuracy", engine="ort-int8-trt", set="pgd-linf 0.1", measured=measured, limit=0.4,
        count=200, passed=passed, message=f"{text} {'holds' if passed else 'does not hold'}",
    )  # fmt: skip


def _named(attack: str, eps: float, names: dict[str, str] | None) -> str:
    name = f"{attack} {format_eps(eps)}"
    return (names or {}).get(name, name)


def _config(engines: dict[str, float], records: list[SetRecord]) -> dict[str, object]:
    return {
        "engines": [f"{name}=runs/export/model.onnx" for name in engines],
        "sets": [f"runs/attack-{place}" for place in range(len(records) - 1)],
        "batch_size": 64,
        "throughput": True,
    }


def _set(name: str, attack: str | None, eps: float | None, count: int) -> SetRecord:
    return SetRecord(
        name=name, kind="adversarial" if attack else "clean", attack=attack, norm="linf" if attack else None, eps=eps,
        pixels="float", params={"steps": 20, "step_size": eps / 4} if eps else {}, source="train-digits" if attack else "",
        count=count, sha256=hashlib.sha256(name.encode("utf-8", "replace")).hexdigest(), indicators={"zero_gradient_share": 0.01} if attack else {},
    )  # fmt: skip


def _engine(name: str, place: int) -> EngineRecord:
    speed = 1234.5 * 3**place
    return EngineRecord(
        name=name, backend="onnxruntime", precision="int8" if "int8" in name else "fp32", device="cpu",
        provider="CPUExecutionProvider", path=f"runs/export/{place}.onnx", sha256=f"{place:064x}", size=1_525_738,
        versions={"onnxruntime": "1.31.0"}, note="", options={"threads": 2},
        throughput=ThroughputRecord(batch_size=64, repeats=9, images_per_s=speed, p5=speed * 0.95, p95=speed * 1.04),
    )  # fmt: skip


def _cell(
    engine: str, set_: SetRecord, predictions: dict[tuple[str, str], Array], labels: Array, classes: tuple[str, ...]
) -> CellRecord:
    reference = predictions[next(iter(predictions))[0], set_.name]
    mine, clean = predictions[engine, set_.name], predictions[engine, "clean"]
    right, right_clean, right_reference = mine == labels, clean == labels, reference == labels
    attacked = set_.kind == "adversarial"
    per_class = tuple(
        ClassRecord(label=label, hits=int(right[labels == label].sum()), total=int((labels == label).sum()))
        for label in sorted(set(labels.tolist()))
    )
    confusion = Counter(zip(labels.tolist(), mine.tolist(), strict=True))
    first, second = int((right_reference & ~right).sum()), int((right & ~right_reference).sum())
    p = min(1.0, 2 * sum(math.comb(first + second, k) for k in range(min(first, second) + 1)) / 2 ** (first + second))
    values = [(record.accuracy.value, record.label) for record in per_class if record.accuracy.value is not None]
    return CellRecord(
        engine=engine,
        set=set_.name,
        accuracy=Rate(int(right.sum()), len(labels)),
        success=Rate(int((right_clean & ~right).sum()), int(right_clean.sum())) if attacked else None,
        transfer=Rate(int((right_clean & ~right).sum()), int(right_clean.sum())) if attacked else None,
        transfer_ratio=1.0 if attacked else None,
        agreement=Rate(int((mine == reference).sum()), len(labels)),
        mcnemar=McNemar(only_reference_right=first, only_engine_right=second, p_value=p),
        relative_difference=_relative(right_clean, right) if attacked else None,
        drop_points=100 * float(right_clean.mean() - right.mean()) if attacked else None,
        worst_class=min(values)[1],
        per_class=per_class,
        confusion=tuple((true, guess, images) for (true, guess), images in sorted(confusion.items())),
    )


def _relative(clean: Array, attacked: Array) -> float | None:
    return 100 * float(1 - attacked.mean() / clean.mean()) if clean.any() else None


def _write_samples(
    run: Run,
    predictions: dict[tuple[str, str], Array],
    labels: Array,
    sets: list[SetRecord],
    *,
    channels: int,
    random: np.random.Generator,
) -> None:
    count, shown = len(labels), min(6, len(labels))
    grid = np.linspace(0, 1, 8)
    clean = np.stack([np.outer(np.roll(grid, k), grid) for k in range(shown)])[:, None].repeat(channels, axis=1)
    gallery = {
        f"gallery/{record.name}": np.clip(clean + record.eps * random.choice([-1, 1], clean.shape), 0, 1).astype(
            np.float32
        )
        for record in sets
        if record.eps
    }
    write_npz(
        run.path / "samples.npz",
        {
            "index": np.arange(count),
            "labels": labels,
            "clean_hash": np.arange(count, dtype=np.uint64) + np.uint64(1000),
            **{f"pred/{engine}--{set_}": values for (engine, set_), values in predictions.items()},
            "gallery_index": np.arange(shown),
            "gallery_clean": clean.astype(np.float32),
            **gallery,
        },
    )
