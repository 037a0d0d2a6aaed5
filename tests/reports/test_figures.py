"""The figures, parsed as XML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edgeproof.evaluation.results import Results
from edgeproof.reports.content import EvalRun, read_eval_run
from edgeproof.reports.figures.class_bars import class_bars
from edgeproof.reports.figures.confusion import confusion, confusion_matrix
from edgeproof.reports.figures.curves import accuracy_over_eps, sweeps
from edgeproof.reports.figures.frontier import frontier
from edgeproof.reports.figures.gallery import pictures
from edgeproof.reports.figures.svg import Figure, png_uri
from edgeproof.reports.figures.transfer import transfer_map
from tests.reports.conftest import HOSTILE
from tests.reports.synthetic import make_eval_run

SIZES = {
    "two": ("ok", "defect"),
    "ten": tuple(f"class {k}" for k in range(10)),
    "forty-three": tuple(f"{k}: a name that is far too long to fit beside a bar" for k in range(43)),
    "hundred": tuple(str(k) for k in range(100)),
}


@pytest.fixture(scope="module", params=SIZES)
def sized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of 2 to 100 classes, one of them without images."""
    classes = SIZES[request.param]
    missing = () if len(classes) == 2 else (1,)
    return read_eval_run(make_eval_run(tmp_path_factory.mktemp("sized"), classes=classes, missing=missing)).results


def _all(results: Results) -> Iterator[Figure]:
    engine, attacked = results.engines[-1], results.sets[1]
    yield class_bars(results, engine, attacked)
    yield confusion(results, engine, attacked)
    yield transfer_map(results)
    yield from (accuracy_over_eps(results, sweep) for sweep in sweeps(results))
    points = frontier(results)
    assert points is not None
    yield points


def _texts(figure: Figure) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(figure.svg).iter("text")]


def test_every_figure_is_xml_with_a_title_a_description_and_a_role(sized: Results) -> None:
    for figure in _all(sized):
        root = ElementTree.fromstring(figure.svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == root.findtext("title") != ""
        assert root.findtext("desc")


def test_no_figure_draws_outside_its_box_or_with_negative_sizes(sized: Results) -> None:
    for figure in _all(sized):
        root = ElementTree.fromstring(figure.svg)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            x, y = float(element.get("x", "0")), float(element.get("y", "0"))
            reach = float(element.get("width", "0")), float(element.get("height", "0"))
            assert min(x, y, *reach) >= 0
            assert x + reach[0] <= width + 0.5
            assert y + reach[1] <= height + 0.5


def test_bars_are_as_long_as_the_accuracies(results: Results) -> None:
    engine, attacked = results.engines[0], results.sets[1]
    root = ElementTree.fromstring(class_bars(results, engine, attacked).svg)
    bars = [float(rect.attrib["width"]) for rect in root.iter("rect")]
    rates = [
        record.accuracy.value
        for pair in zip(
            results.cell(engine.name, "clean").per_class,
            results.cell(engine.name, attacked.name).per_class,
            strict=True,
        )
        for record in pair
    ]
    scale = bars[0] / (rates[0] or 1)
    assert bars == pytest.approx([scale * (rate or 0) for rate in rates], abs=0.01)


def test_a_class_without_images_says_so(tmp_path: Path) -> None:
    results = read_eval_run(make_eval_run(tmp_path, missing=(1,))).results
    assert _texts(class_bars(results, results.engines[0], results.sets[1])).count("no images") == 1


def test_a_small_matrix_shows_every_count_and_a_large_one_none(results: Results, sized: Results) -> None:
    counts = sorted(str(images) for _, _, images in results.cell("torch-fp32", "clean").confusion)
    shown = _texts(confusion(results, results.engines[0], results.sets[0]))
    assert sorted(text for text in shown if text.isdigit()) == counts
    if len(sized.classes) > 20:
        texts = _texts(confusion(sized, sized.engines[0], sized.sets[0]))
        assert len(texts) <= 2 * len(sized.classes)


def test_the_shades_of_a_matrix_are_the_shares_of_its_rows(results: Results) -> None:
    root = ElementTree.fromstring(confusion(results, results.engines[0], results.sets[1]).svg)
    image = next(root.iter("image"))
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(image.attrib["href"].partition(",")[2]))))
    counts = results.cell("torch-fp32", results.sets[1].name).matrix(len(results.classes))
    assert np.allclose((pixels[..., 3] / 255) ** 2, counts / counts.sum(axis=1, keepdims=True), atol=0.01)


def test_the_most_frequent_mistakes_are_named_in_order(results: Results) -> None:
    counts = np.array([[45, 5, 0, 0], [0, 50, 0, 0], [9, 0, 41, 0], [0, 0, 0, 50]])
    figure = confusion_matrix(counts, results.classes, title="confused")
    assert figure.notes == ("frog as cat: 9 of 50", "cat as dog: 5 of 50")


def test_sets_that_differ_in_budget_only_are_one_sweep(results: Results) -> None:
    found = {sweep.attack: [set_.eps for set_ in sweep.sets] for sweep in sweeps(results)}
    assert found == {"fgsm": [0.05], "pgd-linf": [0.05, 0.1], "noise": [0.1]}


def test_a_curve_runs_through_the_accuracies(results: Results) -> None:
    sweep = next(sweep for sweep in sweeps(results) if sweep.attack == "pgd-linf")
    root = ElementTree.fromstring(accuracy_over_eps(results, sweep).svg)
    first = next(root.iter("polyline")).attrib["points"].split()
    heights = [float(point.split(",")[1]) for point in first]
    rates = [
        results.cell("torch-fp32", name).accuracy.value or 0 for name in ("clean", "pgd-linf 0.05", "pgd-linf 0.1")
    ]
    assert heights == pytest.approx([12 + 190 * (1 - rate) for rate in rates], abs=0.01)
    assert len(list(root.iter("polygon"))) == len(results.engines)


def test_the_transfer_map_shows_the_attack_success_where_no_source_is_known(results: Results) -> None:
    assert transfer_map(results).caption == "Transfer rate"
    cells = tuple(cell.model_copy(update={"transfer": None}) for cell in results.cells)
    assert transfer_map(results.model_copy(update={"cells": cells})).caption == "Attack success rate"


def test_one_timed_engine_is_no_frontier(results: Results) -> None:
    untimed = tuple(engine.model_copy(update={"throughput": None}) for engine in results.engines[1:])
    assert frontier(results.model_copy(update={"engines": (results.engines[0], *untimed)})) is None


def test_the_marks_of_a_throughput_axis_are_round_numbers(results: Results) -> None:
    points = frontier(results)
    assert points is not None
    marks = [text.replace(",", "") for text in _texts(points) if text.replace(",", "").isdigit() and len(text) > 1]
    assert marks
    assert {mark.rstrip("0") for mark in marks} <= {"1", "2", "5"}


def test_hostile_names_are_text(hostile: EvalRun) -> None:
    for figure in _all(hostile.results):
        root = ElementTree.fromstring(figure.svg)
        assert {element.tag for element in root.iter()} <= {
            "svg", "title", "desc", "rect", "line", "circle", "polyline", "polygon", "text", "image",
        }  # fmt: skip
        assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]
    assert HOSTILE["set"] in (ElementTree.fromstring(next(_all(hostile.results)).svg).findtext("title") or "")


def test_a_picture_shows_ten_times_the_difference_around_grey(run: EvalRun) -> None:
    assert run.gallery is not None
    shown = pictures(run, run.results.sets[1])[0]
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(shown.difference.partition(",")[2]))))
    change = run.gallery.attacked[run.results.sets[1].name][0, 0] - run.gallery.clean[0, 0]
    assert np.array_equal(pixels, np.rint(255 * np.clip(0.5 + 10 * change, 0, 1)))


def test_a_picture_says_which_engine_sees_what(run: EvalRun) -> None:
    set_ = run.results.sets[1]
    for shown in pictures(run, set_):
        for engine in run.results.engines:
            predicted = run.results.classes[run.predictions[engine.name, set_.name][shown.index]]
            assert predicted in shown.after


def test_an_image_without_a_prediction_is_of_no_class(run: EvalRun) -> None:
    set_ = run.results.sets[1]
    blind = {key: np.full_like(values, -1) for key, values in run.predictions.items()}
    silent = EvalRun(run.results, run.index, run.labels, run.clean_hash, blind, run.gallery, run.command)
    assert {shown.after for shown in pictures(silent, set_)} == {"no class"}


@pytest.mark.parametrize("channels", [2, 3])
def test_images_of_other_channels_are_shown(tmp_path: Path, channels: int) -> None:
    run = read_eval_run(make_eval_run(tmp_path, channels=channels, count=12))
    shown = pictures(run, run.results.sets[1])[0]
    image = Image.open(io.BytesIO(base64.b64decode(shown.clean.partition(",")[2])))
    assert image.mode == ("RGB" if channels == 3 else "L")


def test_a_png_holds_the_pixels_it_was_given() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    again = Image.open(io.BytesIO(base64.b64decode(png_uri(pixels).partition(",")[2])))
    assert np.array_equal(np.array(again), pixels)
