"""The page, parsed as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeproof.evaluation.results import Results
from edgeproof.reports import numbers
from edgeproof.reports.content import EvalRun, read_eval_run
from edgeproof.reports.html import render_html
from tests.reports.conftest import HOSTILE
from tests.reports.synthetic import make_eval_run

_VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The tags, attributes, table rows and text of a page; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if self._open and self._open[-1] == "h2":
            self.headings[-1] += data


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def test_sections_come_in_the_order_of_what_a_reader_needs(parsed: Page) -> None:
    assert parsed.headings == [
        "Read this before the numbers", "Every engine on every set", "Class by class", "Agreement with torch-fp32", "Confusion",
        "Transfer and budget", "Images", "Throughput", "What was measured", "How to repeat it", "What the measures mean",
    ]  # fmt: skip
    assert parsed.text.index("Failed: 1 of 2 limits") < parsed.text.index("Read this before the numbers")


def test_every_accuracy_stands_in_the_page_as_it_is_formatted(parsed: Page, results: Results) -> None:
    for cell in results.cells:
        rate = cell.accuracy
        wanted = [numbers.percent(rate.value), numbers.interval(rate), numbers.hits(rate)]
        assert any(row[-5:-2] == wanted for row in parsed.rows)


def test_every_class_has_its_relative_difference_and_its_drop(parsed: Page, results: Results) -> None:
    for cell in results.cells:
        for record in cell.per_class:
            if cell.set != "clean":
                clean = results.cell(cell.engine, "clean").rate(record.label).value or 0
                drop = clean - (record.accuracy.value or 0)
                wanted = [numbers.relative(100 * drop / clean if clean else None), numbers.points(100 * drop)]
                assert any(row[-3:-1] == wanted for row in parsed.rows)


def test_an_undefined_relative_difference_is_shown_as_such(tmp_path: Path) -> None:
    rows = Page(render_html(read_eval_run(make_eval_run(tmp_path, missing=(1,), count=30)))).rows
    assert any(row[-3:] == ["undefined", "undefined", "0"] for row in rows)


def test_nothing_is_fetched_and_nothing_runs(parsed: Page, page: str) -> None:
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    sources = [value for key, value in parsed.attributes if key in ("src", "href", "srcset", "data", "action")]
    assert sources
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_image_has_an_alternative_text(page: str) -> None:
    images = re.findall(r"<img [^>]*>", page)
    assert images
    assert all(re.search(r'alt="[^"]+"', image) for image in images)


def test_hostile_names_are_shown_as_text(hostile: EvalRun) -> None:
    text = render_html(hostile)
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert not [key for key, _ in parsed.attributes if key.startswith("on")]
    assert {"img", "svg"} <= set(parsed.tags)
    assert all(value.startswith("data:image/png") for key, value in parsed.attributes if key == "src")
    for name in ("class", "quoted", "set", "engine"):
        assert HOSTILE[name] in parsed.text
    assert numbers.visible(HOSTILE["control"]) in parsed.text
    assert not re.search("[\x00-\x08\x0b-\x1f]", text)


@pytest.mark.parametrize(
    "options",
    [
        {"sets": ()},
        {"engines": {"only": 0.0}},
        {"sets": (("noise", 0.1),)},
        {"classes": tuple(f"sign {k}" for k in range(43)), "count": 100, "missing": (7,)},
    ],
    ids=["no-attack", "one-engine", "control-only", "43-classes"],
)
def test_unusual_runs_give_a_page_too(tmp_path: Path, options: dict[str, object]) -> None:
    page = Page(render_html(read_eval_run(make_eval_run(tmp_path, **options))))  # type: ignore[arg-type]
    assert "What was measured" in page.headings


def test_a_page_of_many_classes_stays_small_enough_to_send(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path, classes=tuple(f"class {k}" for k in range(100)), count=400, sets=(("fgsm", 0.1),))
    assert len(render_html(read_eval_run(run))) < 1_000_000
