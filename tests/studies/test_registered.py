"""What every registered study keeps to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import entries, find
from edgeproof.studies.base import study_params

pytest.importorskip("torch")
STUDIES = sorted(entries("study"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_the_three_presets_and_seeds(name: str) -> None:
    entry = find("study", name)
    for preset in {"smoke", "small", "paper"} | set(entry.options["presets"]):
        assert study_params(entry, preset=preset, given={"seeds": "4,5"})["seeds"] == (4, 5)
    with pytest.raises(ConfigError, match=r"has no preset 'smal' \(did you mean 'small'\?\)"):
        study_params(entry, preset="smal", given={})


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
