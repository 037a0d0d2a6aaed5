"""The short report, parsed with a Markdown parser (rich depends on it)."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.token import Token

from edgeproof.reports import numbers
from edgeproof.reports.content import EvalRun
from edgeproof.reports.markdown import escape, render_markdown
from tests.reports.conftest import HOSTILE


def _parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def _text(tokens: list[Token]) -> str:
    parts = [child.content for token in tokens for child in token.children or [] if child.type in ("text", "softbreak")]
    return "".join(parts)


def test_every_accuracy_is_there_as_it_is_formatted(run: EvalRun) -> None:
    text = render_markdown(run)
    for cell in run.results.cells:
        assert f"| {cell.engine} | {numbers.percent(cell.accuracy.value)} | {numbers.interval(cell.accuracy)} |" in text


def test_the_verdict_comes_first(run: EvalRun) -> None:
    tokens = _parse(render_markdown(run))
    assert _text(tokens[:9]).endswith("Failed: 1 of 2 limits does not hold.")


def test_tables_are_tables_with_equally_long_rows(run: EvalRun) -> None:
    tokens = _parse(render_markdown(run))
    assert sum(token.type == "table_open" for token in tokens) == 4
    tables = render_markdown(run).split("\n\n")
    for table in (part.splitlines() for part in tables if part.startswith("| ")):
        assert len({line.count(" | ") for line in table}) == 1


def test_hostile_names_are_shown_as_text(hostile: EvalRun) -> None:
    tokens = _parse(render_markdown(hostile))
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "strong_open", "strong_close"}
    assert "html_block" not in {token.type for token in tokens}
    shown = _text(tokens)
    for name in ("class", "quoted", "set", "engine"):
        assert HOSTILE[name] in shown
    assert numbers.visible(HOSTILE["control"]) in shown


def test_escaped_text_is_read_back_as_it_was() -> None:
    hostile = r"a|b *c* _d_ `e` [f](g) <h> &amp; ~~i~~ \j # k"
    assert _text(_parse(escape(hostile))) == hostile
