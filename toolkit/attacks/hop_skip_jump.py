"""HopSkipJump: a walk along the decision boundary that asks for classes alone, many images at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, distance, draws_of
from edgeproof.attacks.norms import BALLS
from edgeproof.attacks.options import QueryOptions
from edgeproof.attacks.queries import QueryTrace
from edgeproof.ops import l2_norm
from edgeproof.plugins.registry import register
from edgeproof.types import LogitsFn, Norm

_STARTS = 40  # random images that are tried as a start
_STARTS_STREAM, _DIRECTIONS_STREAM = 0, 1000
_MOST_HALVINGS = 10  # of a step that leaves the wrong side
_IMAGES_A_CALL = 4096  # directions are shown to the model together, up to so many images
_BLOCK = 16  # directions of one stream of draws, whatever the batch
_BITS = 24  # of one of the draws' numbers


@register("hop-skip-jump", norm="linf", access="queries")
def hop_skip_jump(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    queries: int = 1000,
    directions: int = 100,
    reach: float = 0.05,
    stop: str = "never",
    draws: Draws | None = None,
    trace: QueryTrace | None = None,
) -> Tensor:
    """HopSkipJump under L-infinity (Chen, Jordan & Wainwright, 2020, arXiv:1904.02144): asks for the class only, no logits.

    Differing from the authors, directions are random signs, a start is a random mosaic, and the gradient is probed at a share
    of the distance that is reached: their radius, dist / d, is swallowed by INT8 rounding.

    Args:
        stop: "first" lets an image leave once its adversary is within `eps`; "never" uses up the queries.
    """
    return _walk(model, x, y, QueryOptions(eps, queries, directions, reach, stop, draws, trace), norm="linf")


@register("hop-skip-jump-l2", norm="l2", access="queries")
def hop_skip_jump_l2(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    queries: int = 1000,
    directions: int = 100,
    reach: float = 0.05,
    stop: str = "never",
    draws: Draws | None = None,
    trace: QueryTrace | None = None,
) -> Tensor:
    """HopSkipJump under L2 (Chen, Jordan & Wainwright, 2020, arXiv:1904.02144): asks for the class only, no logits.

    Differing from the authors as `hop-skip-jump` does.

    Args:
        stop: "first" lets an image leave once its adversary is within `eps`; "never" uses up the queries.
    """
    return _walk(model, x, y, QueryOptions(eps, queries, directions, reach, stop, draws, trace), norm="l2")


class _Oracle:
    """The model's decisions, counted: who has no queries left is not asked, and counts as right.

    Attributes:
        best: (N, C, H, W), the nearest adversary of each image so far; the clean image where there is none.
        reached: (N,), its distance; infinite where there is none.
        left: (N,), queries left.
    """

    def __init__(self, model: LogitsFn, x: Tensor, y: Tensor, options: QueryOptions, *, norm: Norm) -> None:
        self.x, self.y, self.norm, self.eps, self.stop = x, y, norm, options.eps, options.stop
        self.best = x.clone()
        self.reached = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        self.left = torch.full((len(x),), options.queries, device=x.device)
        self._model, self._trace = model, options.trace or QueryTrace(len(x))

    def wrong(self, rows: Tensor, images: Tensor) -> Tensor:
        """Return (n,) whether each image (n, C, H, W) is misclassified, and remember those nearer than before."""
        can = self.left[rows] > 0
        asked, shown = rows[can], images[can]
        verdict = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if not len(asked):
            return verdict
        hit = self._model(shown).argmax(1) != self.y[asked]
        self.left[asked] -= 1
        far = distance(self.x[asked], shown, norm=self.norm)
        self._trace.record(asked, hit & (far <= self.eps))
        nearer = hit & (far < self.reached[asked])
        self.best[asked[nearer]], self.reached[asked[nearer]] = shown[nearer], far[nearer]
        verdict[can] = hit
        return verdict

    def sides(self, rows: Tensor, images: Tensor, *, count: int) -> Tensor:
        """Return +1 (wrong) or -1 for several images a row, (n, B, C, H, W) to (n, B); 0 beyond its queries or `count`."""
        shown = torch.arange(images.shape[1], device=rows.device) < self.left[rows].clamp(max=count)[:, None]
        side = torch.zeros(shown.shape, dtype=images.dtype, device=rows.device)
        if not shown.any():
            return side
        hit = self._model(images[shown]).argmax(1) != self.y[rows].repeat_interleave(shown.sum(1))
        side[shown] = hit.to(images.dtype) * 2 - 1
        self.left[rows] -= shown.sum(1)
        self._trace.record(rows, torch.zeros_like(rows, dtype=torch.bool), queries=shown.sum(1))
        return side


def _walk(model: LogitsFn, x: Tensor, y: Tensor, options: QueryOptions, *, norm: Norm) -> Tensor:
    """Return the nearest adversary found for each image, projected; the clean image where there is none."""
    draws, reach = draws_of(options.draws, x), options.reach
    oracle = _Oracle(model, x, y, options, norm=norm)
    rows = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        _start(oracle, rows, draws)
        at, step = oracle.best.clone(), 0
        rows = _improvable(oracle, rows)
        at[rows] = _to_boundary(oracle, rows, at[rows], reach=reach)
        while len(rows := _improvable(oracle, rows)):
            step += 1
            count = math.ceil(options.directions * math.sqrt(step))
            slope = _estimate(oracle, rows, at[rows], count=count, reach=reach, draws=draws, step=step)
            jumped = _jump(oracle, rows, at[rows], slope, step=step)
            at[rows] = _to_boundary(oracle, rows, jumped, reach=reach)
    return BALLS[norm].project(oracle.best, x, eps=options.eps)


def _improvable(oracle: _Oracle, rows: Tensor) -> Tensor:
    """Return the rows that have an adversary to improve and queries left for it."""
    going = (oracle.left[rows] > 1) & oracle.reached[rows].isfinite() & (oracle.reached[rows] > 0)
    if oracle.stop == "first":
        going &= oracle.reached[rows] > oracle.eps
    return rows[going]


def _start(oracle: _Oracle, rows: Tensor, draws: Draws) -> None:
    """Show each image's clean form and then random mosaics, coarse ones and fine ones, until one is misclassified."""
    oracle.wrong(rows, oracle.x)
    channels, height, width = oracle.x.shape[1:]
    for attempt in range(_STARTS):
        rows = rows[oracle.reached[rows].isinf() & (oracle.left[rows] > 0)]
        if not len(rows):
            return
        cells = 2 ** (attempt % (1 + math.ceil(math.log2(max(height, width)))))
        down = torch.arange(height) * min(cells, height) // height
        across = torch.arange(width) * min(cells, width) // width
        numbers = draws.take(rows).uniform(_STARTS_STREAM + attempt, (channels, min(cells, height), min(cells, width)))
        oracle.wrong(rows, numbers[:, :, down][:, :, :, across].to(oracle.x))


def _to_boundary(oracle: _Oracle, rows: Tensor, wrong: Tensor, *, reach: float) -> Tensor:
    """Return points on the wrong side next to the boundary, between clean images and wrong ones, by halving."""
    clean = oracle.x[rows]
    size = math.sqrt(clean[0].numel()) if len(clean) else 1.0
    low = torch.zeros(len(rows), 1, 1, 1, dtype=clean.dtype, device=clean.device)
    high = torch.ones_like(low)
    radius = distance(clean, wrong, norm=oracle.norm).to(clean).view(-1, 1, 1, 1)
    for _ in range(math.ceil(math.log2(max(2.0, size / reach)))):
        middle = (low + high) / 2
        hit = oracle.wrong(rows, _between(clean, wrong, middle, radius, norm=oracle.norm)).view(-1, 1, 1, 1)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return torch.where(high < 1, _between(clean, wrong, high, radius, norm=oracle.norm), wrong)


def _between(clean: Tensor, wrong: Tensor, share: Tensor, radius: Tensor, *, norm: Norm) -> Tensor:
    """Return the point at a share of the distance: on the line under L2, and clipped to the smaller cube under L-infinity."""
    if norm == "l2":
        return clean + share * (wrong - clean)
    return torch.clamp(wrong, clean - share * radius, clean + share * radius)


def _estimate(
    oracle: _Oracle, rows: Tensor, at: Tensor, *, count: int, reach: float, draws: Draws, step: int
) -> Tensor:
    """Return the direction into the wrong side: random signs, weighted by the side that each leads to."""
    length = reach * oracle.reached[rows].to(at).view(-1, 1, 1, 1, 1)
    if oracle.norm == "l2":
        length = length / math.sqrt(at[0].numel())
    mine = draws.take(rows)
    total, summed = torch.zeros_like(at), torch.zeros_like(at)
    signed, asked = at.new_zeros(len(rows), 1, 1, 1), at.new_zeros(len(rows), 1, 1, 1)
    blocks, together = -(-count // _BLOCK), max(1, _IMAGES_A_CALL // (_BLOCK * len(rows)))
    for first in range(0, blocks, together):
        streams = range(first, min(first + together, blocks))
        signs = torch.cat([_signs(mine, _DIRECTIONS_STREAM + step * 10_000 + k, at) for k in streams], dim=1)
        seen = oracle.sides(rows, (at[:, None] + length * signs).clamp_(0, 1), count=count - first * _BLOCK)
        side, shown = seen.view(len(rows), -1, 1, 1, 1), (seen != 0).to(at).view(len(rows), -1, 1, 1, 1)
        total, summed = total + (side * signs).sum(1), summed + (shown * signs).sum(1)
        signed, asked = signed + side.sum(1), asked + shown.sum(1)
    mean = signed / asked.clamp(min=1)
    # Against the mean, which lowers the variance (the authors' section 3.3); all on one side says no more than the sum itself.
    slope = torch.where(mean.abs() < 1, total - mean * summed, total)
    return slope.sign() if oracle.norm == "linf" else slope / l2_norm(slope).clamp(min=1e-12)


def _signs(draws: Draws, stream: int, at: Tensor) -> Tensor:
    """Return a block of random signs, (n, B, C, H, W): each number of the draws gives 24 of them."""
    size = at[0].numel()
    numbers = draws.uniform(stream, (_BLOCK, -(-size // _BITS)))
    whole = (numbers * 2**_BITS).to(torch.int32).to(at.device)
    bits = (whole[..., None] >> torch.arange(_BITS, device=at.device, dtype=torch.int32)) & 1
    signs: Tensor = bits.flatten(2)[:, :, :size].to(at.dtype) * 2 - 1
    return signs.view(len(at), _BLOCK, *at.shape[1:])


def _jump(oracle: _Oracle, rows: Tensor, at: Tensor, slope: Tensor, *, step: int) -> Tensor:
    """Go along the direction, by less and less until it is still wrong there; else stay."""
    length = (oracle.reached[rows] / math.sqrt(step)).to(at).view(-1, 1, 1, 1)
    landed, open_ = at.clone(), torch.arange(len(rows), device=at.device)
    for _ in range(_MOST_HALVINGS):
        if not len(open_):
            break
        tried = (at[open_] + length[open_] * slope[open_]).clamp(0, 1)
        hit = oracle.wrong(rows[open_], tried)
        landed[open_[hit]] = tried[hit]
        open_ = open_[~hit]
        length = length / 2
    return landed
