"""An option that has no effect together with the others is refused in one line, by one rule for all commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.commands.options import _fields
from edgeproof.config import (
    AttackConfig,
    BenchAttacksConfig,
    BenchConfig,
    BuildConfig,
    DetectConfig,
    EvalConfig,
    ExportConfig,
    FalsifyConfig,
    ImportConfig,
    PoisonConfig,
    QuantizeConfig,
    Strict,
    TrainConfig,
    build_config,
)
from edgeproof.errors import ConfigError

CONFIGS: tuple[type[Strict], ...] = (
    AttackConfig,
    BenchAttacksConfig,
    BenchConfig,
    BuildConfig,
    DetectConfig,
    EvalConfig,
    ExportConfig,
    FalsifyConfig,
    ImportConfig,
    PoisonConfig,
    QuantizeConfig,
    TrainConfig,
)

# The command, the option without effect, and what the message says of it.
REFUSED = [
    ("train --optimizer adam --momentum 0.5", "--momentum", "the optimizer is adam; add --optimizer sgd"),
    ("train --optimizer rmsprop --momentum 0.9", "--momentum", "the optimizer is rmsprop"),
    ("train --optimizer adam --set momentum=0.5", "--momentum", "the optimizer is adam"),
    ("train --lr-decay 1e-4", "--lr-decay", "the schedule is onecycle; add --schedule inverse-time"),
    ("train --min-delta 0.1", "--min-delta", "training does not stop early; add --patience"),
    ("poison --method label-flip --generator unet", "--generator", "only deep-confuse has a generator"),
    ("poison --method label-flip --eps 0.1", "--eps", "label-flip changes labels"),
    ("poison --method label-flip --pixels float", "--pixels", "label-flip changes labels"),
    ("poison --method class-patterns --trials 3", "--trials", "class-patterns fits no network; leave --trials out"),
    ("poison --method class-patterns --victim vgg11", "--victim", "class-patterns fits no network"),
    ("poison --method class-patterns --target next", "--target", "the method is class-patterns"),
    ("poison --method error-minimising --victim-epochs 2", "--victim-epochs", "the method is error-minimising"),
    ("poison --method error-minimising --amp", "--amp", "the method is error-minimising"),
    ("poison --reuse run --trials 3", "--trials", "the generator of run is used as it is; leave --trials out"),
    ("poison --reuse run --target next", "--target", "the generator of run is used as it is"),
    ("export --model m --precision fp32 --calibration digits", "--calibration", "int8 is not among the precisions"),
    ("export --model m --precision fp32 --recipe cpu", "--recipe", "add --precision int8"),
    ("export --model m --precision fp16 --keep-float x", "--keep-float", "int8 is not among the precisions"),
    ("export --model m --precision fp16 --set qat.epochs=1", "--set qat.epochs", "add --precision int8"),
    ("export --model m --set qat.epochs=1 --set qat.steps=4", "--set qat.steps", "add --set qat.eps=2/255"),
    ("export --model m --precision fp16 --int8-min-agreement 0.9", "--int8-min-agreement", "int8 is not among"),
    ("export --model m --precision int8 --fp16-accuracy-drop 0.1", "--fp16-accuracy-drop", "add --precision fp16"),
    ("export --model m --calibration-seed 1", "--calibration-seed", "all calibration images are used"),
    ("export --from g.onnx --batch-range 1,2,4", "--batch-range", "the target is onnx; add --target tensorrt"),
    ("export --from g.onnx --target openvino --workspace-mib 9", "--workspace-mib", "the target is openvino"),
    ("export --from g.onnx --locked", "--locked", "the target is onnx"),
    ("export --from g.onnx --prefix-class 1", "--prefix-class", "add --prefix RUN"),
    ("export --from g.onnx --bundle b.zip --cost 5", "--cost", "no class is protected; add --protect CLASS"),
    ("eval --engine m.onnx --data digits --cost 5", "--cost", "no class is protected; add --protect CLASS"),
    ("eval --engine m.onnx --data digits --side miss", "--side", "no class is protected"),
    ("eval --engine m.onnx --data digits --gallery 3", "--gallery", "there are no adversarial images"),
    ("eval --engine m.onnx --adversaries . --data digits", "--data", "attack runs hold their clean images"),
    ("eval --engine m.plan --data digits --threads 2", "--threads", "TensorRT plans run on the GPU"),
    ("bench engines --engine trt:m.plan --threads 2", "--threads", "TensorRT plans run on the GPU"),
    ("attack fgsm --model m --deployed g.onnx", "--deployed", "attack 'fgsm' takes one source model"),
    ("attack square --model m --gradients exact", "--gradients", "asks for predictions only"),
    ("attack hop-skip-jump --model m --probe 8", "--probe", "asks for predictions only"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "option", "says"), REFUSED, ids=[command for command, _, _ in REFUSED])
def test_an_option_without_effect_is_refused_before_anything_is_opened(
    command: str, option: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(cli, command.split()).exception
    assert isinstance(error, ConfigError), error
    message = str(error)
    assert message.startswith(f"{option} has no effect here: ")
    assert says in message
    assert message.endswith(f"leave {option} out")
    assert "\n" not in message


@pytest.mark.parametrize(
    "command",
    [
        "train --start-from none --momentum 0.5",
        "train --start-from none --optimizer adam --schedule inverse-time --lr-decay 1e-4 --patience 2 --min-delta 0.1",
        "poison --data npz:none --method deep-confuse --generator unet --target next --trials 2 --amp",
        "poison --data npz:none --method label-flip --no-amp",
        "export --model none --precision int8 --calibration digits --set qat.epochs=1 --set qat.eps=0.1 --set qat.steps=2",
        "export --from none.onnx --target tensorrt --batch-range 1,2,4 --workspace-mib 9 --timing-cache c --locked",
        "eval --engine none.onnx --data digits --protect 3 --cost 5 --side miss --threads 2",
        "attack diva --model none --deployed none.onnx --gradients exact --probe 8",
    ],
)  # fmt: skip
def test_an_option_with_an_effect_is_taken(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(cli, command.split()).exception
    assert error is not None  # what is named is not there
    assert "has no effect" not in str(error)


def test_a_file_may_hold_every_option_as_a_manifest_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = build_config(TrainConfig, options={"optimizer": "adam", "data.name": "npz:none"})
    Path("config.json").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    error = CliRunner().invoke(cli, ["train", "--config", "config.json"]).exception
    assert error is not None
    assert "has no effect" not in str(error)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_condition_is_about_fields_that_exist(kind: type[Strict]) -> None:
    fields = {path for path, _ in _fields(kind)}
    named = {name for each in kind.counts for name in each.options}
    assert {name for name in named if not name.startswith("qat.")} <= fields


def test_every_condition_of_the_configurations_is_in_the_table() -> None:
    tried = {(command.split()[0], re.sub("^--(set )?", "", option)) for command, option, _ in REFUSED}
    verbs = {TrainConfig: "train", PoisonConfig: "poison", EvalConfig: "eval", ExportConfig: "export",
             BuildConfig: "export", BenchConfig: "bench"}  # fmt: skip
    words = {"recipes": "recipe", "qat": "qat.epochs"}
    for kind in CONFIGS:
        for each in kind.counts:
            spelled = {words.get(name, name.removeprefix("parity.").replace("_", "-")) for name in each.options}
            assert spelled & {option for verb, option in tried if verb == verbs[kind]}, each.because
