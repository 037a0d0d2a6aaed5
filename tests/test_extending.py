"""docs/extending.md: each of its files is a plug-in that works, named by --plugin or installed as a package."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from click.testing import CliRunner, Result

from edgeproof.commands import cli
from edgeproof.contracts import check
from edgeproof.errors import AttackContractError, PluginError
from edgeproof.plugins.importing import PLUGINS, name_plugin
from edgeproof.plugins.registry import entries, find
from edgeproof.runs import Run

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCUMENT, flags=re.DOTALL))
PLUGINS_OF = {"my_attacks.py": ("attack", "my-sign"), "my_engines.py": ("engine", "onnx-reference"), "my_data.py": ("data", "stripes"), "my_models.py": ("model", "two-layers")}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    yield tmp_path
    sys.path[:] = path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def done(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.stdout.strip()


def test_the_document_has_a_file_for_each_of_the_four_kinds() -> None:
    assert set(FILES) == set(PLUGINS_OF)


@pytest.mark.parametrize("file", sorted(PLUGINS_OF))
def test_a_file_of_the_document_is_listed_with_its_options(folder: Path, file: str) -> None:
    kind, name = PLUGINS_OF[file]
    listed = done("--plugin", file, "list", kind if kind == "data" else f"{kind}s")
    assert re.search(rf"^{name} .*\[{folder}/{file}\]$", listed, flags=re.MULTILINE)
    if kind == "attack":
        assert "Number of steps.  [default: 5]" in done("attack", name, "--help")


def test_the_attack_the_data_set_and_the_network_of_the_document_meet_their_contracts(folder: Path) -> None:
    for file in ("my_attacks.py", "my_data.py", "my_models.py"):
        name_plugin(file)
        check(*PLUGINS_OF[file])


@pytest.mark.slow
def test_the_engine_of_the_document_evaluates_a_bundle_and_a_device_without_it_is_told_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in FILES:
        name_plugin(file)
    done("train", "--data", "stripes", "--model", "two-layers", "--epochs", "2", "--calibration", "8", "--out", "t")
    done("attack", "my-sign", "--model", "t", "--eps", "0.1", "--pixels", "uint8", "--batch-size", "16", "--out", "a")
    refused = run("attack", "my-sign", "--model", "t", "--stop", "first")
    assert "attack 'my-sign' has no steps after which an image could leave" in str(refused.exception)
    done(
        "export",
        "--model",
        "t",
        "--precision",
        "fp32",
        "--exporter",
        "torchscript",
        "--adversaries",
        "a",
        "--bundle",
        "edge.zip",
        "--out",
        "x",
    )
    check("engine", "onnx-reference", path=folder / "x" / "model.fp32.onnx")
    done("eval", "--bundle", "edge.zip", "--backend", "onnx-reference", "--out", "e")
    roles = {record.role: record.path for record in Run.open("e").manifest.inputs}  # type: ignore[union-attr]
    assert roles["plug-in engine onnx-reference"] == str(folder / "my_engines.py")
    used = {name: {record.role for record in Run.open(name).manifest.inputs} for name in "tax"}  # type: ignore[union-attr]
    network = {"plug-in data stripes", "plug-in model two-layers"}
    assert used["t"] == network
    assert used["a"] == {"model", "plug-in attack my-sign", *network}
    assert used["x"] >= {"model", *network}
    monkeypatch.setenv(PLUGINS, "")
    refused = run("eval", "--bundle", "edge.zip", "--backend", "onnx-reference")
    assert "unknown engine 'onnx-reference'" in str(refused.exception)
    assert "one of your own is named by --plugin FILE.py" in str(refused.exception)
    done("eval", "--bundle", "edge.zip", "--out", "plain")
    refused = run("attack", "fgsm", "--model", "t", "--eps", "0.1")
    assert "unknown model 'two-layers'" in str(refused.exception)


def test_the_files_of_the_document_work_as_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "site"
    package, about = place / "my_package", place / "my_package-1.0.dist-info"
    shutil.copytree(folder, package, ignore=shutil.ignore_patterns("site"))
    (package / "__init__.py").touch()
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[edgeproof.plugins]\nmine = my_package\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    for name in [name for name in sys.modules if name.startswith("my_package")]:  # of another test
        del sys.modules[name]
    for kind, name in PLUGINS_OF.values():
        assert find(kind, name).module.startswith("my_package.my_")
        assert name in done("list", kind if kind == "data" else f"{kind}s")
    assert "Number of steps.  [default: 5]" in done("attack", "my-sign", "--help")
    check("attack", "my-sign")
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


BROKEN = {
    "budget": ("eps / steps * gradient", "eps * gradient", AttackContractError, "left its budget"),
    "in place": ("x_adv = x.clone()", "x_adv = x.mul_(0.99)", AttackContractError, "changed the clean images in place"),
    "batch": ('reduction="sum")', 'reduction="sum") * 0 + x_adv.std() ** 2', PluginError, "an image gets another adversary in another batch"),
    "random": ("x_adv = x.clone()", "x_adv = x.clone(); eps = eps * float(torch.rand(()))", PluginError, "other images when it is repeated"),
    "documented": ("steps: int = 5)", "steps: int = 5, decay: float = 1.0)", PluginError, "does not say what 'decay' is"),
    "gradient": ("return x_adv", "return x_adv.requires_grad_(True)", AttackContractError, "still carry a gradient"),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_the_check_of_an_attack_notices_what_is_broken(folder: Path, fault: str) -> None:
    old, new, error, message = BROKEN[fault]
    text = FILES["my_attacks.py"]
    assert old in text
    (folder / "my_attacks.py").write_text(text.replace(old, new), encoding="utf-8")
    name_plugin("my_attacks.py")
    with pytest.raises(error, match=message):
        check("attack", "my-sign")


def test_the_checks_of_a_data_set_and_a_network_notice_what_is_broken(folder: Path) -> None:
    data = FILES["my_data.py"].replace("default_rng(seed)", "default_rng()")
    (folder / "my_data.py").write_text(data, encoding="utf-8")
    model = FILES["my_models.py"].replace("nn.Flatten(), nn", "Centred(), nn.Flatten(), nn")
    model += "\n\nclass Centred(nn.Module):\n    def forward(self, x):\n        return x - x.mean(0)\n"
    (folder / "my_models.py").write_text(model, encoding="utf-8")
    for file, message in (("my_data.py", "loading it twice gives other"), ("my_models.py", "in another batch")):
        name_plugin(file)
        with pytest.raises(PluginError, match=message):
            check(*PLUGINS_OF[file])


@pytest.mark.parametrize(
    "name", [name for name in entries("attack") if name in ("fgsm", "pgd-l2", "square", "mi-fgsm", "universal")]
)
def test_attacks_of_ours_pass_the_check_of_users_plug_ins(name: str) -> None:
    short = {"steps": 3, "queries": 10}
    takes = [param.name for param in find("attack", name).params]
    check("attack", name, **{key: value for key, value in short.items() if key in takes})
