"""What docs/api.md, the notebook and the README show in Python is run as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import edgeproof
from edgeproof.config import TrainConfig, build_config
from edgeproof.stages import DEMO_TRAIN, Place, run_stage

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs/api.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "docs/notebooks/first_steps.ipynb"


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run_in_order(blocks: list[str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number}", "exec"), names)


def test_every_public_name_is_in_the_document() -> None:
    for name in edgeproof.__all__:
        assert f"`{name}`" in API, f"docs/api.md does not name {name}"


def test_the_blocks_of_the_document_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_in_order(python_blocks(API))
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"] >= 5) == (4, True)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    run_in_order(["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"])
    assert (tmp_path / "report.html").exists()


def test_the_notebook_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 30_000


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    run_stage("train", build_config(TrainConfig, options={**DEMO_TRAIN, "epochs": 3}), Place(Path("runs/model")))
    assert any("ep.evaluate" in block for block in blocks)
    run_in_order(blocks)
