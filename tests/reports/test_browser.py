"""Reports in a real browser: hostile names are text, nothing complains, and nothing is wider than the window."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeproof.reports import numbers
from edgeproof.reports.content import EvalRun
from edgeproof.reports.document import Document, Section, write_html
from edgeproof.reports.figures.class_bars import set_bars
from edgeproof.reports.html import render_html
from edgeproof.reports.tables import Cell, Column, Table
from tests.reports.browser import CHROMIUM, Browser, browser
from tests.reports.conftest import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; apt-get install chromium"),
]
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n')
_SCRIPTS = "document.scripts.length"
_HANDLERS = (
    "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length"
)
_RAN = "typeof window.ran"
_OVER = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(hostile: EvalRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of one run and of a study, each also without its policy, so that escaping alone has to hold."""
    folder = tmp_path_factory.mktemp("pages")
    run = EvalRun(**{**vars(hostile), "command": f"python cli.py eval --engine '{_OVER}'"})
    (folder / "run.html").write_text(render_html(run), encoding="utf-8")
    table = Table((Column("class"), Column("path")), ((Cell(HOSTILE["class"]), Cell(_OVER)),))
    figures = set_bars(run.results, run.results.sets[-1])
    section = Section(HOSTILE["set"], (HOSTILE["quoted"], table, *figures))
    write_html(
        Document(f"A study of {_OVER}", _OVER, (section,), f"python cli.py study '{_OVER}'"), folder / "study.html"
    )
    for name in ("run", "study"):
        text, count = _POLICY.subn("", (folder / f"{name}.html").read_text(encoding="utf-8"))
        assert count == 1
        (folder / f"{name}-bare.html").write_text(text, encoding="utf-8")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "run-bare", "study", "study-bare"])
def test_a_report_with_hostile_names_shows_them_and_fits(
    opened: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    seen = opened.look(pages[name], width=width, expressions=(_SCRIPTS, _HANDLERS, _RAN))
    assert seen.values == (0, 0, "undefined")
    assert seen.complaints == ()
    assert seen.viewport == width
    assert seen.width <= width
    assert _OVER in seen.text
    shown = ("class", "quoted", "set", "engine") if name.startswith("run") else ("class", "quoted", "set")
    for key in shown:
        assert HOSTILE[key] in seen.text
    if name.startswith("run"):
        assert numbers.visible(HOSTILE["control"]) in seen.text


def test_a_page_that_does_run_a_script_is_noticed(opened: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!DOCTYPE html><body style='width: 2000px'>{_OVER}<script>nowhere()</script>", encoding="utf-8")
    seen = opened.look(page, width=390, expressions=(_SCRIPTS, _HANDLERS, _RAN))
    assert seen.values == (2, 1, "number")
    assert any("Uncaught" in complaint for complaint in seen.complaints)
    assert seen.width > 390
