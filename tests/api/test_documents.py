"""What docs/api.md and the notebook show in Python is run as it stands; tests/test_readme.py runs the README's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import edgeproof

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
