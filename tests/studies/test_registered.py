"""What every registered study keeps to."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgeproof.studies
from edgeproof.commands import cli
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import entries, find
from edgeproof.studies.base import study_params
from edgeproof.studies.schedule import check_jobs
from tests.studies.planning import planned

pytest.importorskip("torch")
STUDIES = sorted(entries("study"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_the_three_presets_and_seeds(name: str) -> None:
    entry = find("study", name)
    for preset in {"smoke", "small", "paper"} | set(entry.options["presets"]):
        assert study_params(entry, preset=preset, given={"seeds": "4,5"})["seeds"] == (4, 5)
    with pytest.raises(ConfigError, match=r"has no preset 'smal' \(did you mean 'small'\?\)"):
        study_params(entry, preset="smal", given={})


@pytest.mark.parametrize("name", STUDIES)
def test_every_job_of_every_preset_is_accepted_and_reads_jobs_before_it(name: str) -> None:
    for preset in find("study", name).options["presets"]:
        check_jobs(planned(name, preset=preset).jobs())


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_a_frozen_record_of_its_parameters(name: str) -> None:
    made = planned(name, seeds="7")
    assert vars(made) == study_params(find("study", name), preset="small", given={"seeds": "7"})
    with pytest.raises(AttributeError):
        made.seeds = (8,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name, former, preset, given",
    [
        ("imbalance", "document", "medium", {}),
        ("quantization", "document", "medium", {}),
        ("confuse", "curves", "medium", {}),
        ("universal", "fashion", "small", {"data": "fashion-mnist", "eps": 0.1, "more_eps": ()}),
        ("protected", "fashion", "small", {"data": "fashion-mnist", "eps": 0.096, "eps_l2": 1.0, "conv2": 5.0}),
        (
            "protected",
            "cifar",
            "small",
            {"data": "cifar10", "eps": 0.006, "eps_l2": 0.25, "conv2": 1.0, "epochs": 10, "train_images": 20000},
        ),
    ],
)
def test_a_preset_of_before_has_the_parameters_that_it_had(
    name: str, former: str, preset: str, given: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    entry = find("study", name)
    assert study_params(entry, preset=former, given={}) == study_params(entry, preset=preset, given=given)
    assert former not in entry.options["presets"]
    (said,) = caplog.messages
    words = shlex.split(said.partition("is now: ")[2])
    assert words[:3] == ["edgeproof", "study", name]
    options = {
        word.removeprefix("--").replace("-", "_"): text for word, text in zip(words[3::2], words[4::2], strict=True)
    }
    chosen = options.pop("preset", "small")
    assert study_params(entry, preset=chosen, given=options) == study_params(entry, preset=preset, given=given)


def test_presets_are_named_by_size() -> None:
    for name in STUDIES:
        presets = list(find("study", name).options["presets"])
        assert presets == [size for size in ("smoke", "small", "medium", "paper") if size in presets]


def test_no_modules_of_studies_import_each_other() -> None:
    root = Path(edgeproof.studies.__file__).parent
    imports: dict[str, set[str]] = {}
    for file in root.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imports[".".join(("edgeproof.studies", *file.relative_to(root).with_suffix("").parts))] = names
    left = {module: {name for name in names if name in imports} for module, names in imports.items()}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left, "these import each other in a circle"


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_the_smoke_preset_of_every_study_runs_and_repeats_to_the_byte(name: str, tmp_path: Path) -> None:
    command = ["study", name, "--preset", "smoke", "--out", str(tmp_path / "study"), "--processes", "2"]
    written = []
    for _ in range(2):
        document = ["--document", str(tmp_path / "docs" / "it.md")]
        done = CliRunner().invoke(cli, [*command, *document], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        written.append((tmp_path / "study" / "study.json").read_bytes())
    assert written[0] == written[1]
    results = json.loads(written[0])
    assert results["verdicts"]
    assert results["cells"]
    assert (tmp_path / "docs/it.md").read_text().startswith("# ")
    assert str(tmp_path) not in written[0].decode()
