"""Whatever is not installed, each command says in one line what installs it, with exit status 3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from edgeproof.__main__ import explain
from edgeproof.config import TrainConfig, build_config
from edgeproof.runs import Run
from edgeproof.system.optional import BASE, EXTRAS, check_installed, missing

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "'edgeproof[train"

#: A command, the module that is made to be missing, and what the message says to install.
COMMANDS = [
    ("train --data synthetic --epochs 1", "torch", TRAIN),
    ("import --model small-cnn --weights w.safetensors --data synthetic", "torch", TRAIN),
    ("import --model my_net:build --weights w.safetensors --data synthetic", "torch", TRAIN),
    ("attack pgd-linf --model w.safetensors --eps 0.1", "torch", TRAIN),
    ("attack --vnnlib p.vnnlib --graph g.onnx", "torch", TRAIN),
    ("export --model model", "onnxscript", TRAIN),
    ("poison --data synthetic --eps 0.1", "torch", TRAIN),
    ("quantize --model model --adversaries w.safetensors", "torch", TRAIN),
    ("bench attacks --model model", "torch", TRAIN),
    ("study imbalance --preset smoke", "torch", TRAIN),
    ("study universal --preset smoke --ray", "ray", "'edgeproof[ray]'"),
    ("demo", "torch", TRAIN),
    ("inspect w.safetensors", "safetensors", TRAIN),
    ("detect --data synthetic", "scipy", "'edgeproof[data]'"),
    ("eval --engine g.onnx --data digits", "sklearn", "'edgeproof[data]'"),
    ("eval --engine g.onnx --data synthetic", "onnxruntime", "'edgeproof[cpu]'"),
    ("eval --engine openvino:g.onnx --data synthetic", "openvino", "'edgeproof[openvino]'"),
    ("eval --engine w.safetensors --data synthetic", "torch", TRAIN),
    ("bench engines --engine g.onnx", "onnxruntime", "'edgeproof[cpu]'"),
    ("eval --engine g.onnx --data digits", "PIL", "pip install edgeproof"),
    ("train --help", "pydantic", "pip install edgeproof"),
    ("--help", "click", "pip install edgeproof"),
]

#: Runs each command in a process forked from one that has loaded nothing but Python's own library.
PROGRAM = """
import contextlib, json, os, sys

class Absent:
    def __init__(self, module):
        self.module = module
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def command(words, module, log):
    sys.meta_path.insert(0, Absent(module))
    sys.argv = ["edgeproof", *words]
    with open(log, "w") as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
        from edgeproof.__main__ import main
        main()

answers = []
for number, (line, module, _) in enumerate(json.load(sys.stdin)):
    log = f"{number}.log"
    child = os.fork()
    if not child:
        status = 0
        try:
            command(line.split(), module, log)
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            status = 99
        os._exit(status)
    answers.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), open(log).read()))
json.dump(answers, sys.stdout)
"""


class Answer(NamedTuple):
    """Exit status of a command, and what it said."""

    status: int
    said: str


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """What each command says, all from one process."""
    folder = tmp_path_factory.mktemp("work")
    config = build_config(TrainConfig, options={"data.name": "synthetic"}).model_dump(mode="json")
    with Run.start("train", "model", config=config, out=folder / "model") as run:
        (folder / "model" / "model.safetensors").write_bytes(b"x")
        run.finish()
    for name in ("w.safetensors", "g.onnx", "p.vnnlib"):
        (folder / name).write_bytes(b"x")
    (folder / "my_net.py").write_text("")
    (folder / "data").mkdir()
    places = {"EDGEPROOF_DATA": "data", "XDG_CACHE_HOME": "cache", "EDGEPROOF_RUNS": "runs"}
    environment = {**os.environ, **{name: str(folder / place) for name, place in places.items()}}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(COMMANDS), cwd=folder, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Answer(*each) for each in json.loads(done.stdout)]


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[f"{line}, {module}" for line, module, _ in COMMANDS])
def test_a_command_without_a_module_says_in_one_line_what_installs_it(number: int, answers: list[Answer]) -> None:
    answer = answers[number]
    assert (answer.status, answer.said.count("\n")) == (3, 1), answer.said
    assert answer.said.startswith("error: ")
    assert COMMANDS[number][2] in answer.said


@pytest.mark.parametrize("module", [*EXTRAS, *BASE])
def test_an_import_that_fails_is_no_bug_whatever_module_it_is(module: str) -> None:
    status, said = explain(ModuleNotFoundError(f"No module named '{module}.part'", name=f"{module}.part"))
    assert status == 3
    assert f"edgeproof[{EXTRAS[module]}]" in said if module in EXTRAS else "pip install edgeproof" in said


def test_a_package_that_is_there_and_does_not_load_is_to_be_installed_again() -> None:
    found = missing(ImportError("libfoo.so.1: cannot open shared object file", name="onnxruntime.capi"))
    assert "libfoo.so.1" in str(found)
    assert "pip install --force-reinstall 'edgeproof[cpu]'" in str(found)


def test_a_module_of_ours_that_is_missing_is_our_bug() -> None:
    status, said = explain(ModuleNotFoundError("No module named 'edgeproof.x'", name="edgeproof.x"))
    assert status == 4
    assert "this is a bug" in said


def test_a_module_of_nobodys_is_named() -> None:
    status, said = explain(ModuleNotFoundError("No module named 'sympy'", name="sympy"))
    assert status == 3
    assert "install the package that provides 'sympy'" in said


def test_all_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproof.system.optional.importlib.util.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"torch, scipy, onnxruntime not installed.*edgeproof\[train,data,cpu\]"):
        check_installed("torch", "scipy", "onnxruntime", purpose="run a study")
    monkeypatch.setattr("edgeproof.system.optional.importlib.util.find_spec", lambda name: object())
    check_installed("torch", "scipy", "onnxruntime", purpose="run a study")


@pytest.mark.parametrize("here", [True, False])
def test_cli_py_where_edgeproof_is_not_installed_says_what_to_run(here: bool, tmp_path: Path) -> None:
    # -S: no installed packages; -I would hide the script's own folder too.
    command = [sys.executable, "-S", ROOT / "cli.py", "train", "--data", "digits"]
    done = subprocess.run(command, cwd=ROOT if here else tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert f". {ROOT}/.venv/bin/activate" in done.stderr
    assert f"pip install -e '{ROOT}[train,data,cpu]'" in done.stderr
