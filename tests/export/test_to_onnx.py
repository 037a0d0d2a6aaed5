from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeproof.errors import ModelError
from edgeproof.export.base import ExportError
from edgeproof.export.graph import merge_metadata
from edgeproof.export.to_onnx import export_onnx
from edgeproof.onnx_files import load_model, opset_of
from tests.closeness import assert_near
from tests.export.conftest import Toy
from tests.export.runtime import run_graph
from tests.export.toys import SHAPE, build_toy, read_metadata, smooth_images, torch_logits


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_graph_gives_torchs_logits_at_every_batch_size(toy: Toy, count: int) -> None:
    images = smooth_images(count)
    expected = torch_logits(toy.module, images)
    assert_near(run_graph(toy.graph, images), expected)


def test_the_older_exporter_gives_torchs_logits_too(resnet: Toy) -> None:
    images = smooth_images(5)
    assert_near(run_graph(resnet.graph, images), torch_logits(resnet.module, images))


def test_a_graph_is_one_file_of_the_asked_opset_with_named_ends_and_a_free_batch(toy: Toy) -> None:
    model = load_model(toy.graph)
    assert [path.name for path in toy.graph.parent.iterdir()] == ["model.onnx"]
    assert opset_of(model) == 20
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    dims = images.type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    assert tuple(dim.dim_value for dim in dims[1:]) == SHAPE


def test_batch_norm_is_folded_away(toy: Toy) -> None:
    assert "BatchNormalization" not in {node.op_type for node in load_model(toy.graph).graph.node}


def test_metadata_is_prefixed_and_merged_with_what_is_there(toy: Toy) -> None:
    model = load_model(toy.graph)
    model.metadata_props.add(key="author", value="someone")
    merge_metadata(model, {"precision": "other"})
    assert {p.key: p.value for p in model.metadata_props} == {
        "author": "someone", "edgeproof.classes": '["a", "b"]', "edgeproof.precision": "other",
    }  # fmt: skip
    assert read_metadata(model) == {"classes": '["a", "b"]', "precision": "other"}


def test_no_source_line_or_path_is_left_in_the_file(toy: Toy) -> None:
    raw = toy.graph.read_bytes()
    assert b"stack_trace" not in raw
    assert str(Path(__file__).parent).encode() not in raw


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_onnx(build_toy("vgg"), tmp_path / name, input_shape=SHAPE, exporter="torchscript")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_exporting_says_nothing(
    exporter: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    export_onnx(build_toy("vgg"), tmp_path / "m.onnx", input_shape=SHAPE, exporter=exporter)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)


def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"training mode.*call \.eval\(\)"):
        export_onnx(build_toy("vgg").train(), tmp_path / "m.onnx", input_shape=SHAPE)


class Undecided(nn.Module):
    """Branches on a value, which a trace cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_model_that_cannot_be_traced_is_one_line_that_names_the_other_exporter(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"dynamo exporter cannot trace the model.*try exporter=torchscript"
    ) as caught:
        export_onnx(Undecided().eval(), tmp_path / "m.onnx", input_shape=SHAPE)
    assert "\n" not in str(caught.value)


def test_an_opset_that_the_dynamo_exporter_does_not_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="writes opset 18 or later, not 17; ask for one, or for exporter=torchscript"):
        export_onnx(build_toy("vgg"), tmp_path / "m.onnx", input_shape=SHAPE, opset=17)


def test_an_unknown_opset_is_one_line_and_no_graph_on_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ExportError, match=r"torchscript exporter cannot trace the model .*opset version 99 is not supported"
    ):
        export_onnx(build_toy("vgg"), tmp_path / "m.onnx", input_shape=SHAPE, opset=99, exporter="torchscript")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"not a graph at all", onnx.ModelProto().SerializeToString()])
def test_a_file_that_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx is not a readable ONNX file"):
        load_model(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no file .*none\.onnx"):
        load_model(tmp_path / "none.onnx")


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    export_onnx(build_toy("vgg"), tmp_path / "m.onnx", input_shape=SHAPE, exporter="torchscript")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_frozen_transformer_layers_are_exported_and_the_fast_path_is_left_as_it_was(
    tmp_path: Path, exporter: Literal["dynamo", "torchscript"], norm_first: bool
) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=norm_first)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.layer(x.flatten(2).transpose(1, 2))[:, 0])
            return logits

    torch.manual_seed(0)
    module = Tokens().eval().requires_grad_(False)
    before = torch.backends.mha.get_fastpath_enabled()
    export_onnx(module, tmp_path / "t.onnx", input_shape=(4, 3, 3), exporter=exporter)
    assert torch.backends.mha.get_fastpath_enabled() == before
    images = np.random.default_rng(0).random((5, 4, 3, 3), dtype=np.float32)
    assert_near(run_graph(tmp_path / "t.onnx", images), torch_logits(module, images))
