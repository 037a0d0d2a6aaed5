"""torchrun as people use it: four processes, a rank that is killed, and what is said then. Minutes of processor time."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from edgeproof.runs import Run
from tests.scale.test_two_processes import LAUNCH, ROOT

pytestmark = pytest.mark.slow

TRAIN = "train --data synthetic --set data.limit_train=100 --model lenet --lr 0.02 --epochs 60 --batch-size 31"
ATTACK = "attack pgd-linf --model {model} --eps 0.1 --steps 40 --limit 60 --batch-size 2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "run"
    ended(launch(1, f"{TRAIN} --out {folder}"))
    return folder


def launch(count: int, line: str) -> subprocess.Popen[str]:
    command = [*LAUNCH, str(count), str(ROOT / "cli.py"), *shlex.split(line)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    assert process.returncode == 0, said


def kill(launcher: subprocess.Popen[str], *, rank: int) -> None:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            os.kill(int(child), signal.SIGKILL)
            return
    raise AssertionError(f"no rank {rank} among {children}; the work was over too soon")


def content(folder: Path, kind: str) -> dict[str, bytes]:
    run = Run.open(folder, kind=kind)
    return {name: run.file(name).read_bytes() for name in run.outputs()}


def test_four_processes_make_the_adversaries_of_one(model: Path, tmp_path: Path) -> None:
    for count in (1, 4):
        ended(launch(count, f"{ATTACK.format(model=model)} --out {tmp_path / str(count)}"))
    assert content(tmp_path / "1", "attack") == content(tmp_path / "4", "attack")


def test_four_processes_learn_what_one_does(model: Path, tmp_path: Path) -> None:
    ended(launch(4, f"{TRAIN} --out {tmp_path / 'run'}"))
    runs = [Run.open(folder, kind="train") for folder in (model, tmp_path / "run")]
    one, four = (json.loads(run.file("history.json").read_bytes())["epochs"] for run in runs)
    assert runs[0].config == runs[1].config
    for alone, together in zip(one[:5], four[:5], strict=True):  # later on, rounding has grown
        assert together["per_class"] == alone["per_class"]
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(("kind", "sign"), [("train", "state/epoch.safetensors"), ("attack", "chunks/000000006.npz")])
def test_a_killed_rank_ends_all_in_one_line_and_the_same_command_continues(
    model: Path, tmp_path: Path, kind: str, sign: str, rank: int
) -> None:
    line = TRAIN if kind == "train" else ATTACK.format(model=model)
    ended(launch(3, f"{line} --out {tmp_path / 'whole'}"))
    process = launch(3, f"{line} --out {tmp_path / 'killed'}")
    while not (tmp_path / "killed" / sign).exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    kill(process, rank=rank)
    _, said = process.communicate()
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert process.returncode != 0
    assert len(errors) == 1, said
    assert errors[0].endswith("what is finished is kept, and the same command continues it")
    assert not (tmp_path / "killed/manifest.json").exists()
    ended(launch(3, f"{line} --out {tmp_path / 'killed'}"))
    assert content(tmp_path / "killed", kind) == content(tmp_path / "whole", kind)
