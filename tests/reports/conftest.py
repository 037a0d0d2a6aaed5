"""One synthetic eval run and what the reports make of it, shared by the tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeproof.evaluation.results import Results
from edgeproof.reports.content import EvalRun, read_eval_run
from edgeproof.reports.html import render_html
from edgeproof.runs import Run
from tests.reports.synthetic import gate, make_eval_run

#: Names as a hostile or merely careless user would choose them.
HOSTILE = {
    "class": "<script>alert('class')</script>",
    "quoted": '"a\' & b" | `c` *d* [e](f)',
    "control": "bell\x07 esc\x1b[31m nul\x00 \u202eback\nline",
    "set": "</svg><img src=x onerror=alert('set')>|",
    "engine": "'\"><script>engine</script>",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An eval run of three engines, four adversarial sets, four classes and two limits."""
    return make_eval_run(
        tmp_path_factory.mktemp("runs"),
        gates=(gate(), gate("fail-under clean_accuracy=0.4", passed=True, measured=0.9)),
        warnings=("The control set costs 3.0 points.",),
    )


@pytest.fixture(scope="session")
def run(folder: Run) -> EvalRun:
    """That run as it is shown."""
    return read_eval_run(folder)


@pytest.fixture(scope="session")
def results(run: EvalRun) -> Results:
    """Its results."""
    return run.results


@pytest.fixture(scope="session")
def page(run: EvalRun) -> str:
    """Its page."""
    return render_html(run)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> EvalRun:
    """A run whose names, warnings and paths are hostile."""
    root: Path = tmp_path_factory.mktemp("hostile")
    made = make_eval_run(
        root,
        classes=(HOSTILE["class"], HOSTILE["quoted"], HOSTILE["control"]),
        engines={HOSTILE["engine"]: 0.0, "ort-int8-trt": 0.1},
        sets=(("fgsm", 0.1),),
        names={"fgsm 0.1": HOSTILE["set"]},
        gates=(gate(f"robust_accuracy@{HOSTILE['control']}=0.4"),),
        warnings=(f"Class {HOSTILE['class']} is small.",),
    )
    return read_eval_run(made)
