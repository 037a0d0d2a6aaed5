"""Square attack: random search with logits alone, no gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, check_positive, draws_of
from edgeproof.attacks.iterative import BestAdversarial
from edgeproof.attacks.norms import START
from edgeproof.attacks.queries import QueryTrace
from edgeproof.errors import ConfigError
from edgeproof.ops import linf_project
from edgeproof.plugins.registry import register
from edgeproof.types import LogitsFn

#: From which of 10,000 queries on the share of changed pixels is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@register("square", norm="linf", access="queries")
def square(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    queries: int = 5000,
    share: float = 0.8,
    stop: str = "never",
    draws: Draws | None = None,
    trace: QueryTrace | None = None,
) -> Tensor:
    """Square attack under L-infinity (Andriushchenko et al., 2020, arXiv:1912.00049): asks for logits only.

    Squares of random place and colour at +-eps are kept where they lower the margin. Differing from the authors' code, each
    image has its own squares, so that an image's result does not depend on its batch.

    Args:
        share: Share of the pixels that the first squares cover; it shrinks as the queries are spent.
    """
    check_positive(queries=queries)
    if not 0 < share <= 1:
        raise ConfigError(f"share = {share:g}; expected a share of the pixels above 0, at most 1")
    draws = draws_of(draws, x)
    best = BestAdversarial(x, y, direction="ascent", stop=stop)
    rows = torch.arange(len(x), device=x.device)
    tried = _stripes(x, eps=eps, draws=draws)
    with torch.no_grad():
        for query in range(queries):
            best.update(rows, tried, model(tried))
            if trace:
                trace.record(rows, best.margin[rows] > 0)
            if best.stops:
                kept = best.active(rows)
                if len(kept) < len(rows):
                    rows, draws = rows[kept], draws.take(kept)
            if not len(rows):
                break
            side = _side(query, queries=queries, share=share, size=(x.shape[2], x.shape[3]))
            numbers = draws.uniform(START + 1 + query, (2 + x.shape[1],)).to(x.device)
            tried = linf_project(_with_square(best.images[rows], numbers, side=side, eps=eps), x[rows], eps=eps)
    return best.images


def _stripes(x: Tensor, *, eps: float, draws: Draws) -> Tensor:
    """Return the images with vertical stripes of +-eps, which convolutional networks are sensitive to."""
    channels, width = x.shape[1], x.shape[3]
    signs = _signs(draws.uniform(START, (channels, 1, width)).to(x.device)).to(x.dtype)
    return linf_project(x + eps * signs, x, eps=eps)


def _side(query: int, *, queries: int, share: float, size: tuple[int, int]) -> int:
    """Return the side of the square in pixels: its share of the image shrinks with the queries that are spent."""
    spent = query * 10_000 // queries
    halvings = sum(spent > threshold for threshold in _HALVINGS)
    side = round(math.sqrt(share / 2**halvings * size[0] * size[1]))
    return min(max(side, 1), *size)


def _with_square(images: Tensor, numbers: Tensor, *, side: int, eps: float) -> Tensor:
    """Add +-2 eps, one sign a channel, in a square of each image.

    Args:
        images: (n, C, H, W).
        numbers: (n, 2 + C) uniform in [0, 1): how far down, how far across, and the signs.
        side: Of the squares, in pixels.
        eps: Budget.
    """
    height, width = images.shape[2:]
    top = (numbers[:, 0] * (height - side + 1)).long().view(-1, 1, 1, 1)
    left = (numbers[:, 1] * (width - side + 1)).long().view(-1, 1, 1, 1)
    down = torch.arange(height, device=images.device).view(1, 1, -1, 1) - top
    across = torch.arange(width, device=images.device).view(1, 1, 1, -1) - left
    inside = (down >= 0) & (down < side) & (across >= 0) & (across < side)
    signs = _signs(numbers[:, 2:]).to(images.dtype)[:, :, None, None]
    return images + 2 * eps * signs * inside


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0.5, 1.0, -1.0)
