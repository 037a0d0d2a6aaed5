"""The TensorRT engine's own logic, on a double named as such; `make gpu-check` runs it on TensorRT itself."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.engines import trt
from edgeproof.engines.base import Engine, EngineOptions, open_engine, predict_all
from edgeproof.errors import ConfigError, DataError, ModelError, UnavailableError
from tests.closeness import assert_near
from tests.engines import pretended_tensorrt
from tests.engines.pretended_tensorrt import HostMemory

WEIGHTS = np.random.default_rng(0).normal(size=(3, 1, 4, 4)).astype(np.float32)
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", pretended_tensorrt)
    monkeypatch.setattr(trt, "open_cuda_memory", lambda device: HostMemory())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_plan(*, about: dict[str, Any] | None = None, described: bool = True, **plan: Any) -> Path:
        path = tmp_path / "model.int8.plan"
        path.write_text(json.dumps({"weights": WEIGHTS.tolist(), **plan}))
        record = {
            "tensorrt": "10.13.3", "compute_capability": "8.7", "gpu": "Orin", "source_sha256": "ab",
            "plan_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "metadata": {"edgeproof.precision": "int8", "edgeproof.classes": '["a", "b", "c"]'},
        }  # fmt: skip
        if described:
            path.with_name(path.name + ".json").write_text(json.dumps({**record, **(about or {})}))
        return path

    return write_plan


def opened(path: Path, **options: Any) -> Engine:
    return open_engine(path, device="cuda", options=EngineOptions(**options))


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).random((count, 1, 4, 4), np.float32)


def expected(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x.reshape(len(x), 16) @ WEIGHTS.reshape(3, -1).T


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_every_batch_of_the_profile_gives_the_plans_logits(write: Write, count: int) -> None:
    found = opened(write()).predict(images(count))
    assert (found.shape, found.dtype) == ((count, 3), np.float32)
    assert_near(found, expected(images(count)))


def test_an_odd_tail_and_a_smaller_batch_after_a_larger_one_are_right(write: Write) -> None:
    engine = opened(write())
    assert_near(predict_all(engine, images(21), batch_size=64), expected(images(21)))
    assert_near(engine.predict(images(2)), expected(images(2)))


def test_batches_under_the_profile_are_padded_and_it_is_said(write: Write) -> None:
    engine = opened(write(profile=(4, 4, 8)))
    assert_near(engine.predict(images(1)), expected(images(1)))
    assert "batches under 4 are padded" in engine.info.note


def test_a_plan_of_a_fixed_batch_takes_fewer_images(write: Write) -> None:
    engine = opened(write(batch=8, profile=(8, 8, 8)))
    assert engine.info.max_batch == 8
    assert_near(predict_all(engine, images(11), batch_size=64), expected(images(11)))


def test_a_batch_over_the_profile_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="a batch of 9 is over the engine's 8; use --batch-size"):
        opened(write()).predict(images(9))


def test_logits_are_a_fresh_array(write: Write) -> None:
    engine = opened(write())
    first = engine.predict(images(2))
    kept = first.copy()
    engine.predict(1 - images(2))
    np.testing.assert_array_equal(first, kept)


def test_info_is_what_the_plan_and_its_side_car_say(write: Write) -> None:
    info = opened(write()).info
    assert (info.backend, info.precision, info.device, info.provider) == ("tensorrt", "int8", "cuda:0", "Pretended GPU")
    assert (info.classes, info.num_classes, info.max_batch) == (("a", "b", "c"), 3, 8)
    assert info.versions == {"tensorrt": "10.13.3"}
    assert info.options["source_sha256"] == "ab"


def test_a_plan_without_a_side_car_runs_and_says_that_its_precision_is_unknown(write: Write) -> None:
    info = opened(write(described=False)).info
    assert info.precision == "unknown"
    assert "expected model.int8.plan.json" in info.note


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        (
            {"tensorrt": "11.4.0"},
            UnavailableError,
            "was built with TensorRT 11.4.0 and this is 10.13.3; build it on this",
        ),
        (
            {"compute_capability": "8.6", "gpu": "RTX 3090"},
            UnavailableError,
            r"was built for RTX 3090 \(compute capability 8.6\) and this is Pretended GPU \(8.7\); build it on this",
        ),
        ({"plan_sha256": "0" * 64}, ModelError, "is not the plan that model.int8.plan.json describes"),
    ],
)
def test_a_plan_from_elsewhere_is_refused_in_one_sentence(
    write: Write, about: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        opened(write(about=about))
    assert "\n" not in str(caught.value)


def test_a_truncated_plan_is_refused_with_tensorrts_own_reason_in_one_line(write: Write) -> None:
    path = write(described=False)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelError, match=r"cannot open .*Error Code 1: Serialization; build the plan again") as caught:
        opened(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"names": ["images", "mask", "logits"]}, r"has the inputs \['images', 'mask'\]"),
        ({"dtype": "HALF"}, r"takes HALF \[-1, 1, 4, 4\] and gives HALF .*expected FLOAT"),
    ],
)
def test_a_plan_that_is_no_image_classifier_is_explained(write: Write, plan: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        opened(write(**plan))


def test_a_failure_while_running_says_what_tensorrt_logged(write: Write) -> None:
    with pytest.raises(ModelError, match="failed on a batch of 2 images: Error Code 2: out of memory"):
        opened(write(fails=True)).predict(images(2))


def test_the_processor_and_another_precision_are_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match="tensorrt knows the devices cuda, not 'cpu'"):
        open_engine(write())
    with pytest.raises(ConfigError, match="was built as int8; 'fp16' cannot be asked of it"):
        opened(write(), precision="fp16")


def test_closing_twice_is_harmless_and_a_closed_engine_says_so(write: Write) -> None:
    engine = opened(write())
    engine.close()
    engine.close()
    with pytest.raises(ModelError, match="has been closed"):
        engine.predict(images(1))
