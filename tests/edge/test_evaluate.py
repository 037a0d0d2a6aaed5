"""evaluate: engines x sets to results.json, from end to end, with ONNX Runtime and no torch."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.config import EvalConfig
from edgeproof.data.base import LabelledImages
from edgeproof.engines.base import Engine, open_engine
from edgeproof.errors import ConfigError, DataError, RunError, ToolkitError
from edgeproof.evaluation import metrics
from edgeproof.evaluation.evaluate import evaluate
from edgeproof.evaluation.results import Results
from edgeproof.evaluation.summary import recompute
from edgeproof.runs import Run
from tests.edge.conftest import CLASSES, SHAPE, MakeSet
from tests.edge.tiny_onnx import write_linear

pytestmark = pytest.mark.usefixtures("fake_engine")

pytest.importorskip("onnxruntime")


def run_eval(out: Path, **options: object) -> Results:
    config = EvalConfig.model_validate(
        {"batch_size": 50, "throughput": False, "invariance": 4, "threads": 1, **options}
    )
    with Run.start("eval", "test", config=config.model_dump(mode="json"), out=out) as run:
        results = evaluate(config, run)
        run.finish()
    return results


@pytest.fixture
def fake(weights: NDArray[np.float32], tmp_path: Path) -> Path:
    path = tmp_path / "linear.fake"
    path.write_text(json.dumps({"weights": weights.T.reshape(3, *SHAPE).tolist(), "classes": CLASSES}))
    return path


def test_every_engine_meets_every_set(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set()), str(make_set("noise"))])
    assert [engine.name for engine in results.engines] == ["ort-fp32", "ort-fp16", "ort-int8-trt"]
    assert [engine.precision for engine in results.engines] == ["fp32", "fp16", "int8"]
    assert [set_.name for set_ in results.sets] == ["clean", "fgsm 0.1", "noise 0.1"]
    assert len(results.cells) == 9
    assert results.reference == "ort-fp32"
    assert all(cell.accuracy.total == 120 for cell in results.cells)


def test_the_numbers_are_those_of_the_linear_model(
    graphs: Path, make_set: MakeSet, clean: LabelledImages, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    attacked = make_set()
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(attacked)])
    x_adv = np.load(attacked / "adversaries.npz")["x_adv"]
    before = metrics.predictions(clean.images.reshape(120, -1) @ weights)
    after = metrics.predictions(x_adv.reshape(120, -1) @ weights)
    cell = results.cell("ort-fp32", "fgsm 0.1")
    assert cell.accuracy.hits == metrics.accuracy(after, clean.labels).hits
    assert cell.success is not None
    assert cell.success.hits == metrics.attack_success(before, after, clean.labels).hits > 0
    assert cell.transfer is not None
    assert (cell.transfer.value, cell.transfer_ratio) == (1.0, 1.0)  # the graph is the source model
    assert np.array_equal(cell.matrix(3), metrics.confusion(after, clean.labels, num_classes=3))
    assert cell.unlisted == 0
    assert cell.agreement is cell.mcnemar is None
    other = results.cell("ort-int8-trt", "fgsm 0.1")
    assert other.agreement is not None
    assert 0.9 < (other.agreement.value or 0) <= 1
    assert [record.label for record in other.per_class] == list(range(len(CLASSES)))
    assert sum(record.accuracy.hits for record in other.per_class) == other.accuracy.hits


def test_every_two_engines_are_compared_on_every_set(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())])
    assert [(pair.set, pair.first, pair.second) for pair in results.pairs] == [
        (set_, first, second)
        for set_ in ("clean", "fgsm 0.1")
        for first, second in (("ort-fp32", "ort-fp16"), ("ort-fp32", "ort-int8-trt"), ("ort-fp16", "ort-int8-trt"))
    ]
    with np.load(tmp_path / "eval" / "samples.npz") as samples:
        half, integer = samples["pred/ort-fp16--fgsm 0.1"], samples["pred/ort-int8-trt--fgsm 0.1"]
    assert results.pairs[-1].agreement.hits == (half == integer).sum()
    of_reference = results.cell("ort-int8-trt", "clean")
    assert (results.pairs[1].agreement, results.pairs[1].mcnemar) == (of_reference.agreement, of_reference.mcnemar)


def test_a_clean_cell_has_no_attack_metrics(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    cell = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())]).cell("ort-fp16", "clean")
    assert (cell.success, cell.transfer, cell.relative_difference, cell.drop_points) == (None,) * 4
    assert cell.agreement is not None


def test_transfer_is_left_out_where_the_source_is_not_known(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set(source_known=False))])
    assert results.cell("ort-fp32", "fgsm 0.1").transfer is None
    assert results.cell("ort-fp32", "fgsm 0.1").success is not None


def test_results_are_recomputed_from_the_files_alone(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    gates = {"fail_under": ["int8:clean_accuracy=0.5"], "max_drop": ["robust_accuracy@bee=0.2"]}
    out = tmp_path / "eval"
    results = run_eval(out, engines=[str(graphs)], sets=[str(make_set()), str(make_set(eps=0.2))], **gates)
    (tmp_path / "export-linear" / "model.fp32.onnx").unlink()
    assert recompute(Run.open(out)) == results
    assert Results.model_validate_json((out / "results.json").read_bytes()) == results


def test_recomputing_from_changed_logits_is_refused(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())])
    file = tmp_path / "eval" / "logits" / "ort-fp32--fgsm-0.1.npy"
    np.save(file, np.load(file) + 1)
    with pytest.raises(RunError, match="was changed after the run"):
        recompute(Run.open(tmp_path / "eval"))


def test_samples_hold_what_the_report_reads(
    graphs: Path, make_set: MakeSet, clean: LabelledImages, tmp_path: Path
) -> None:
    run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())], gallery=5)
    with np.load(tmp_path / "eval" / "samples.npz") as samples:
        np.testing.assert_array_equal(samples["labels"], clean.labels)
        assert samples["pred/ort-int8-trt--fgsm 0.1"].shape == (120,)
        assert len(set(samples["clean_hash"].tolist())) == 120
        rows = samples["gallery_index"]
        assert (samples["gallery_clean"].shape, samples["gallery/fgsm 0.1"].shape) == ((5, *SHAPE), (5, *SHAPE))
        np.testing.assert_array_equal(samples["gallery_clean"], clean.images[rows])
        assert (samples["pred/ort-fp32--fgsm 0.1"][rows] != clean.labels[rows]).all()
        assert set(clean.labels[rows].tolist()) == {0, 1, 2}


def test_logits_that_were_saved_are_used_again(
    fake: Path, make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvalConfig(engines=(str(fake),), sets=(str(make_set()),), throughput=False, invariance=0, batch_size=50)
    calls: list[int] = []
    with open_engine(fake) as engine:
        kind = type(engine)  # of the plug-in's module, which is not the one that tests import
    predict = kind.predict

    def stops(self: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(kind, "predict", stops)
    with closing(Run.start("eval", "test", config={}, out=tmp_path / "eval")) as run, pytest.raises(KeyboardInterrupt):
        evaluate(config, run)
    with Run.start("eval", "test", config={}, out=tmp_path / "eval") as run:
        evaluate(config, run)
    # Three batches of the clean set and one of the attacked, which was cut short; then the attacked one alone.
    assert calls == [50, 50, 20, 50, 50, 50, 20]


def test_logits_of_another_engine_or_changed_on_disk_are_not_used_again(
    fake: Path, make_set: MakeSet, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    config = EvalConfig(engines=(f"m={fake}",), sets=(str(make_set()),), throughput=False)
    out = tmp_path / "eval"
    with Run.start("eval", "test", config={}, out=out) as run:
        first = evaluate(config, run)
    np.save(out / "logits" / "m--clean.npy", np.zeros((120, 3), np.float32))
    with Run.start("eval", "test", config={}, out=out) as run:
        assert evaluate(config, run) == first
    fake.write_text(json.dumps({"weights": (-weights).T.reshape(3, *SHAPE).tolist()}))
    with Run.start("eval", "test", config={}, out=out) as run:
        assert evaluate(config, run).cell("m", "clean") != first.cell("m", "clean")


def test_batch_invariance_is_measured_for_every_engine(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())])
    assert [(engine.invariance.images, engine.invariance.flips) for engine in results.engines if engine.invariance] == [
        (4, 0), (4, 0), (4, 0),
    ]  # fmt: skip
    none = run_eval(tmp_path / "none", engines=[str(graphs)], sets=[str(make_set())], invariance=0)
    assert none.engines[0].invariance is None


def test_the_share_of_integer_kernels_is_measured_for_int8(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())])
    found = [engine.kernels and (engine.kernels.integer, engine.kernels.total) for engine in results.engines]
    assert found == [None, None, (1, 1)]


def test_throughput_keeps_every_sample(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())], throughput=True)
    samples = json.loads((tmp_path / "eval" / "throughput.json").read_text())
    for engine in results.engines:
        record = engine.throughput
        assert record is not None
        assert (record.batch_size, record.repeats) == (50, len(samples[engine.name]["seconds"]))
        assert record.p5 <= record.images_per_s <= record.p95
        assert record.images_per_s == pytest.approx(50 / np.median(samples[engine.name]["seconds"]), rel=0.2)


def test_sets_made_from_other_clean_images_are_refused(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was made from other clean images than .*60 and 120 images"):
        run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set()), str(make_set(limit=60))])


def test_two_sets_of_one_name_get_distinct_names(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    sets = [str(make_set()), str(make_set(source_known=False))]
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=sets)
    assert [set_.name for set_ in results.sets] == ["clean", "fgsm 0.1", "fgsm 0.1-2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engines": []}, "no engine to evaluate"),
        ({"sets": []}, "nothing to evaluate on"),
        ({"reference": "ort-fp31"}, r"unknown reference engine 'ort-fp31' \(did you mean 'ort-fp32'\?\)"),
        (
            {"fail_under": ["robust_acuracy=0.4"]},
            r"unknown metric 'robust_acuracy' \(did you mean 'robust_accuracy'\?\)",
        ),
        ({"fail_under": ["clean_accuracy@dog=0.4"]}, r"unknown class 'dog'.*known: ant, bee, cat"),
        ({"engines": ["ortx:model.onnx"]}, "unknown engine 'ortx'"),
    ],
)
def test_bad_options_are_told_before_anything_runs(
    graphs: Path, make_set: MakeSet, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    everything = {"engines": [str(graphs)], "sets": [str(make_set())], **options}
    with pytest.raises(ConfigError, match=message):
        run_eval(tmp_path / "eval", **everything)
    assert not (tmp_path / "eval" / "logits").exists()


def test_an_engine_for_other_images_or_classes_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    wide = write_linear(tmp_path / "wide.onnx", np.ones((25, 3), np.float32), shape=("n", 1, 5, 5))
    four = write_linear(tmp_path / "four.onnx", np.ones((16, 4), np.float32))
    names = write_linear(tmp_path / "names.onnx", np.ones((16, 3), np.float32), classes=("bee", "dog", "eel"))
    expected = {
        wide: r"takes images of shape \(1, 5, 5\); those of patterns are \(1, 4, 4\)",
        four: r"has 4 classes, which it does not name; patterns has 3 \(ant, bee, cat\): give the names of all 4",
        names: "patterns has images of the class 'ant' and 1 more, which ort-names does not have; its 3 classes are bee, dog",
    }
    for path, message in expected.items():
        with pytest.raises(DataError, match=message):
            run_eval(tmp_path / f"eval-{path.stem}", engines=[str(path)], sets=[str(make_set())])


def test_an_engine_of_the_same_classes_in_another_order_or_of_more_counts_by_name(
    make_set: MakeSet, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    """Every rate, those of the source model included, is that of the order in which the set was made."""
    order, more = [2, 0, 1], np.concatenate([np.full((16, 2), -9, np.float32), weights], axis=1)
    plain = write_linear(tmp_path / "plain.onnx", weights, classes=CLASSES)
    found = {
        "plain": plain,
        "moved": write_linear(tmp_path / "moved.onnx", weights[:, order], classes=[CLASSES[each] for each in order]),
        "more": write_linear(tmp_path / "more.onnx", more, classes=("dog", "eel", *CLASSES)),
    }
    results = {
        name: run_eval(tmp_path / name, engines=[str(path)], sets=[str(make_set())]) for name, path in found.items()
    }
    assert [len(each.classes) for each in results.values()] == [3, 3, 5]
    plain_cells = [(cell.accuracy, cell.success, cell.transfer) for cell in results["plain"].cells]
    for each in results.values():
        assert [(cell.accuracy, cell.success, cell.transfer) for cell in each.cells] == plain_cells
    with pytest.raises(DataError, match="ort-plain and ort-moved have different classes or order them differently"):
        run_eval(tmp_path / "both", engines=[str(plain), str(found["moved"])], sets=[str(make_set())])


def test_a_class_file_names_the_classes_of_a_graph_that_does_not(
    make_set: MakeSet, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    order = [2, 0, 1]
    path = write_linear(tmp_path / "unnamed.onnx", weights[:, order])
    (tmp_path / "names.txt").write_text("\n".join(CLASSES[each] for each in order))
    sets = [str(make_set())]
    named = run_eval(tmp_path / "a", engines=[str(path)], sets=sets, classes_file=str(tmp_path / "names.txt"))
    plain = run_eval(
        tmp_path / "b", engines=[str(write_linear(tmp_path / "p.onnx", weights, classes=CLASSES))], sets=sets
    )
    assert [cell.accuracy for cell in named.cells] == [cell.accuracy for cell in plain.cells]


def test_a_set_that_was_tampered_with_is_refused(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set()
    (folder / "adversaries.npz").write_bytes((folder / "adversaries.npz").read_bytes()[:-7])
    with pytest.raises(RunError, match="was changed after the run"):
        run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(folder)])


def test_a_graph_that_was_tampered_with_is_refused(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    write_linear(graphs / "model.fp16.onnx", np.ones((16, 3), np.float32))
    with pytest.raises(ToolkitError, match=r"model.fp16.onnx was changed after the run"):
        run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())])


def test_clean_images_alone_can_be_evaluated(graphs: Path, clean: LabelledImages, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x_test=clean.images, y_test=clean.labels)
    write_linear(tmp_path / "plain.onnx", np.ones((16, 3), np.float32))
    results = run_eval(tmp_path / "eval", engines=[str(tmp_path / "plain.onnx")], data=f"npz:{tmp_path / 'test.npz'}")
    assert [set_.name for set_ in results.sets] == ["clean"]
    assert results.cells[0].accuracy.total == 120


def test_results_meet_the_published_schema(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).resolve().parents[2] / "docs" / "results.schema.json").read_text())
    sets = [str(make_set()), str(make_set("noise", source_known=False))]
    run_eval(tmp_path / "eval", engines=[str(graphs)], sets=sets, throughput=True, fail_under=["clean_accuracy=0.5"])
    written = json.loads((tmp_path / "eval" / "results.json").read_text())
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError, match="'extra' was unexpected"):
        jsonschema.validate({**written, "extra": 1}, schema)


def test_costs_are_measured_limited_and_can_be_computed_again(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    asked = {"protect": "bee", "cost": 5, "side": "miss", "max_cost": ["robust_cost@bee=0.0", "clean_cost=9"]}
    results = run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())], **asked)
    assert results.costs is not None
    assert results.costs.source == "protect bee, cost 5, side miss"
    for cell in results.cells:
        assert cell.cost is not None
        wrong = cell.matrix(3) * (1 - np.eye(3))
        assert cell.cost.total == wrong[0].sum() + 5 * wrong[1].sum() + wrong[2].sum()
    assert [gate.passed for gate in results.gates] == [False] * 3 + [True] * 3
    assert recompute(Run.open(tmp_path / "eval")) == results


def test_a_limit_on_costs_needs_costs(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs costs: give --costs FILE or --protect CLASS"):
        run_eval(tmp_path / "eval", engines=[str(graphs)], sets=[str(make_set())], max_cost=["clean_cost=1"])
