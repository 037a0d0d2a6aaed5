from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeproof.export.graph import Wiring
from edgeproof.export.int8 import quantize_int8
from edgeproof.export.qdq_rules import quantized_operators, violations
from edgeproof.onnx_files import load_model
from tests.export.conftest import Toy
from tests.export.toys import smooth_images

Node = onnx.NodeProto


@pytest.fixture(scope="module")
def passing(resnet: Toy, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("rules") / "q.onnx"
    quantize_int8(resnet.graph, path, calibration=[smooth_images(16)])
    return path.read_bytes()


def test_the_trt_recipe_breaks_no_rule(toy: Toy, tmp_path: Path) -> None:
    quantize_int8(toy.graph, tmp_path / "q.onnx", calibration=[smooth_images(16)])
    assert violations(load_model(tmp_path / "q.onnx")) == []


def test_the_cpu_recipe_breaks_the_rules_on_types_zero_points_and_biases(toy: Toy, tmp_path: Path) -> None:
    quantize_int8(toy.graph, tmp_path / "q.onnx", calibration=[smooth_images(16)], recipe="cpu")
    found = violations(load_model(tmp_path / "q.onnx"))
    assert {"type", "zero-point"} <= {violation.rule for violation in found}
    assert {"uint8 instead of int8", "int32 instead of int8"} <= {violation.detail for violation in found}


def first(model: onnx.ModelProto, kind: str, *, after: str | None = None) -> Node:
    wiring = Wiring(model.graph)
    for node in model.graph.node:
        producer = wiring.producer.get(node.input[0])
        if node.op_type == kind and (after is None or (producer is not None and producer.op_type == after)):
            return node
    raise LookupError(kind)


def store(model: onnx.ModelProto, name: str, value: object, dtype: type) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def other_domain(model: onnx.ModelProto) -> None:
    first(model, "QuantizeLinear").domain = "com.microsoft"


def computed_scale(model: onnx.ModelProto) -> None:
    node = first(model, "QuantizeLinear")
    model.graph.node.insert(0, helper.make_node("Identity", [node.input[1]], ["computed"]))
    node.input[1] = "computed"


def zero_scale(model: onnx.ModelProto) -> None:
    scale = store(model, "nought", 0.0, np.float32)
    first(model, "QuantizeLinear").input[1] = first(model, "DequantizeLinear", after="QuantizeLinear").input[1] = scale


def shifted(model: onnx.ModelProto) -> None:
    zero = store(model, "three", 3, np.int8)
    first(model, "QuantizeLinear").input[2] = first(model, "DequantizeLinear", after="QuantizeLinear").input[2] = zero


def unsigned(model: onnx.ModelProto) -> None:
    zero = store(model, "zero", 0, np.uint8)
    first(model, "QuantizeLinear").input[2] = first(model, "DequantizeLinear", after="QuantizeLinear").input[2] = zero


def channel_scales(model: onnx.ModelProto) -> None:
    for node in (first(model, "QuantizeLinear"), first(model, "DequantizeLinear", after="QuantizeLinear")):
        node.input[1] = store(model, f"{node.name}_s", [0.1, 0.2, 0.3], np.float32)
        node.input[2] = store(model, f"{node.name}_z", [0, 0, 0], np.int8)


def wrong_axis(model: onnx.ModelProto) -> None:
    weights = Wiring(model.graph).producer[first(model, "Conv").input[1]]
    weights.attribute[0].i = 1


def other_pair_scale(model: onnx.ModelProto) -> None:
    first(model, "DequantizeLinear", after="QuantizeLinear").input[1] = store(model, "other", 0.5, np.float32)


def read_as_integers(model: onnx.ModelProto) -> None:
    quantize = first(model, "QuantizeLinear")
    model.graph.node.append(helper.make_node("Cast", [quantize.output[0]], ["integers"], to=onnx.TensorProto.FLOAT))


def float_weights(model: onnx.ModelProto) -> None:
    node = first(model, "Conv")
    node.input[1] = store(model, "floats", np.zeros((8, 3, 3, 3)), np.float32)


def float_data(model: onnx.ModelProto) -> None:
    node = first(model, "Conv")
    wiring = Wiring(model.graph)
    node.input[0] = wiring.producer[wiring.producer[node.input[0]].input[0]].input[0]


def insert_pair(model: onnx.ModelProto, reader: Node, position: int) -> None:
    source = reader.input[position]
    scale, zero = store(model, f"{source}_s", 0.1, np.float32), store(model, f"{source}_z", 0, np.int8)
    nodes = list(model.graph.node)
    place = nodes.index(reader)
    reader.input[position] = f"{source}_real"
    model.graph.node.insert(place, helper.make_node("DequantizeLinear", ["q_new", scale, zero], [f"{source}_real"]))
    model.graph.node.insert(place, helper.make_node("QuantizeLinear", [source, scale, zero], ["q_new"], name="new"))


def pair_before_relu(model: onnx.ModelProto) -> None:
    insert_pair(model, first(model, "Relu", after="Conv"), 0)


def pair_before_add(model: onnx.ModelProto) -> None:
    insert_pair(model, first(model, "Add", after="Conv"), 0)


BREACHES: list[tuple[str, Callable[[onnx.ModelProto], None]]] = [
    ("domain", other_domain), ("constant-scale", computed_scale), ("constant-scale", zero_scale), ("zero-point", shifted),
    ("type", unsigned), ("activation-per-tensor", channel_scales), ("channel-axis", wrong_axis), ("pair", other_pair_scale),
    ("pair", read_as_integers), ("both-inputs", float_weights), ("both-inputs", float_data),
    ("fusable", pair_before_relu), ("fusable", pair_before_add),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=[breach.__name__ for _, breach in BREACHES])
def test_a_breach_is_found_and_named(passing: bytes, rule: str, breach: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.ModelProto.FromString(passing)
    assert violations(model) == []
    breach(model)
    found = violations(model)
    assert rule in {violation.rule for violation in found}
    assert all(str(violation).startswith(violation.rule) for violation in found)


def test_operators_in_float_are_counted_and_named(passing: bytes) -> None:
    model = onnx.ModelProto.FromString(passing)
    first(model, "Conv").name = "stem"
    before, total, _ = quantized_operators(model)
    float_weights(model)
    after, _, others = quantized_operators(model)
    assert before == total
    assert after["Conv"] == before["Conv"] - 1
    assert others == ("stem",)
