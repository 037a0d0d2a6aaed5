"""Filters on training images."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgeproof.data.squeeze import squeeze
from edgeproof.errors import ConfigError, DataError
from tests.data.files import labelled

GREY = labelled([3, 3])
COLOUR = replace(GREY, images=np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16)).astype(np.float32) / 255)


def test_grey_is_the_luma_in_every_channel() -> None:
    found = squeeze(COLOUR, how="grey").images
    assert np.array_equal(found[:, 0], found[:, 2])
    picture = Image.fromarray((COLOUR.images[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)).convert("L")
    np.testing.assert_allclose(found[0, 0], np.asarray(picture) / 255, atol=1 / 255)


def test_jpeg_is_that_of_pillow_at_this_quality() -> None:
    file = io.BytesIO()
    Image.fromarray((COLOUR.images[1].transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(file, "JPEG", quality=10)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(squeeze(COLOUR, how="jpeg=10").images[1], expected)


@pytest.mark.parametrize("how", ["jpeg=90", "bits=3", "blur=1"])
def test_images_of_one_channel_keep_their_shape_labels_and_index(how: str) -> None:
    found = squeeze(GREY, how=how)
    assert found.images.shape == GREY.images.shape
    assert np.array_equal(found.index, GREY.index)


def test_three_bits_are_eight_levels() -> None:
    assert np.unique(squeeze(COLOUR, how="bits=3").images).size == 8


@pytest.mark.parametrize("how", ["jpeg", "jpeg=0", "bits=8", "grey=1", "blur=x", f"jpeg={'1' * 5000}"])
def test_a_value_out_of_range_is_refused(how: str) -> None:
    with pytest.raises(ConfigError, match=f"squeeze = '{how[:20]}.*; expected"):
        squeeze(COLOUR, how=how)


def test_an_unknown_filter_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'grey'"):
        squeeze(COLOUR, how="gray")


def test_grey_needs_colours() -> None:
    with pytest.raises(DataError, match="images of 1 channels; grey takes 3"):
        squeeze(GREY, how="grey")
