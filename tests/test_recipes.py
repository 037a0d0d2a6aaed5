"""The recipes of docs/architecture.md ("To add something"), carried out in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTION = DOCUMENT.partition("## To add something")[2].partition("\n## ")[0]
#: What is added -> the paths that its row names.
RECIPES = {
    row[0]: re.findall(r"`((?:toolkit|docs|tests)/[\w/.-]+|pyproject\.toml)`", " ".join(row[1:]))
    for row in (line.strip("| ").split(" | ") for line in SECTION.splitlines() if line.startswith(("| a ", "| an ")))
}

REGISTER = "from edgeproof.plugins.registry import register\n\n\n"
#: Files that the recipes make, smallest possible, by what is added.
FILES = {
    "an attack": (
        "import torch\n" + REGISTER + '@register("still", norm="linf", access="none")\n'
        "def still(model, x, y, *, eps: float, level: float = 0.5):\n"
        '    """Moves every value towards a grey level.\n\n'
        "    Args:\n        model: Is not asked.\n        x: Clean images.\n        y: True classes.\n"
        '        eps: Budget.\n        level: The grey level.\n    """\n'
        "    return x + torch.clamp(level - x, -eps, eps)\n"
    ),
    "an engine": (
        REGISTER + '@register("still", suffixes=(".still",), short="st", priority=0)\n'
        'def open_still(path, *, device: str, options):\n    """Opens nothing."""\n    raise NotImplementedError\n'
    ),
    "a data set": (
        "import numpy as np\n\nfrom edgeproof.data.base import Dataset, LabelledImages\n"
        + REGISTER
        + '@register("still")\ndef still(*, size: int = 16):\n'
        '    """Black and white images.\n\n    Args:\n        size: Pixels of a side.\n    """\n'
        "    images = np.zeros((40, 1, size, size), np.uint8)\n    images[::2] = 255\n    labels = np.arange(40) % 2\n"
        "    def part(split):\n"
        '        return LabelledImages.from_arrays(images, labels, classes=("white", "black"), name="still", split=split)\n'
        '    return Dataset(part("test"), lambda: part("train"))\n'
    ),
    "a model": (
        "import math\n\nfrom torch import nn\n" + REGISTER + '@register("still", min_size=1)\n'
        'def still(*, input_shape, num_classes: int):\n    """One linear layer."""\n'
        "    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))\n"
    ),
    "an objective": (
        "from torch import nn\n" + REGISTER + '@register("still")\ndef still(model, x, y, *, draws, weight: float = 1.0):\n'
        '    """Weighted cross-entropy.\n\n    Args:\n        model: The network.\n        x: Images.\n        y: Classes.\n'
        '        draws: Not needed.\n        weight: Of the loss.\n    """\n'
        "    return weight * nn.functional.cross_entropy(model(x), y)\n"
    ),
    "a study": (
        "from dataclasses import dataclass\n\n" + REGISTER.replace("\n\n\n", "\n") + "from edgeproof.studies.base import Findings\n"
        "from edgeproof.studies.jobs import Job\n\n\n"
        '@register("still", presets={"smoke": {"epochs": 1}, "small": {}, "paper": {"epochs": 9}})\n'
        "@dataclass(frozen=True, kw_only=True)\nclass Still:\n"
        '    """One training.\n\n    Nothing is claimed.\n\n    Args:\n        epochs: Passes.\n        seeds: Seeds.\n    """\n\n'
        "    epochs: int = 2\n    seeds: tuple[int, ...] = (0,)\n\n"
        '    def jobs(self):\n        return [Job(f"train-{s}", "train", {"data.name": "digits", "epochs": self.epochs, "seed": s}) for s in self.seeds]\n\n'
        "    def findings(self, runs):\n        return Findings((), (), ())\n"
    ),
}  # fmt: skip
KINDS = {"a data set": "data", **{what: what.split()[1] for what in FILES if what != "a data set"}}

LISTED = """
import json, sys
import edgeproof
from edgeproof.plugins.registry import entries
from edgeproof.studies.base import study_params
from edgeproof.studies.schedule import check_jobs
found = {kind: entries(kind).get("still") for kind in json.loads(sys.argv[1])}
study = found["study"]
check_jobs(study.load()(**study_params(study, preset="paper", given={"seeds": "1,2"})).jobs())
print(json.dumps([edgeproof.__file__, {kind: entry and entry.module for kind, entry in found.items()}]))
"""

CHECKED = """
import sys
from edgeproof.contracts import check
for kind in ("attack", "data", "model"):
    check(kind, "still")
"""

#: The new metric of the recipe: (file, text before which it stands, text).
METRIC = (
    ("evaluation/metrics.py", "def worst_class(", 'def mean_class(rates):\n    """Return the mean accuracy of the classes."""\n'
     "    known = [rate.value for rate in rates if rate.value is not None]\n    return sum(known) / len(known)\n\n\n"),
    ("evaluation/results.py", "    threat: Threat | None = None\n", "    mean_class: float | None = None\n"),
    ("evaluation/scoring.py", "        worst_class=metrics.worst_class(rates),\n", "        mean_class=metrics.mean_class(rates),\n"),
    ("reports/tables.py", '"Relative difference", "Drop, points", "Attack success"', '"Mean of classes", '),
    ("reports/tables.py", "            Cell(numbers.relative(cell.relative_difference)),\n", "            Cell(numbers.percent(cell.mean_class)),\n"),
)  # fmt: skip

MEASURED = """
import json, sys
from pathlib import Path
import numpy as np
from edgeproof.evaluation.results import read_results
from edgeproof.evaluation.schema import schema_text
from edgeproof.evaluation.scoring import Predictions, score
from edgeproof.reports import tables
labels = np.array([0, 0, 0, 1])
seen = Predictions(labels, {("e", "clean"): np.array([0, 0, 1, 1])})
(cell,) = score(seen, engines=["e"], sets=["clean"], reference="e", classes=["a", "b"])
before = tables.attacks(read_results(Path(sys.argv[1])))
print(json.dumps([json.loads(cell.model_dump_json())["mean_class"], schema_text(), [column.title for column in before.columns],
                  [cell.text for cell in before.rows[0]]]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, in a folder from which it is imported before the installed one."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "toolkit", tmp_path / "edgeproof", ignore=ignored)
    for folder in ("export", "kernels"):
        shutil.copytree(ROOT / folder, tmp_path / "edgeproof" / folder, ignore=ignored)
    return tmp_path / "edgeproof"


def run(package: Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=package.parent,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_files(package: Path) -> None:
    """Write every file that a recipe makes, at the place that the document names."""
    for what, text in FILES.items():
        place = RECIPES[what][0]
        assert "NAME" in place
        file = package / place.replace("NAME", "still").removeprefix("toolkit/")
        if what == "a study":
            file.parent.mkdir()
            (file.parent / "__init__.py").touch()
        file.write_text(text, encoding="utf-8")


def test_the_recipes_name_files_that_exist() -> None:
    assert set(FILES) < set(RECIPES)
    for what, paths in RECIPES.items():
        assert paths, what
        for path in paths:
            assert (ROOT / path.partition("NAME")[0]).exists(), f"{what}: {path}"


def test_what_is_made_by_a_recipe_is_found_by_the_registry(package: Path) -> None:
    add_files(package)
    where, modules = json.loads(run(package, LISTED, json.dumps(list(KINDS.values()))))
    assert Path(where).is_relative_to(package)
    assert modules == {
        "attack": "edgeproof.attacks.still",
        "engine": "edgeproof.engines.still",
        "data": "edgeproof.data.still",
        "model": "edgeproof.models.still",
        "objective": "edgeproof.training.objectives.still",
        "study": "edgeproof.studies.still.study",
    }


@pytest.mark.slow
def test_what_is_made_by_a_recipe_meets_the_contract_of_its_kind(package: Path) -> None:
    pytest.importorskip("torch")
    add_files(package)
    run(package, CHECKED)


def test_a_metric_takes_the_five_files_of_its_recipe(package: Path) -> None:
    paths = [path for path in RECIPES["a metric"] if not path.startswith("tests/")]
    assert paths == list(dict.fromkeys([*(f"toolkit/{file}" for file, _, _ in METRIC), "docs/results.schema.json"]))
    for file, mark, text in METRIC:
        before = (package / file).read_text(encoding="utf-8")
        assert before.count(mark) == 1, f"{file}: {mark}"
        (package / file).write_text(before.replace(mark, text + mark), encoding="utf-8")
    kept = ROOT / "benchmarks" / "results" / "deployed-forms-cifar10.json"
    value, schema, titles, row = json.loads(run(package, MEASURED, str(kept)))
    assert value == pytest.approx((2 / 3 + 1) / 2)
    assert "mean_class" in schema
    assert row[titles.index("Mean of classes")] == "undefined"  # of results that were written before


def test_every_part_of_the_package_has_a_row_in_the_document() -> None:
    table = DOCUMENT.partition("## What is where")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:toolkit/)?(\w+)(?:\.py)?/?", table))
    parts = {
        path.stem for path in (ROOT / "toolkit").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert parts - named <= {"__main__", "errors", "types", "ops"}
    order = DOCUMENT.partition("## Who may import whom")[2].partition("```\n")[2].partition("```")[0]
    from tests.test_architecture import ROWS

    drawn = [tuple(line.split("  ")[0].removesuffix(".py").split(" | ")) for line in order.splitlines()]
    assert drawn == list(ROWS)
