"""Foreign and own ONNX classifiers as torch modules, against ONNX Runtime and against the networks that they came from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgeproof.models.imported import ImportedClassifier, import_onnx
from tests.closeness import assert_near

ort = pytest.importorskip("onnxruntime")

IMAGE = (3, 16, 16)


class Dense(nn.Module):
    """Batch normalisation in front of convolutions, which no exporter folds away; joins and rounded-up pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.SiLU(), nn.Conv2d(n, 8, 3, padding=1, groups=2)) for n in (8, 16)
        )
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 3, 2, 1, ceil_mode=True)
        for block in self.blocks:
            x = torch.cat([x, block(x)], 1)
        return self.head(F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1).view(x.size(0), -1))


class Transformer(nn.Module):
    """A vision transformer of one block, whose shapes depend on the batch."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, length, width = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.transpose(-2, -1) * (width // 4) ** -0.5).softmax(-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        x = x + self.mlp(self.second(x))
        return self.head(x[:, 0])


class Smooth(nn.Module):
    """A network without kinks, so that gradients of its quantised form can be compared with its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2), nn.Linear(8 * 49, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.two(torch.tanh(self.one(x)))).flatten(1))


def fresh(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = kind()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network.eval().requires_grad_(False)


def export(network: nn.Module, path: Path, *, opset: int, dynamo: bool = False, batch: int | None = None) -> Path:
    """Write a graph with PyTorch's older or newer exporter; with `batch`, fixed to it."""
    free: dict[str, Any] = {"dynamic_shapes": ({0: "batch"},)} if dynamo else {"dynamic_axes": {"images": {0: "batch"}}}
    extra: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(batch or 2, *IMAGE),),
            path,
            input_names=["images"],
            output_names=["logits"],
            opset_version=opset,
            dynamo=dynamo,
            **({} if batch else free),
            **extra,
        )
    return path


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *IMAGE, generator=torch.Generator().manual_seed(1))


def engine_outputs(path: Path, fed: np.ndarray, *, optimize: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {session.get_inputs()[0].name: fed})[0]
    return logits


def gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).square().sum(), x)[0]


def check_against_engine(model: ImportedClassifier, path: Path, *, within: float = 1e-5) -> None:
    x = images()
    assert_near(model(x), engine_outputs(path, model.graph_input.feed(x.numpy())), within=within)


def check_against_network(network: nn.Module, path: Path) -> None:
    model = import_onnx(path)
    assert (model.input_shape, model.num_classes, model.graph_input.layout) == (IMAGE, 10, "nchw")
    check_against_engine(model, path)
    x = images().double()
    assert_near(gradient(model.double(), x), gradient(network.double(), x), within=1e-7)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
@pytest.mark.parametrize("kind", [Dense, Transformer])
def test_older_exporter(kind: Callable[[], nn.Module], opset: int, tmp_path: Path) -> None:
    network = fresh(kind)
    check_against_network(network, export(network, tmp_path / "m.onnx", opset=opset))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 21, 23])
@pytest.mark.parametrize("kind", [Dense, Transformer])
def test_newer_exporter(kind: Callable[[], nn.Module], opset: int, tmp_path: Path) -> None:
    network = fresh(kind)
    check_against_network(network, export(network, tmp_path / "m.onnx", opset=opset, dynamo=True))


def test_graph_of_an_opset_before_11_is_converted(tmp_path: Path) -> None:
    path = export(fresh(Smooth), tmp_path / "m.onnx", opset=9)
    check_against_engine(import_onnx(path), path)


@pytest.mark.parametrize("batch", [1, 3])
def test_graph_of_a_fixed_batch_takes_any_number_of_images(batch: int, tmp_path: Path) -> None:
    network = fresh(Transformer)
    model = import_onnx(export(network, tmp_path / "m.onnx", opset=17, batch=batch))
    assert model.graph_input.batch == batch
    assert_near(model(images()), network(images()).detach())
    assert_near(gradient(model, images()), gradient(network, images()))


def graph_model(
    nodes: list[onnx.NodeProto],
    *,
    shape: tuple[Any, ...],
    stored: dict[str, Any] | None = None,
    kind: int = onnx.TensorProto.FLOAT,
    output: str = "y",
    opset: int = 17,
    **extra: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (stored or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *extra.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **extra)


def saved(model: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) / 3


def test_keras_style_graph_with_nhwc_bytes_and_a_softmax(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        make("Mul", ["nchw", "scale"], ["scaled"]),
        make("Conv", ["scaled", "w", "b"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        make("Clip", ["c", "zero", "six"], ["r"]),
        make("GlobalAveragePool", ["r"], ["p"]),
        make("Squeeze", ["p", "axes"], ["s"]),
        make("MatMul", ["s", "k"], ["m"]),
        make("Add", ["m", "bias"], ["logits"]),
        make("Softmax", ["logits"], ["y"]),
    ]
    stored = {
        "scale": np.float32(1 / 127.5), "w": normal(8, 3, 3, 3), "b": normal(8), "zero": np.float32(0),
        "six": np.float32(6), "axes": np.array([2, 3]), "k": normal(8, 10), "bias": normal(10),
    }  # fmt: skip
    path = saved(graph_model(nodes, shape=("n", 16, 16, 3), stored=stored), tmp_path)
    model = import_onnx(path, layout="nhwc", input_range=255, mean=[127.5, 127.5, 127.5])
    assert model.input_shape == IMAGE
    assert model.probabilities
    expected = engine_outputs(path, model.graph_input.feed(images().numpy()))
    assert_near(model(images()).softmax(1), expected)
    assert model.graph_input.feed(images().numpy()).shape == (5, 16, 16, 3)


def test_flat_network_is_told_the_shape_of_its_images(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    path = saved(graph_model(nodes, shape=("n", 768), stored={"w": normal(10, 768), "b": normal(10)}), tmp_path)
    model = import_onnx(path, layout="flat", input_shape=IMAGE, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    check_against_engine(model, path)
    expected = (images() - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    np.testing.assert_allclose(model.graph_input.feed(images().numpy()), expected.flatten(1), atol=1e-6)


def test_graph_that_takes_bytes_is_given_whole_numbers_and_passes_gradients(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=1),
        helper.make_node("Flatten", ["f"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    proto = graph_model(nodes, shape=("n", *IMAGE), stored={"w": normal(768, 10)}, kind=onnx.TensorProto.UINT8)
    path = saved(proto, tmp_path)
    model = import_onnx(path, input_range=255)
    fed = model.graph_input.feed(images().numpy())
    assert fed.dtype == np.uint8
    assert_near(model(images()), engine_outputs(path, fed))
    given = torch.tensor(normal(768, 10))
    slope = torch.autograd.functional.jacobian(lambda x: model(x)[:, 0].sum(), images(1))
    assert torch.allclose(slope.flatten(), 255 * given[:, 0], rtol=1e-5)


@pytest.mark.parametrize("keep_io", [True, False])
def test_half_precision_graph_is_what_onnx_runtime_computes_and_keeps_its_gradients(
    keep_io: bool, tmp_path: Path
) -> None:
    from onnxconverter_common import float16

    network = fresh(Dense)
    full = import_onnx(export(network, tmp_path / "full.onnx", opset=17))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = float16.convert_float_to_float16(onnx.load(tmp_path / "full.onnx"), keep_io_types=keep_io)
    path = saved(half, tmp_path)
    model = import_onnx(path)
    # Where ONNX Runtime has a kernel for half precision (Concat), it rounds in between; with keep_io=False at both ends.
    check_against_engine(model, path, within=3e-4 if keep_io else 3e-3)
    ours, theirs = gradient(model, images()), gradient(full, images())
    assert ours.dtype == torch.float32
    assert F.cosine_similarity(ours.flatten(1), theirs.flatten(1)).min() > 0.999


def quantized_with_onnxruntime(source: Path, target: Path, **settings: Any) -> Path:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{"images": images(32).numpy()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_static(source, target, Reader(), **settings)
    return target


def quantized_graphs(recipe: str, source: Path, target: Path) -> Path:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic

    if recipe in ("trt", "cpu"):
        from edgeproof.export.int8 import quantize_int8

        quantize_int8(source, target, calibration=[images(32).numpy()], recipe=recipe)  # type: ignore[arg-type]
        return target
    if recipe == "dynamic":
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        return target
    form = QuantFormat.QOperator if recipe == "operators" else QuantFormat.QDQ
    signed = QuantType.QInt8 if recipe == "s8s8" else QuantType.QUInt8
    settings = {"per_channel": recipe != "operators", "activation_type": signed, "weight_type": QuantType.QInt8}
    return quantized_with_onnxruntime(source, target, quant_format=form, **settings)


@pytest.mark.parametrize("recipe", ["trt", "cpu", "s8s8", "u8s8", "operators", "dynamic"])
def test_quantised_graph_is_what_onnx_runtime_computes_and_passes_gradients(recipe: str, tmp_path: Path) -> None:
    network = fresh(Smooth)
    path = quantized_graphs(recipe, export(network, tmp_path / "full.onnx", opset=17), tmp_path / "int8.onnx")
    model = import_onnx(path)
    x = images(64)
    each = range(len(x)) if recipe == "dynamic" else [slice(None)]  # its result depends on the rest of the batch
    real = np.concatenate([engine_outputs(path, x[i].numpy().reshape(-1, *IMAGE), optimize=False) for i in each])
    np.testing.assert_allclose(model(x).numpy(), real, atol=0.02)
    assert (model(x).argmax(1).numpy() != real.argmax(1)).sum() <= 1
    ours, theirs = gradient(model, x), gradient(network, x)
    cosine = F.cosine_similarity(ours.flatten(1), theirs.flatten(1))
    assert cosine.quantile(0.05) > 0.99
    assert cosine.min() > 0.5  # a logit at the end of its range passes no gradient


def test_result_of_a_dynamically_quantised_graph_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    path = quantized_graphs("dynamic", export(fresh(Smooth), tmp_path / "full.onnx", opset=17), tmp_path / "q.onnx")
    model = import_onnx(path)
    alone = torch.cat([model(image[None]) for image in images()])
    assert torch.equal(model(images()), alone)


def test_sign_passes_the_gradient_of_softsign(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sign", ["x"], ["s"]),
        helper.make_node("Flatten", ["s"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    w = normal(768, 10)
    model = import_onnx(saved(graph_model(nodes, shape=("n", *IMAGE), stored={"w": w}), tmp_path), mean=[0.5] * 3)
    x = images(1)
    slope = torch.autograd.functional.jacobian(lambda x: model(x)[:, 0].sum(), x)
    expected = torch.tensor(w[:, 0]) / (1 + (x - 0.5).abs().flatten()) ** 2
    assert torch.allclose(slope.flatten(), expected, rtol=1e-5)
    assert_near(model(x), torch.sign(x - 0.5).flatten(1) @ torch.tensor(w))


def test_shapes_computed_from_the_batch(tmp_path: Path) -> None:
    make = helper.make_node
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Gather", ["shape", "first"], ["n"]),
        make("Range", ["zero", "n", "one"], ["rows"]),  # 0 .. n - 1
        make("Mod", ["rows", "one"], ["zeros"]),
        make("Equal", ["zeros", "zero"], ["yes"]),
        make("Not", ["yes"], ["no"]),
        make("Or", ["yes", "no"], ["either"]),
        make("And", ["either", "yes"], ["all"]),
        make("Where", ["all", "rows", "zeros"], ["chosen"]),
        make("Gather", ["x", "chosen"], ["same"], axis=0),
        make("Unsqueeze", ["n", "axis"], ["n1"]),
        make("Concat", ["n1", "rest"], ["wanted"], axis=0),
        make("ConstantOfShape", ["wanted"], ["halves"], value=helper.make_tensor("v", 1, [1], [0.5])),
        make("Reshape", ["same", "wanted"], ["flat"]),
        make("Mul", ["flat", "halves"], ["y"]),
    ]
    stored = {
        "first": np.int64(0),
        "zero": np.int64(0),
        "one": np.int64(1),
        "axis": np.array([0]),
        "rest": np.array([768]),
    }
    path = saved(graph_model(nodes, shape=("n", *IMAGE), stored=stored), tmp_path)
    check_against_engine(import_onnx(path), path)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Flatten", ["a"], ["b"]), helper.make_node("MatMul", ["b", "w"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Head", ["a", "w"], ["c"], body, opsets)
    nodes = [helper.make_node("Head", ["x", "w"], ["y"], domain="own")]
    proto = graph_model(
        nodes,
        shape=("n", *IMAGE),
        stored={"w": normal(768, 10)},
        functions=[function],
        opsets=[helper.make_opsetid("own", 1)],
    )
    path = saved(proto, tmp_path)
    check_against_engine(import_onnx(path), path)


def test_class_names_are_those_of_the_file_else_numbers(tmp_path: Path) -> None:
    proto = linear()
    assert import_onnx(saved(proto, tmp_path)).classes == tuple("0123456789")
    helper.set_model_props(proto, {"edgeproof.classes": '["a","b","c","d","e","f","g","h","i","j"]'})
    assert import_onnx(saved(proto, tmp_path)).classes == tuple("abcdefghij")


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").stat().st_size >= 768 * 10 * 4
    check_against_engine(import_onnx(path), path)


def linear(**extra: Any) -> onnx.ModelProto:
    """A linear classifier, the smallest graph that is one."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"], name="head"),
    ]
    return graph_model(nodes, shape=("n", *IMAGE), stored={"w": normal(768, 10)}, **extra)


def refused(proto: onnx.ModelProto, tmp_path: Path, match: str, **settings: Any) -> None:
    from edgeproof.errors import ModelError

    path = saved(proto, tmp_path)
    with pytest.raises(ModelError, match=match) as caught:
        import_onnx(path, **settings)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = linear()
    edit(proto)
    return proto


def _second_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("z", 1, [1]))


def _second_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(helper.make_tensor_value_info("flat", 1, None))


def _cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "y"


def _twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].output[0] = "y"


def _detached(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(normal(1, 768), "still"))
    proto.graph.node[1].input[0] = "still"


def _unknown_input(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[1] = "nowhere"


def _huge(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [10**6, 10**6]


def _not_a_number(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((768, 10), np.nan, np.float32), "w"))


def _misfit(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(normal(700, 10), "w"))


def _text(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(["a", "b"]), "w"))


def _operator(kind: str, domain: str = "", **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    def edit(proto: onnx.ModelProto) -> None:
        node = helper.make_node(kind, ["x"], ["seen"], name="odd", domain=domain, **attributes)
        proto.graph.node[0].input[0] = "seen"
        proto.graph.node.append(node)

    return edit


def _bomb(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array([10**5, 10**5, 10**5]), "big"))
    proto.graph.node.append(helper.make_node("ConstantOfShape", ["big"], ["b"], name="bomb"))
    proto.graph.node.append(helper.make_node("ReduceMean", ["b"], ["m"], keepdims=0))
    proto.graph.node.append(helper.make_node("Add", ["x", "m"], ["sum"]))
    proto.graph.node[0].input[0] = "sum"


def _free_size(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def _sequence(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def _classes(proto: onnx.ModelProto) -> None:
    helper.set_model_props(proto, {"edgeproof.classes": '["a", "b"]'})


def _opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def edit(proto: onnx.ModelProto) -> None:
        proto.opset_import[0].version = version

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (_operator("NonZero"), r"NonZero \('odd'\) is not covered: no such operator in the table \(opset 17\)"),
        (_operator("Mish", "my.domain"), r"my\.domain\.Mish \('odd'\) is not covered"),
        (_operator("Elu", slope=1.0), "attribute 'slope'"),
        (_operator("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), r"AveragePool \('odd'\) .*dilations"),
        (_second_input, r"2 inputs \(x, z\); expected one"),
        (
            _second_output,
            r"2 outputs \('y' float32 of unknown shape, 'flat' .*\); name the scores of the classes with --output",
        ),
        (_cycle, "cyclic: .* depends on its own output"),
        (_twice, "makes 'y' twice"),
        (_detached, "'y' does not depend on the input"),
        (_unknown_input, r"MatMul \('head'\) .* input 'nowhere'"),
        (_huge, r"tensor 'w' of shape \[1000000, 1000000\] and type float32 in 30720 bytes"),
        (_not_a_number, "tensor 'w' holds NaN"),
        (_misfit, r"MatMul \('head'\) cannot be computed"),
        (_text, "tensor 'w' holds text"),
        (_bomb, r"ConstantOfShape \('bomb'\) .* over \d+ elements"),
        (_free_size, r"\('n', 3, 'height', 16\), which leaves C, H or W open; .*--input-shape C,H,W"),
        (_sequence, "takes 'x' int64 .*; expected float32, uint8, float16"),
        (_classes, "name 2 classes, and it gives 10 logits"),
        (_opset(99), "opset 99; expected 11 to 24"),
    ],
)
def test_what_cannot_be_imported_is_named(
    edit: Callable[[onnx.ModelProto], object], match: str, tmp_path: Path
) -> None:
    refused(edited(edit), tmp_path, match)


def test_description_that_does_not_fit_the_graph_is_refused(tmp_path: Path) -> None:
    refused(linear(), tmp_path, r"\('n', 3, 16, 16\); expected 2 axes for the layout flat", layout="flat")
    refused(linear(), tmp_path, r"images of shape \(3, 8, 8\) in the layout nchw do not fit", input_shape=(3, 8, 8))
    refused(linear(), tmp_path, "mean has 1 and std 3 numbers; expected 3", mean=[0.5])
    refused(linear(), tmp_path, "expected finite numbers, std above 0", std=[1, 0, 1])


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    from edgeproof.errors import ModelError

    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match="there is no file"):
        import_onnx(path)
    for content in (b"", b"not a graph", linear().SerializeToString()[:-999]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="is not a readable ONNX file"):
            import_onnx(path)


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({"location": "../secret"}, "outside the file's folder or behind a link"),
        ({"location": "/etc/passwd"}, "outside the file's folder or behind a link"),
        ({"location": "link"}, "outside the file's folder or behind a link"),
        ({"location": "missing"}, "which is not there: copy that file too"),
        ({"location": "near", "length": "99999"}, "needs bytes 0 to 99999 of 'near', which has 8"),
        ({"location": "near", "offset": "-4"}, "needs bytes"),
        ({"location": "near", "offset": "x"}, "unreadable external data"),
        ({}, "outside the file's folder"),
    ],
)
def test_weights_elsewhere_are_not_followed(about: dict[str, str], match: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(768 * 40))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "near").write_bytes(bytes(8))
    proto = linear()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in about.items():
        tensor.external_data.add(key=key, value=value)
    refused(proto, folder, match)


def test_logits_must_be_a_row_an_image(tmp_path: Path) -> None:
    refused(
        graph_model([helper.make_node("Relu", ["x"], ["y"])], shape=("n", *IMAGE)),
        tmp_path,
        r"expected logits \(N, K\)",
    )
