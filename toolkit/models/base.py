"""The classifier: normalisation plus a network, built by name, kept as safetensors, never as a pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeproof import __version__
from edgeproof.config import Strict
from edgeproof.data.source import MAX_CLASSES, MAX_PIXELS
from edgeproof.errors import ConfigError, ModelError, UnavailableError
from edgeproof.models.factory import load_factory
from edgeproof.plugins.registry import find
from edgeproof.plugins.trusted import check_named, is_factory
from edgeproof.runs import atomic

_METADATA = "edgeproof"  # one key: safetensors writes several in random order, and equal models shall give equal bytes
_MAX_NUMBERS = 2**28  # of one image that a checkpoint may ask for
_DENSE = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


class Classifier(nn.Module):
    """A network behind its own normalisation: images (N, C, H, W) in [0, 1] to logits (N, K).

    Attributes:
        network: Takes normalised images.
        name: What `build_classifier` made it from: a registry name, `timm:NAME` or `module:factory`.
        input_shape: (C, H, W).
        classes: The name of each class.
        num_classes: K.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        input_shape: tuple[int, int, int],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.input_shape = input_shape
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) for images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


class CheckpointHeader(Strict):
    """What a checkpoint says of itself, as JSON in the metadata of the safetensors file."""

    name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    edgeproof: str


def torch_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        ConfigError: When it is no device name.
        UnavailableError: When the device is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not known; expected cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(
            f"device {name!r} is not there: this torch ({torch.__version__}) sees {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device


def build_classifier(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> Classifier:
    """Build a classifier with fresh weights from torch's default generator.

    Args:
        name: A name that `list models` shows, `timm:NAME`, or `module:factory` of the user's own code.
        input_shape: (C, H, W).
        classes: The name of each class.
        mean: What is subtracted from each channel, in [0, 1] pixel units.
        std: What each channel is then divided by.

    Raises:
        ConfigError: For an unknown name.
        ModelError: When the network cannot take these images or classes, or the normalisation does not fit them.
    """
    check_normalization(mean, std, channels=input_shape[0])
    if len(classes) < 2:
        raise ModelError(f"{name}: {len(classes)} classes; expected at least two")
    network = _build_network(name, input_shape=input_shape, num_classes=len(classes))
    model = Classifier(network, name=name, input_shape=input_shape, classes=classes, mean=mean, std=std)
    check_logits(model)
    return model


def check_normalization(mean: Sequence[float], std: Sequence[float], *, channels: int) -> None:
    """Refuse a normalisation that does not fit the images.

    Raises:
        ModelError: When there is not one number a channel, one is not finite or a `std` is not positive.
    """
    if len(mean) != channels or len(std) != channels:
        raise ModelError(f"mean has {len(mean)} and std {len(std)} numbers; expected {channels}, one a channel")
    if not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise ModelError(f"mean = {list(mean)}, std = {list(std)}: expected finite numbers, std above 0")


def save_classifier(path: Path, model: Classifier) -> None:
    """Write a checkpoint atomically: the network's tensors, and the rest in the metadata.

    Raises:
        ModelError: When a weight is NaN or infinite.
    """
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in model.network.state_dict().items()}
    _check_finite(weights, source=f"{model.name}: not saved")
    header = CheckpointHeader(
        name=model.name,
        input_shape=model.input_shape,
        classes=model.classes,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        edgeproof=__version__,
    )
    with atomic(path) as temporary:
        save_file(weights, temporary, metadata={_METADATA: header.model_dump_json()})


def load_classifier(path: Path, *, device: str = "cpu") -> Classifier:
    """Read a checkpoint: in eval mode, weights checked and without gradients.

    Raises:
        ModelError: When the file is missing, truncated, not ours, holds other shapes than its network or NaN, or names a factory
            that the user has not named.
        UnavailableError: When the device is not there.
    """
    where = torch_device(device)
    header, weights = _read_checkpoint(path)
    check_named(header.name, source=path)
    with torch.random.fork_rng(devices=[]):  # the fresh weights are overwritten; the caller's draws stay as they were
        _check_header(header, weights, source=path)
        model = build_classifier(
            header.name, input_shape=header.input_shape, classes=header.classes, mean=header.mean, std=header.std
        )
    load_weights(model.network, weights, source=str(path))
    return model.eval().requires_grad_(False).to(where)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Copy weights into a network.

    Raises:
        ModelError: As `check_weights`.
    """
    check_weights(network, weights, source=source)
    network.load_state_dict(dict(weights))


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Check that each weight of a network is there, fits and is finite.

    Raises:
        ModelError: Otherwise, or when one is sparse, quantised, without numbers or of an unusual type; the first misfit is named.
    """
    wanted = network.state_dict()
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if missing or unknown:
        odd = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r} too many"
        raise ModelError(
            f"{source} {odd} ({len(missing)} weights missing, {len(unknown)} unknown); is it from another network?"
        )
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise ModelError(
                f"{source}: {key} has shape {tuple(value.shape)}; the network expects {tuple(wanted[key].shape)}"
            )
    _check_finite(weights, source=source)


def _check_header(header: CheckpointHeader, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Refuse a header that asks for more than the file holds, before memory is taken for it."""
    _, height, width = header.input_shape
    numbers, pixels = math.prod(header.input_shape), height * width
    if min(header.input_shape) < 1 or numbers > _MAX_NUMBERS or pixels > MAX_PIXELS:
        raise ModelError(
            f"{source} takes images of shape {header.input_shape}; expected at most {_MAX_NUMBERS} numbers and {MAX_PIXELS} pixels"
        )
    if len(header.classes) > MAX_CLASSES:
        raise ModelError(f"{source} has {len(header.classes)} classes; expected at most {MAX_CLASSES}")
    kind = header.name.partition(":")[0]
    if len(header.classes) < 2 or is_factory(header.name):
        return
    entry = find("model", kind)
    if entry.options.get("family") or not entry.own:
        return  # code that is not ours may compute with numbers while it builds, which "meta" has none of
    with torch.device("meta"):
        network = _build_network(header.name, input_shape=header.input_shape, num_classes=len(header.classes))
    check_weights(network, weights, source=str(source))


def _build_network(name: str, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    kind, colon, rest = name.partition(":")
    if is_factory(name):
        return load_factory(name, input_shape=input_shape, num_classes=num_classes)
    entry = find("model", kind)
    smallest = int(entry.options.get("min_size", 1))
    if input_shape[0] < 1 or min(input_shape[1:]) < smallest:
        raise ModelError(f"{name} takes images of at least {smallest} x {smallest} pixels; these are {input_shape}")
    if bool(colon) != bool(entry.options.get("family")):
        raise ConfigError(f"model {name!r}: expected {kind}{':NAME' if entry.options.get('family') else ''}")
    arguments = (rest,) if colon else ()
    network = entry.load()(*arguments, input_shape=input_shape, num_classes=num_classes)
    if not isinstance(network, nn.Module):
        raise ModelError(f"model {name!r} returned a {type(network).__name__}; expected an nn.Module")
    return network


def check_logits(model: Classifier) -> None:
    """Run one black image, so that a misfit is told here and not in the middle of a stage.

    Raises:
        ModelError: When the network cannot take the images, or gives another shape than logits of the classes.
    """
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *model.input_shape, device=model.mean.device))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{model.name} cannot take images of shape {model.input_shape}: {reason}") from error
    model.train(training)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, model.num_classes):
        raise ModelError(f"{model.name} gives {shape} for one image; expected logits (1, {model.num_classes})")


def _read_checkpoint(path: Path) -> tuple[CheckpointHeader, dict[str, Tensor]]:
    if not path.is_file():
        raise ModelError(f"no checkpoint at {path}; expected the model.safetensors of a train run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); is it truncated? train again") from error
    if _METADATA not in metadata:
        raise ModelError(f"{path} has no {_METADATA!r} metadata: not a checkpoint of this toolkit; use `import`")
    try:
        header = CheckpointHeader.model_validate_json(metadata[_METADATA])
    except ValidationError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: its {_METADATA!r} metadata cannot be read ({reason})") from error
    return header, weights


def _check_finite(weights: Mapping[str, Tensor], *, source: str) -> None:
    for key, value in weights.items():
        if value.layout != torch.strided or value.is_meta or value.dtype not in _DENSE:
            kind = "without numbers" if value.is_meta else f"{value.layout} of {value.dtype}"
            raise ModelError(f"{source}: {key} is {kind}; expected dense floats or integers: convert it")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{source}: {key} holds NaN or infinite weights; train again, with a lower lr")
