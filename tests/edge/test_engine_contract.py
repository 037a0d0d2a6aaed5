"""Every registered engine meets the contract; a new one is a new row of its own. Runs without torch as well."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.engines.base import Engine, EngineOptions, ShowsKernels, open_engine, predict_all
from edgeproof.errors import ConfigError, DataError, ToolkitError, UnavailableError
from edgeproof.plugins.registry import entries
from tests.closeness import assert_near
from tests.edge.tiny_onnx import write_linear

pytestmark = pytest.mark.usefixtures("fake_engine")

CLASSES = ("ant", "bee", "cat")
SHAPE = (1, 4, 4)
#: Largest difference from the linear model in float64; INT8 keeps 7 bits of weights and images.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2, "int8": 0.2}


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(16, 3)).astype(np.float32)


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(8).random((count, *SHAPE), np.float32)


def write_fake(folder: Path, precision: str) -> Path:
    path = folder / "model.fake"
    table = weights().T.reshape(3, *SHAPE).tolist()
    path.write_text(json.dumps({"weights": table, "classes": CLASSES, "max_batch": 4}))
    return path


def write_graph(folder: Path, precision: str) -> Path:
    return write_linear(folder / f"model.{precision}.onnx", weights(), precision=precision, classes=CLASSES)


def write_fixed_graph(folder: Path, precision: str) -> Path:
    return write_linear(folder / "model.onnx", weights(), precision=precision, shape=(3, *SHAPE), classes=CLASSES)


def write_checkpoint(folder: Path, precision: str) -> Path:
    import torch

    from edgeproof.models.base import build_classifier, save_classifier

    name = "tests.edge.torch_linear:Linear"
    model = build_classifier(name, input_shape=SHAPE, classes=CLASSES, mean=(0.0,), std=(1.0,))
    model.network.load_state_dict({"1.weight": torch.from_numpy(weights().T.copy())})
    save_classifier(folder / "model.safetensors", model)
    return folder / "model.safetensors"


Writer = Callable[[Path, str], Path]
ROWS: list[tuple[str, str, Writer]] = [
    ("fake", "fp32", write_fake),
    *(("onnxruntime", precision, write_graph) for precision in ("fp32", "fp16", "int8")),
    ("onnxruntime", "fp32", write_fixed_graph),
    *(("openvino", precision, write_graph) for precision in ("fp32", "fp16", "int8")),
    ("openvino", "fp32", write_fixed_graph),
    ("pytorch", "fp32", write_checkpoint),
    ("pytorch", "fp16", write_checkpoint),
]
#: Engines that need a GPU, with the place of their tests.
ELSEWHERE = {"onnxruntime-tensorrt": "tests/engines/test_onnxrt_gpu.py", "tensorrt": "tests/engines/test_trt.py"}


def open_row(backend: str, precision: str, write: Writer, folder: Path) -> Engine:
    module = entries("engine")[backend].options.get("module")
    if module and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed here")
    hint = precision if backend == "pytorch" else None
    return open_engine(write(folder, precision), backend=backend, options=EngineOptions(threads=1, precision=hint))


@pytest.fixture(params=ROWS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2].__name__}")
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with open_row(*request.param, tmp_path) as opened:
        yield opened


def test_every_registered_engine_has_a_row() -> None:
    assert set(entries("engine")) == {row[0] for row in ROWS} | set(ELSEWHERE) & set(entries("engine"))


def test_an_engine_says_what_is_active(engine: Engine) -> None:
    info = engine.info
    assert info.backend in entries("engine")
    assert info.precision in TOLERANCE
    assert (info.device, info.input_shape, info.num_classes, info.classes) == ("cpu", SHAPE, 3, CLASSES)
    assert len(info.sha256) == 64
    assert info.provider
    assert all(info.versions.values())
    json.dumps(dict(info.options))


def test_an_engine_takes_every_batch_up_to_its_largest(engine: Engine) -> None:
    most = engine.info.max_batch or 9
    for count in range(most + 1):
        logits = engine.predict(images(count))
        assert (logits.shape, logits.dtype) == ((count, 3), np.float32)


def test_an_engine_computes_the_model_it_was_given(engine: Engine) -> None:
    x = images(7)
    exact = x.reshape(7, -1).astype(np.float64) @ weights().astype(np.float64)
    worst = np.abs(predict_all(engine, x, batch_size=4) - exact).max()
    assert worst <= TOLERANCE[engine.info.precision]
    if engine.info.precision != "fp32":
        assert worst > 1e-6, "a lower precision must show"


def test_an_engine_returns_a_fresh_array_each_time(engine: Engine) -> None:
    first = engine.predict(images(2))
    kept = first.copy()
    engine.predict(1 - images(2))
    np.testing.assert_array_equal(first, kept)


def test_an_engine_leaves_its_input_as_it_was(engine: Engine) -> None:
    x = images(2)
    kept = x.copy()
    engine.predict(x)[...] = 0
    np.testing.assert_array_equal(x, kept)


def test_an_engine_gives_the_same_answer_twice(engine: Engine) -> None:
    np.testing.assert_array_equal(engine.predict(images(3)), engine.predict(images(3)))


def test_an_image_gets_the_same_logits_in_every_batch_size_and_slot(engine: Engine) -> None:
    x = images(9)
    whole = predict_all(engine, x, batch_size=9)
    single = predict_all(engine, x, batch_size=1)
    turned = predict_all(engine, np.ascontiguousarray(x[::-1]), batch_size=4)[::-1]
    within = {"fp32": 1e-5, "fp16": 5e-3, "int8": 1e-5}[engine.info.precision]
    assert_near(single, whole, within=within)
    assert_near(turned, whole, within=within)


def test_an_engine_takes_views_that_are_not_contiguous_or_not_writable(engine: Engine) -> None:
    x = images(4)
    x.setflags(write=False)
    np.testing.assert_array_equal(engine.predict(x[::2]), engine.predict(x[::2].copy()))


def test_a_wrong_shape_is_refused_with_both_shapes(engine: Engine) -> None:
    with pytest.raises(DataError, match=r"images have shape \(2, 1, 4, 5\); expected \(N, 1, 4, 4\)"):
        engine.predict(np.zeros((2, 1, 4, 5), np.float32))
    with pytest.raises(DataError, match=r"images have shape \(4, 4\); expected \(N, 1, 4, 4\)"):
        predict_all(engine, np.zeros((4, 4), np.float32), batch_size=2)


def test_a_wrong_type_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match=r"images are uint8; expected float32 in \[0, 1\]"):
        engine.predict(np.zeros((2, *SHAPE), np.uint8))  # type: ignore[arg-type]


def test_a_batch_over_the_largest_is_refused_and_predict_all_splits_it(engine: Engine) -> None:
    if not (most := engine.info.max_batch):
        pytest.skip("takes any batch")
    with pytest.raises(DataError, match=f"a batch of {most + 1} is over the engine's {most}"):
        engine.predict(images(most + 1))
    assert predict_all(engine, images(2 * most + 1), batch_size=256).shape == (2 * most + 1, 3)


def test_the_products_of_an_int8_graph_run_in_integers_and_others_do_not(engine: Engine) -> None:
    if not isinstance(engine, ShowsKernels):
        pytest.skip("cannot say")
    assert [kernel.integer for kernel in engine.kernels()] == [engine.info.precision == "int8"]


def test_closing_twice_is_harmless(engine: Engine) -> None:
    engine.close()
    engine.close()


@pytest.mark.parametrize("backend", sorted({row[0] for row in ROWS}))
def test_an_unknown_device_is_refused(backend: str, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row[0] == backend)
    open_row(*row, tmp_path).close()
    path = next(tmp_path.glob("model*"))
    with pytest.raises(ConfigError, match=r"knows the devices .*, not 'tpu'"):
        open_engine(path, backend=backend, device="tpu")


@pytest.mark.parametrize("backend", sorted({row[0] for row in ROWS}))
def test_a_precision_that_cannot_be_had_is_refused(backend: str, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row[0] == backend)
    open_row(*row, tmp_path).close()
    path = next(tmp_path.glob("model*"))
    with pytest.raises((ConfigError, UnavailableError), match="int4"):
        open_engine(path, backend=backend, options=EngineOptions(precision="int4"))


@pytest.mark.parametrize("backend", sorted({row[0] for row in ROWS}))
def test_a_file_that_is_no_model_is_an_error_in_one_line(backend: str, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row[0] == backend)
    open_row(*row, tmp_path).close()
    path = next(tmp_path.glob("model*"))
    for content in (b"", b"not a model", path.read_bytes()[:40]):
        path.write_bytes(content)
        with pytest.raises(ToolkitError, match=path.name) as caught:
            open_engine(path, backend=backend)
        assert "\n" not in str(caught.value)
