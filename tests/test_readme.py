"""The README's commands and its Python are run, in its order, as a newcomer would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_building import write_foreign

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def steps(text: str) -> list[tuple[str, str]]:
    """Return ("sh", command) and ("python", block) in their order, comments of commands dropped and continued lines joined."""
    found: list[tuple[str, str]] = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if language == "sh":
            lines = [line.split("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
            found += [("sh", line) for line in lines if line and not line.startswith("#")]
        else:
            found.append((language, block))
    return found


STEPS = steps(README)
COMMANDS = [step for language, step in STEPS if language == "sh"]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {word for line in COMMANDS if line.startswith("make ") for word in line.split()[1:] if "=" not in word}
    assert {"demo", "test"} <= named <= targets


def test_the_readme_has_only_what_a_test_runs() -> None:
    assert {language for language, _ in STEPS} == {"sh", "python"}
    for line in COMMANDS:
        assert line.startswith(("git clone", "cd edgeproof", "make ", "pip install './edgeproof[", "edgeproof ")), line


def users_own_files(folder: Path) -> None:
    """Write what the README's user brings: a network, weights that other code saved, photographs, and a graph from elsewhere."""
    write_foreign(folder / "foreign.onnx")
    torch = pytest.importorskip("torch")
    (folder / "my_net.py").write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, num_classes))\n"
    )
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 7 * 7, 2)
    )
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}},
        folder / "checkpoint.pt",
    )
    random = np.random.default_rng(0)
    for split, name, number in product(("train", "test"), ("cat", "dog"), range(6)):
        path = folder / "photos" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)


def test_the_commands_and_the_python_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    users_own_files(tmp_path)
    environment = {**os.environ, "EDGEPROOF_RUNS": str(tmp_path / "runs")}
    for language, step in STEPS:
        if language == "python":
            command = [sys.executable, "-c", step]
        elif step.startswith("edgeproof "):
            command = [sys.executable, "-m", *shlex.split(step)]
        else:
            continue
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert result.returncode == 0, f"{step}\n{result.stdout}\n{result.stderr}"
    for name in ("report.html", "runs/verdict/report.html", "edge.zip", "runs/device/results.json"):
        assert (tmp_path / name).is_file(), name


def test_links_and_pictures_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", text):
            if target.startswith("http"):
                continue
            found = document.parent / target if target else document
            assert found.exists(), f"{document.name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), flags=re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert heading in anchors, f"{document.name}: {target}#{heading}"
