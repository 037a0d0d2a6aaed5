"""The README's commands are run, in its order, as a newcomer would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """Return the commands of the ```sh blocks, comments dropped and continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {
        word for line in commands(README) if line.startswith("make ") for word in line.split()[1:] if "=" not in word
    }
    assert {"demo", "test"} <= named <= targets


def test_the_readme_has_only_commands_that_a_test_runs() -> None:
    for line in commands(README):
        assert line.startswith(("git clone", "cd edgeproof", "make ", "python cli.py ")), f"nothing runs {line!r}"


def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    environment = {**os.environ, "EDGEPROOF_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(ROOT)}
    for line in commands(README):
        if line.startswith("python cli.py"):
            command = [sys.executable, str(ROOT / "cli.py"), *shlex.split(line)[2:]]
            result = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"


def test_links_and_pictures_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
