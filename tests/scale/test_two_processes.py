"""What two processes under torchrun make is what one makes: the short version, in one start of both. `-m slow` has more."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeproof.data.base import load_adversarial_set
from edgeproof.runs import Run
from tests.scale import steps

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@dataclass(frozen=True)
class Outcome:
    """Where one process and where two have left their files, and what two have printed."""

    alone: Path
    together: Path
    printed: list[str]

    def train(self, name: str) -> Run:
        return Run.open(next((getattr(self, name) / "runs").glob("train-*")), kind="train")

    def histories(self) -> list[dict[str, Any]]:
        runs = [self.train("alone"), self.train("together")]
        return [json.loads(run.file("history.json").read_text(encoding="utf-8")) for run in runs]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    alone, together = (tmp_path_factory.mktemp(name) for name in ("alone", "together"))
    command = [*LAUNCH, "2", "-m", "tests.scale.steps", str(together)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "EDGEPROOF_RUNS": str(together / "runs")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPROOF_RUNS", str(alone / "runs"))
        steps.train()
    steps.attack(next((together / "runs").glob("train-*")), alone / "set")
    torch.set_num_threads(threads)
    return Outcome(alone, together, done.stdout.splitlines())


@pytest.mark.parametrize("name", steps.OBJECTIVES)
def test_an_objectives_steps_are_those_of_one_process_to_the_rounding_of_sums(outcome: Outcome, name: str) -> None:
    expected = steps.steps(name, steps.OBJECTIVES[name])
    with np.load(outcome.together / f"{name}.npz") as found:
        assert set(found.files) == set(expected)
        for key, value in expected.items():
            # class-wise counts in float32, everything else is float64
            np.testing.assert_allclose(found[key], value, rtol=1e-6 if name == "class-wise" else 1e-9, atol=1e-12)


def test_a_training_has_the_same_folder_draws_and_counts_and_nearly_the_same_losses(outcome: Outcome) -> None:
    alone, together = outcome.histories()
    assert outcome.train("alone").path.name == outcome.train("together").path.name
    assert together["images"] == alone["images"]
    for one, two in zip(alone["epochs"], together["epochs"], strict=True):
        assert two["validation"] == one["validation"]
        assert two["per_class"] == one["per_class"]
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-4)


def test_the_manifest_says_how_many_processes_there_were(outcome: Outcome) -> None:
    environments = [run.manifest.environment for name in ("alone", "together") if (run := outcome.train(name)).manifest]
    assert [environment.get("processes") for environment in environments] == [None, "2"]


def test_an_attack_has_every_image_once_and_the_same_bytes(outcome: Outcome) -> None:
    runs = [Run.open(folder / "set", kind="attack") for folder in (outcome.alone, outcome.together)]
    found = load_adversarial_set(runs[1])
    assert len(set(found.clean.index.tolist())) == len(found.images) == 50
    digests = [
        {name: hashlib.sha256(run.file(name).read_bytes()).hexdigest() for name in run.outputs()} for run in runs
    ]
    assert digests[0] == digests[1]


def test_only_the_first_process_speaks(outcome: Outcome) -> None:
    assert outcome.printed == [str(outcome.train("together").path), str(outcome.together / "set")]
