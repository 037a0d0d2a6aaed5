"""A network that is already in memory, as a classifier: copied, so that what is measured stays what was given."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeproof.errors import ModelError
from edgeproof.models.base import Classifier, check_logits, check_normalization


class Function(nn.Module):
    """A function on tensors as a network without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x)


def copy_network(network: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy of a network in eval mode, without gradients of its weights; a plain function is held as it is.

    Raises:
        ModelError: For a network that cannot be copied, or whose weights are not finite.
    """
    if not isinstance(network, nn.Module):
        return Function(network)
    try:
        copied = copy.deepcopy(network)
    except Exception as error:  # a copy runs the network's own code
        raise ModelError(
            f"{type(network).__name__} cannot be copied ({type(error).__name__}); wrap a function that calls it: "
            "wrap(lambda x: network(x), ...)"
        ) from error
    for name, weight in copied.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{type(network).__name__}: {name} holds NaN or infinite weights; expected finite ones")
    return copied.eval().requires_grad_(False)


def hash_network(network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> str:
    """Return the SHA-256 of a network: its layers, the source of those that are not torch's, its weights, its normalisation."""
    digest = hashlib.sha256(repr((str(network), tuple(mean), tuple(std))).encode())
    for kind in sorted({type(module) for module in network.modules()}, key=lambda kind: kind.__qualname__):
        if not kind.__module__.startswith("torch."):
            try:
                digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):  # typed at a prompt: its name has to do
                digest.update(kind.__qualname__.encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(repr((name, str(weight.dtype), tuple(weight.shape))).encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def as_classifier(
    network: nn.Module,
    *,
    name: str,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> Classifier:
    """Put a network behind its normalisation, and try it on one image.

    Args:
        network: From `copy_network`.
        name: For people.
        input_shape: (C, H, W).
        classes: The name of each class.
        mean: What is subtracted from each channel, in [0, 1] pixel units; () is 0, one number stands for every channel.
        std: What each channel is then divided by; () is 1.

    Raises:
        ModelError: When the network cannot take these images or classes, or the normalisation does not fit them.
    """
    channels = input_shape[0]
    mean, std = per_channel(mean or (0.0,), channels), per_channel(std or (1.0,), channels)
    check_normalization(mean, std, channels=channels)
    device = next((weight.device for weight in network.state_dict().values()), torch.device("cpu"))
    model = Classifier(network, name=name, input_shape=input_shape, classes=classes, mean=mean, std=std).to(device)
    check_logits(model)
    return model.eval().requires_grad_(False)


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """Return a number for each channel, of which a single one stands for all."""
    return list(values) * channels if len(values) == 1 else list(values)
