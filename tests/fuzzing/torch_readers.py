"""The readers that need torch, onnx or ONNX Runtime."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzzing.mutation import inside_zip, mutate_bytes, mutate_safetensors
from tests.fuzzing.protobuf import mutate_protobuf
from tests.fuzzing.readers import CLASSES, file_reader, onnx_seeds
from tests.fuzzing.running import Reader


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    from edgeproof.models.base import build_classifier, save_classifier

    model = build_classifier("small-cnn-half", input_shape=(1, 16, 16), classes=CLASSES, mean=(0.5,), std=(0.5,))
    save_classifier(folder / "m.safetensors", model)
    return [(folder / "m.safetensors").read_bytes()]


def _generator_seeds(folder: Path) -> list[bytes]:
    from edgeproof.poisoning.networks import build_generator, save_generator

    save_generator(folder / "g.safetensors", build_generator("encoder-decoder", channels=1, eps=0.1, width=2))
    return [(folder / "g.safetensors").read_bytes()]


def _saved(**tensors: Any) -> Callable[[Path], Sequence[bytes]]:
    def seeds(_: Path) -> list[bytes]:
        import torch

        buffer = io.BytesIO()
        torch.save({name: torch.as_tensor(value) for name, value in tensors.items()}, buffer)
        return [buffer.getvalue()]

    return seeds


def _load_classifier(path: Path) -> object:
    from edgeproof.models.base import load_classifier

    return load_classifier(path)


def _load_generator(path: Path) -> object:
    from edgeproof.poisoning.networks import load_generator

    return load_generator(path, eps=0.1)


def _read_weights(path: Path) -> object:
    from edgeproof.models.weights import read_weights

    return read_weights(path)


def _foreign(path: Path) -> object:
    from edgeproof.data.foreign import load_foreign_set

    return load_foreign_set(path)


def _import(path: Path) -> object:
    from edgeproof.models.imported import import_onnx

    return import_onnx(path)


def _inspect(path: Path) -> object:
    from edgeproof.evaluation.weights import inspect_weights

    return inspect_weights(path)


def _convert(path: Path) -> object:
    """Bring a graph of pixels from 0 to 255 to ours, as `export --from --range 255` does."""
    from edgeproof.deployment.build import as_model_error
    from edgeproof.export.standard import standardize_graph
    from edgeproof.onnx_files import read_onnx

    read_onnx(path)
    with as_model_error():
        return standardize_graph(
            path, path.with_name("ours.onnx"), input_shape=(1, 4, 4), layout="nchw", input_range=255.0
        )


def _run(path: Path) -> None:
    """Open a graph on ONNX Runtime and give it an image, as `eval` does."""
    from edgeproof.engines.base import EngineOptions, open_engine

    with open_engine(path, backend="onnxruntime", options=EngineOptions(threads=1)) as engine:
        engine.predict(np.zeros((1, *engine.info.input_shape), np.float32))


_ADVERSARIES = {"x_adv": np.zeros((3, 1, 2, 2), np.float32), "x": np.ones((3, 1, 2, 2), np.float32), "y": np.arange(3)}
_WEIGHTS = {"conv.weight": np.zeros((2, 1, 3, 3), np.float32), "conv.bias": np.zeros(2, np.float32)}

TORCH_READERS: tuple[Reader, ...] = (
    Reader("checkpoint", _checkpoint_seeds, file_reader("m.safetensors", _load_classifier), mutate_safetensors, needs=("torch",)),
    Reader("generator", _generator_seeds, file_reader("g.safetensors", _load_generator), mutate_safetensors, needs=("torch",)),
    Reader("weights-safetensors", _checkpoint_seeds, file_reader("m.safetensors", _read_weights), mutate_safetensors, needs=("torch",)),
    Reader("weights-torch", _saved(**_WEIGHTS), file_reader("w.pt", _read_weights), inside_zip(mutate_bytes), needs=("torch",)),
    Reader("foreign-torch", _saved(**_ADVERSARIES), file_reader("a.pt", _foreign), inside_zip(mutate_bytes), needs=("torch",)),
    Reader("onnx-import", onnx_seeds, file_reader("m.onnx", _import), mutate_protobuf, needs=("torch", "onnx")),
    Reader("onnx-inspect", onnx_seeds, file_reader("m.onnx", _inspect), mutate_protobuf, needs=("onnx",)),
    Reader("onnx-convert", onnx_seeds, file_reader("m.onnx", _convert), mutate_protobuf, needs=("onnx",)),
    Reader("onnxruntime", onnx_seeds, file_reader("m.onnx", _run), mutate_protobuf, needs=("onnxruntime",)),
)  # fmt: skip
