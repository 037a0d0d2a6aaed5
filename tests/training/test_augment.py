from __future__ import annotations

import torch
from torch import Tensor

from edgeproof.training.augment import augment, random_crop, random_cutout, random_flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 64, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(count, 3, height, width, generator=generator(9)) + 0.1  # no black but what a crop brings in


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    x = images()
    flipped = random_flip(x, generator=generator())
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    same = (flipped == x).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 16 < int(mirrored.sum()) < 48


def test_a_crop_is_a_shift_of_at_most_an_eighth_with_black_borders() -> None:
    x = images()
    cropped = random_crop(x, generator=generator())
    seen = set()
    for before, after in zip(x, cropped, strict=True):
        shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-3, 4) if torch.equal(_shift(before, dy, dx), after)]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert {dy for dy, _ in seen} == set(range(-2, 3))
    assert {dx for _, dx in seen} == set(range(-3, 4))


def _shift(image: Tensor, dy: int, dx: int) -> Tensor:
    """Move one image by an independent way: roll, then blacken what came in."""
    moved = image.roll((dy, dx), (1, 2))
    _, height, width = image.shape
    rows, columns = torch.arange(height)[:, None] - dy, torch.arange(width)[None, :] - dx
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside, moved, 0.0)


def test_equal_generators_give_equal_images_and_none_changes_nothing() -> None:
    x = images()
    first, second = (augment(x, how="flip-crop", generator=generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(x, how="flip-crop", generator=generator(4)))
    assert augment(x, how="none", generator=generator()) is x


def test_a_cut_out_is_one_black_rectangle_of_half_the_sides_around_any_pixel() -> None:
    x = images(count=2000)
    cut = random_cutout(x, generator=generator())
    black = (cut == 0).all(1)
    assert torch.equal(torch.where(black[:, None], 0.0, x), cut)
    rows, columns = black.any(2), black.any(1)
    assert torch.equal(black, rows[:, :, None] & columns[:, None, :])
    for lines, side in ((rows, 16), (columns, 24)):
        heights = lines.sum(1)
        assert set(heights.tolist()) == set(range(side // 4, side // 2 + 1))
        edges = lines.int().diff(dim=1, prepend=torch.zeros(len(x), 1, dtype=torch.int32))
        assert bool(((edges == 1).sum(1) == 1).all())
        assert bool(lines[:, [0, -1]].any(0).all())
