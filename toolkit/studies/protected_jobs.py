"""What the study of protected classes does: which trainings continue which, and how each is attacked, exported and evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import load_dataset
from edgeproof.errors import ConfigError, nearest
from edgeproof.runs import Run
from edgeproof.studies.jobs import Job

#: Columns whose images do not come from the row's own FP32 network: from its INT8 graph, and from the row `normal`.
INT8, TRANSFER = "int8", "transfer"
_INT8_GRAPH = "model.int8-trt.onnx"
_LARGE = (
    0.5  # a budget that makes any image any other: what is still right there is right because gradients are missing
)
_HALF_CLEAN = {"steps": 1, "random_start": False, "clean": 0.5}


@dataclass(frozen=True)
class Row:
    """One way of training.

    Attributes:
        objective: Registry name.
        params: Of the objective, beside `eps`, costs and weights of penalties.
        start: The row whose weights it starts from; None for fresh ones.
        attacks: Whether its objective takes `eps`.
        side: Half of the cost matrix, where it knows the protected class; it is then trained once for each.
        penalised: Whether it takes the weights `conv1` and `conv2`.
    """

    objective: str
    params: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = "normal"
    attacks: bool = False
    side: str | None = None
    penalised: bool = False


ROWS: Mapping[str, Row] = {
    "normal": Row("standard", start=None),
    "normal-continued": Row("standard"),
    "adv": Row("adversarial", _HALF_CLEAN, attacks=True),
    "adv-continued": Row("adversarial", _HALF_CLEAN, start="adv", attacks=True),
    "csa-both": Row("cost-sensitive", start="adv", attacks=True, side="both"),
    "csa-miss": Row("cost-sensitive", start="adv", attacks=True, side="miss"),
    "csa-false-alarm": Row("cost-sensitive", start="adv", attacks=True, side="false-alarm"),
    "cse": Row("min-max", side="both", penalised=True),
    "sparse-only": Row("min-max", {"cost_weight": 0.0}, penalised=True),
    "cost-only": Row("min-max", {"conv1": 0.0}, side="both"),
    "l2-conv1": Row("min-max", {"penalty": "l2"}, side="both", penalised=True),
    "pgd-at": Row("adversarial", {"steps": 7, "clean": 0.5}, start="adv", attacks=True),
    "trades": Row("trades", start="adv", attacks=True),
    "cfa": Row("class-wise", {"rule": "cfa"}, start="adv", attacks=True),
    "dafa": Row("class-wise", {"rule": "dafa"}, start="adv", attacks=True),
    "worst-class": Row("class-wise", {"rule": "worst"}, start="adv", attacks=True),
}


@dataclass(frozen=True)
class Protocol:
    """The study's parameters, as its docstring describes them."""

    seeds: tuple[int, ...]
    data: str
    model: str
    protect: tuple[int, ...]
    cost: float
    rows: tuple[str, ...]
    train_images: int
    epochs: int
    eps: float
    eps_l2: float
    conv1: float
    conv2: float
    protected_images: int
    other_images: int
    steps: int
    restarts: int
    cw_steps: int
    searches: int
    queries: int

    def trained(self, row: str, *, seed: int, label: int) -> str:
        """Return the name of the training of a row; those that do not know the protected class are shared by all."""
        return f"{row}-k{label}-s{seed}" if ROWS[row].side else f"{row}-s{seed}"

    def attacks(self) -> dict[str, dict[str, Any]]:
        """Return the attacks on a row's FP32 network: column to what an attack job is told.

        PGD's images also meet the deployed forms, so they go as far as they can; the others only have to cross the border.
        """
        search = {"steps": self.steps, "restarts": self.restarts}
        near, far = {"eps": self.eps}, {"eps": self.eps_l2}
        minimal = {"steps": self.cw_steps, "searches": self.searches, "step_size": 0.05}  # few steps, so longer ones
        return {
            "fgsm": {"attack": "fgsm", **near},
            "pgd": {"attack": "pgd-linf", **near, "params": search},
            "temperature": {"attack": "pgd-temperature", **near, "params": search, "stop": "first"},
            "square": {"attack": "square", **near, "params": {"queries": self.queries}, "stop": "first"},
            "deepfool": {"attack": "deepfool", **far},
            "cw": {"attack": "cw-l2", **far, "params": minimal},
            "large": {"attack": "pgd-linf", "eps": _LARGE, "params": {"steps": self.steps}, "stop": "first"},
        }

    def columns(self) -> tuple[str, ...]:
        """Return the sets that every row is evaluated on, in the order of its eval run."""
        return ("clean", *self.attacks(), INT8, TRANSFER)


def make_jobs(protocol: Protocol) -> tuple[Job, ...]:
    """Return every job once, each after those that it reads.

    Raises:
        ConfigError: For an unknown row, or one without that which it starts from.
    """
    _check_rows(protocol.rows)
    jobs: dict[str, Job] = {}
    for seed in protocol.seeds:
        jobs[f"images-s{seed}"] = _images_job(protocol, seed=seed)
        for row in sorted(protocol.rows, key=list(ROWS).index):
            for label in protocol.protect:
                jobs |= {job.name: job for job in _row_jobs(protocol, row, seed=seed, label=label)}
    return tuple(jobs.values())


def choose_images(config: Mapping[str, Any], out: Run) -> None:
    """Write `images.npz`: drawn test images, more of the protected classes."""
    test = load_dataset(config["data"]).test
    random = np.random.default_rng(config["seed"])
    sizes = dict.fromkeys(range(test.num_classes), config["other_images"])
    sizes |= dict.fromkeys(config["protect"], config["protected_images"])
    drawn = [random.permutation(np.flatnonzero(test.labels == label))[:size] for label, size in sizes.items()]
    rows = np.sort(np.concatenate(drawn))
    arrays = {"x_test": test.images[rows], "y_test": test.labels[rows], "classes": np.array(test.classes)}
    write_npz(out.path / "images.npz", arrays)


def _check_rows(rows: Sequence[str]) -> None:
    for row in rows:
        if row not in ROWS:
            raise ConfigError(f"rows: unknown row {row!r}{nearest(row, ROWS)}; known: {', '.join(ROWS)}")
        start = ROWS[row].start
        if start not in (None, *rows):
            raise ConfigError(f"rows: {row!r} starts from {start!r}, which is left out; add it")
    if "normal" not in rows:
        raise ConfigError("rows: 'normal' is left out, and the transferred images come from it; add it")


def _images_job(protocol: Protocol, *, seed: int) -> Job:
    config = {
        "data": protocol.data,
        "protect": list(protocol.protect),
        "protected_images": protocol.protected_images,
        "other_images": protocol.other_images,
        "seed": seed,
    }
    return Job(f"images-s{seed}", f"{__name__}:choose_images", config)


def _row_jobs(protocol: Protocol, row: str, *, seed: int, label: int) -> list[Job]:
    name = protocol.trained(row, seed=seed, label=label)
    crafted = {column: f"{name}--{column}" for column in (*protocol.attacks(), INT8)}
    exported = Job(
        f"{name}--export",
        "export",
        {
            "model": f"{{{name}}}",
            "parity.fp16_accuracy_drop": 1.0,  # what a precision costs a row is measured here, not a reason to stop
            "parity.int8_accuracy_drop": 1.0,
            "parity.int8_min_agreement": 0.0,
        },
    )
    sets = [f"{{{crafted[column]}}}" for column in crafted]
    transferred = f"{{{protocol.trained('normal', seed=seed, label=label)}--pgd}}"
    evaluated = {
        "engines": [f"{{{name}}}", f"{{{exported.name}}}"],
        "sets": [*sets, *([] if transferred in sets else [transferred])],
        "throughput": False,
        "invariance": 0,
        "gallery": 0,
        "threads": 1,
    }
    return [
        _train_job(protocol, row, name=name, seed=seed, label=label),
        exported,
        *_attack_jobs(protocol, name=name, exported=exported.name, crafted=crafted, seed=seed),
        Job(f"{name}--eval", "eval", evaluated),
    ]


def _train_job(protocol: Protocol, row: str, *, name: str, seed: int, label: int) -> Job:
    made = ROWS[row]
    params: dict[str, Any] = dict(made.params)
    if made.penalised:
        params |= {"conv1": protocol.conv1, "conv2": protocol.conv2}
    if made.attacks:
        params["eps"] = protocol.eps
    if made.side:
        params |= {"protect": str(label), "cost": protocol.cost, "side": made.side}
    config: dict[str, Any] = {
        "data.name": protocol.data,
        "data.split_seed": seed,
        "data.limit_train": protocol.train_images,
        "data.validation": 0.05,
        "model": protocol.model,
        "objective": made.objective,
        "objective_params": params,
        "epochs": protocol.epochs,
        "batch_size": 64,
        "optimizer": "adam",
        "lr": 1e-3,
        "schedule": "constant",
        "weight_decay": 0.0,
        "seed": seed,
    }
    if made.start:
        config["start_from"] = f"{{{protocol.trained(made.start, seed=seed, label=label)}}}"
    return Job(name, "train", config)


def _attack_jobs(protocol: Protocol, *, name: str, exported: str, crafted: Mapping[str, str], seed: int) -> list[Job]:
    shared = {"data": f"npz:{{images-s{seed}}}/images.npz", "seed": seed}
    jobs = [
        Job(crafted[column], "attack", {**shared, "model": f"{{{name}}}", **told})
        for column, told in protocol.attacks().items()
    ]
    graph = f"{{{exported}}}/{_INT8_GRAPH}"
    params = {"steps": protocol.steps}
    own = {**shared, "model": graph, "attack": "pgd-linf", "eps": protocol.eps, "params": params}
    return [*jobs, Job(crafted[INT8], "attack", own)]
