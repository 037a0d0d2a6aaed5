"""Any network of timm, where timm is installed; it is no dependency of this toolkit."""

from __future__ import annotations

import importlib

from torch import nn

from edgeproof.errors import ModelError, UnavailableError, nearest
from edgeproof.plugins.registry import register


@register("timm", family=True)
def timm_model(model: str, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A network of timm by its name there, `timm:resnet18` for instance, with fresh weights.

    Args:
        model: The name in timm.
        input_shape: (C, H, W).
        num_classes: K.

    Raises:
        UnavailableError: When timm is not installed, or cannot be imported beside this torch.
        ModelError: For a name that timm does not know.
    """
    try:
        timm = importlib.import_module("timm")
    except (
        ImportError,
        RuntimeError,
    ) as error:  # timm needs torchvision, which may not fit the torch that is installed
        raise UnavailableError(
            f"timm is needed for the model 'timm:{model}' and cannot be imported ({error}); install it with: pip install timm"
        ) from error
    if not timm.is_model(model):
        raise ModelError(f"timm {timm.__version__} has no model {model!r}{nearest(model, timm.list_models())}")
    settings = timm.get_pretrained_cfg(model)
    size = {"img_size": input_shape[1:]} if settings is not None and settings.fixed_input_size else {}
    network: nn.Module = timm.create_model(
        model, pretrained=False, num_classes=num_classes, in_chans=input_shape[0], **size
    )
    return network
