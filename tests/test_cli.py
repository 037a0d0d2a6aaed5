"""The command line as a user meets it: what is printed where, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from edgeproof.__main__ import main

ROOT = Path(__file__).resolve().parent.parent


class Outcome(NamedTuple):
    """Exit status and both streams of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def edgeproof(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `cli.py` in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cli.py", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained, attacked and exported network, made once by the commands themselves."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("chain")
    runs = {name: root / name for name in ("model", "pgd", "noise", "graphs")}
    for arguments in (
        f"train --data synthetic --model small-cnn --epochs 2 --batch-size 32 --lr 0.02 --out {runs['model']}",
        f"attack pgd-linf --model {runs['model']} --eps 0.4 --steps 3 --pixels uint8 --out {runs['pgd']}",
        f"attack noise --model {runs['model']} --eps 8/255 --out {runs['noise']}",
        f"export --model {runs['model']} --int8-accuracy-drop 0.2 --int8-min-agreement 0.5 --out {runs['graphs']}",
    ):
        command = [sys.executable, str(ROOT / "cli.py"), *arguments.split()]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == arguments.split()[-1]
    return runs


def test_eval_prints_the_table_on_stderr_and_the_folder_on_stdout(
    edgeproof: Command, chain: dict[str, Path], tmp_path: Path
) -> None:
    outcome = edgeproof(
        "eval", "--engine", chain["model"], "--engine", chain["graphs"], "--adversaries", chain["pgd"],
        "--adversaries", chain["noise"], "--no-throughput", "--out", tmp_path / "verdict",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert outcome.out.strip() == str(tmp_path / "verdict")
    assert "ort-int8-cpu" in outcome.err
    results = json.loads((tmp_path / "verdict" / "results.json").read_text())
    names = [engine["name"] for engine in results["engines"]]
    assert names == ["torch-fp32", "ort-fp32", "ort-fp16", "ort-int8-cpu", "ort-int8-trt"]
    assert {set_["name"] for set_ in results["sets"]} == {"clean", "pgd-linf 0.4", "noise 8/255"}
    assert (tmp_path / "verdict" / "report.html").is_file()


def test_a_failed_gate_is_exit_status_1_and_the_result_is_kept(
    edgeproof: Command, chain: dict[str, Path], tmp_path: Path
) -> None:
    command = (
        "eval", "--engine", chain["graphs"], "--adversaries", chain["pgd"], "--no-throughput",
        "--fail-under", "ort-fp32:clean_accuracy=1.0", "--fail-under", "robust_accuracy=1", "--out", tmp_path / "gated",
    )  # fmt: skip
    outcome = edgeproof(*command)
    assert outcome.status == 1, outcome.err
    assert (tmp_path / "gated" / "manifest.json").is_file()
    again = edgeproof(*command)
    assert again.status == 1, "a gate that has failed fails again when the run is only looked at"
    assert "already done" in again.err


def test_a_report_is_made_again_from_files(edgeproof: Command, chain: dict[str, Path], tmp_path: Path) -> None:
    edgeproof("eval", "--engine", chain["graphs"], "--no-throughput", "--data", "synthetic", "--out", tmp_path / "e")
    (tmp_path / "e" / "report.html").unlink()
    outcome = edgeproof("report", tmp_path / "e")
    assert (outcome.status, outcome.out.strip()) == (0, str(tmp_path / "e" / "report.html"))


def test_json_output_is_one_object(edgeproof: Command, chain: dict[str, Path]) -> None:
    outcome = edgeproof("attack", "fgsm", "--model", chain["model"], "--eps", "2/255", "--limit", "20", "--json")
    result = json.loads(outcome.out)
    assert outcome.status == 0
    assert "adversaries.npz" in result["outputs"]


def test_several_budgets_are_several_runs(edgeproof: Command, chain: dict[str, Path]) -> None:
    budgets = ("--eps", "2/255", "--eps", "4/255")
    outcome = edgeproof("attack", "fgsm", "--model", chain["model"], *budgets, "--limit", "20")
    assert [path.rsplit("-", 2)[-2] for path in outcome.out.split()] == ["255", "255"]
    assert len(set(outcome.out.split())) == 2


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ("atack", 2, "did you mean 'attack'?"),
        ("attack pdg-linf", 2, "unknown attack 'pdg-linf' (did you mean 'pgd-linf'?)"),
        ("attack pgd-linf --step 3", 2, "No such option '--step'"),
        ("attack pgd-linf --model {model} --eps 8", 2, "did you mean 8/255?"),
        ("attack pgd-linf --model {model} --eps eight", 2, "'eight' is not a number"),
        ("attack pgd-linf --model {model} --steps many", 2, "steps"),
        (
            "attack fgsm --model {model} --eps 0.1 --eps 0.2 --out x",
            2,
            "--out names one folder and there are 2 budgets",
        ),
        ("attack fgsm --model nowhere --eps 0.1", 2, "no finished run and no file at nowhere"),
        ("attack fgsm --eps 0.1", 2, "model is missing; give it with --model"),
        ("train --data digitz", 2, "unknown data 'digitz' (did you mean 'digits'?)"),
        ("train --model resnet-21", 2, "did you mean 'resnet-20'?"),
        ("train --set epoch=3", 2, "unknown key 'epoch' (did you mean 'epochs'?)"),
        ("train --data npz:nowhere.npz", 2, "nowhere.npz"),
        ("train --device tpu", 2, "tpu"),
        ("export --model {pgd}", 2, "'attack' stage; expected one of 'train'"),
        ("eval", 2, "no engine to evaluate"),
        (
            "eval --engine {graphs} --adversaries {pgd} --fail-under robust_acuracy=0.5",
            2,
            "did you mean 'robust_accuracy'?",
        ),
        ("eval --engine openvin:{graphs}", 2, "did you mean 'openvino'?"),
        ("report {pgd}", 2, "expected one of 'eval'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    edgeproof: Command, chain: dict[str, Path], arguments: str, status: int, message: str
) -> None:
    outcome = edgeproof(*arguments.format(**chain).split())
    assert outcome.status == status
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert sum("rror: " in line for line in outcome.err.splitlines()) == 1


def test_a_tampered_checkpoint_is_refused(edgeproof: Command, chain: dict[str, Path], tmp_path: Path) -> None:
    edgeproof("train", "--data", "synthetic", "--epochs", "1", "--out", tmp_path / "m")
    with (tmp_path / "m" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    outcome = edgeproof("attack", "fgsm", "--model", tmp_path / "m", "--eps", "0.1")
    assert outcome.status == 2
    assert "model.safetensors was changed after the run (SHA-256 differs)" in outcome.err


def test_a_bug_is_exit_status_4_with_its_traceback(edgeproof: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproof.commands.doctor.diagnose", lambda: 1 / 0)
    outcome = edgeproof("doctor")
    assert outcome.status == 4
    assert "ZeroDivisionError" in outcome.err
    assert "this is a bug" in outcome.err


def test_an_interrupt_names_what_was_saved(edgeproof: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeproof.training.loop.train", interrupted)
    outcome = edgeproof("train", "--data", "synthetic", "--out", tmp_path / "m")
    assert outcome.status == 130
    assert f"what was saved is in {tmp_path / 'm'}, and the same command continues it" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "arguments",
    ["--help", "train --help", "attack --help", "attack pgd-linf --help", "eval --help", "list attacks", "list models"],
)
def test_help_and_lists_import_nothing_heavy(arguments: str) -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'openvino', 'sklearn', 'pyarrow'}"
    code = (
        f"import sys; from edgeproof.__main__ import main; sys.argv = ['edgeproof', *{arguments.split()!r}]\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        f"found = {heavy} & set(sys.modules); assert not found, found"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 100


@pytest.mark.parametrize(
    "code", ["import edgeproof", "sys.argv[1:] = ['--help']; main()", "sys.argv[1:] = ['list', 'attacks']; main()"]
)
def test_importing_help_and_lists_load_neither_numpy_nor_pydantic(code: str) -> None:
    program = (
        f"import sys; from edgeproof.__main__ import main\ntry: {code}\nexcept SystemExit: pass\n"
        "found = {'numpy', 'pydantic', 'rich', 'torch', 'onnx', 'onnxruntime'} & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_configuration_field_is_on_the_command_line(edgeproof: Command) -> None:
    for verb in ("train", "export", "eval", "import"):
        outcome = edgeproof(verb, "--help")
        assert outcome.status == 0
        assert "--config" in outcome.out
    assert "--weight-decay" in edgeproof("train", "--help").out
    assert "--max-drop" in edgeproof("eval", "--help").out


def test_doctor_says_what_is_here(edgeproof: Command) -> None:
    outcome = edgeproof("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(outcome.out)}
    assert findings["machine"]["ok"]
    assert findings["ONNX Runtime"]["ok"]
    assert all(
        finding["ok"] or "pip install" in finding["fix"] or "EDGEPROOF_DATA" in finding["fix"]
        for finding in findings.values()
    )
