"""The README's commands are run, in its order, as a newcomer would."""

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
        assert line.startswith(("git clone", "cd edgeproof", "make ", "edgeproof ")), f"nothing runs {line!r}"


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


def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    users_own_files(tmp_path)
    environment = {
        **os.environ,
        "EDGEPROOF_RUNS": str(tmp_path / "runs"),
    }
    for line in commands(README):
        if line.startswith("edgeproof "):
            command = [sys.executable, "-m", *shlex.split(line)]
            result = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"


def test_links_and_pictures_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
