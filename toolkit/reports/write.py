"""The reports of an eval run, written from its files and from nothing else."""

from __future__ import annotations

from edgeproof.config import EvalConfig
from edgeproof.evaluation.evaluate import evaluate
from edgeproof.reports.content import read_eval_run
from edgeproof.reports.html import render_html
from edgeproof.reports.junit import render_junit
from edgeproof.reports.markdown import render_markdown
from edgeproof.runs import Run, write_text


def evaluate_and_report(config: EvalConfig, out: Run) -> None:
    """Carry out the eval stage: measure engines on adversarial sets, and write the reports.

    Raises:
        ToolkitError: As `evaluate` does.
    """
    evaluate(config, out)
    write_reports(out)


def write_reports(out: Run) -> None:
    """Write `report.html`, `report.md` and `junit.xml` next to `results.json` and `samples.npz`.

    Raises:
        RunError: When the folder lacks these files or they do not fit together.
    """
    run = read_eval_run(out)
    write_text(out.path / "report.html", render_html(run))
    write_text(out.path / "report.md", render_markdown(run))
    write_text(out.path / "junit.xml", render_junit(run.results))
