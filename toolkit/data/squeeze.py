"""Squeezing training images: cheap filters that take noise out and leave what is drawn (Liu et al., 2023, arXiv:2301.13838)."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from edgeproof.data.arrays import to_float
from edgeproof.data.base import LabelledImages
from edgeproof.errors import ConfigError, DataError, nearest
from edgeproof.system.untrusted import read_index
from edgeproof.types import Array, Images

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def squeeze(data: LabelledImages, *, how: str) -> LabelledImages:
    """Return the images filtered one by one, at 8 bits a channel.

    Args:
        data: Images of 1 or 3 channels.
        how: "grey" (luma in every channel), "jpeg=QUALITY" (1 to 95), "bits=COUNT" (1 to 7 a channel) or "blur=RADIUS"
            (Gaussian, in pixels, to 16).

    Raises:
        ConfigError: For another filter, or a value out of its range.
        DataError: When the filter cannot take the images' channels.
    """
    word, _, value = how.partition("=")
    if word not in _FILTERS:
        raise ConfigError(
            f"squeeze = {how!r} is not known{nearest(word, _FILTERS)}; expected one such as jpeg=10 or grey"
        )
    filter_, low, high = _FILTERS[word]
    strength = read_index(value)
    if not (strength is not None and low <= strength <= high) and (value or high):
        raise ConfigError(f"squeeze = {how!r}; expected {f'{word}=K with K from {low} to {high}' if high else word}")
    channels = data.input_shape[0]
    if channels not in ((3,) if word == "grey" else (1, 3)):
        raise DataError(
            f"{data.name} has images of {channels} channels; {word} takes {'3' if word == 'grey' else '1 or 3'}"
        )
    return replace(data, images=filter_(data.images, strength or 0))


def _grey(images: Images, _: int) -> Images:
    luma = np.einsum("nchw,c->nhw", images, _LUMA)[:, None]
    return np.repeat(luma, 3, axis=1)


def _bits(images: Images, count: int) -> Images:
    steps = np.float32(2**count - 1)
    levels: Images = np.rint(images * steps) / steps
    return levels


def _jpeg(images: Images, quality: int) -> Images:
    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(images, compress)


def _blur(images: Images, radius: int) -> Images:
    return _by_pillow(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def _by_pillow(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    levels = np.rint(images * np.float32(255)).astype(np.uint8)
    changed = np.stack([_channels_first(np.asarray(change(_picture(image)))) for image in levels])
    return to_float(changed, what="squeezed images")


def _picture(levels: Array) -> Image.Image:
    return Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))


def _channels_first(levels: Array) -> Array:
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


#: Name to the filter and the smallest and largest value that it takes; 0 and 0 where it takes none.
_FILTERS: Mapping[str, tuple[Callable[[Images, int], Images], int, int]] = {
    "grey": (_grey, 0, 0),
    "jpeg": (_jpeg, 1, 95),
    "bits": (_bits, 1, 7),
    "blur": (_blur, 1, 16),
}
