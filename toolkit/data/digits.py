"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.data.sampling import stratified_sample
from edgeproof.plugins.registry import register
from edgeproof.system.optional import require
from edgeproof.types import Array

_SIDE = 32
_TEST_IMAGES = 540
_LEVELS = 16  # the images hold 0..16


@register("digits")
def digits() -> Dataset:
    """Handwritten digits that come with scikit-learn, 1,257 + 540, 8x8 enlarged to 1x32x32 (Alpaydin and Kaynak, 1998).

    The split is fixed and stratified; `index` is the position among scikit-learn's 1,797 images.

    Raises:
        UnavailableError: When scikit-learn is not installed.
    """
    source = require("sklearn.datasets", extra="data", purpose="load the data set 'digits'").load_digits()
    images = np.stack([_enlarge(image) for image in source.images])[:, None]
    classes = tuple(str(digit) for digit in range(10))
    whole = LabelledImages.from_arrays(images, source.target, classes=classes, name="digits", split="train")
    test = np.sort(stratified_sample(whole.labels, _TEST_IMAGES, seed=0))
    train = np.setdiff1d(whole.index, test)
    return Dataset(whole.take(test, split="test"), lambda: whole.take(train))


def _enlarge(image: Array) -> Array:
    """Scale an image from 8x8 and 0..16 to 32x32 uint8."""
    grey = Image.fromarray((image * (255 / _LEVELS)).astype(np.float32))
    enlarged = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    levels: Array = np.rint(enlarged).astype(np.uint8)
    return levels
