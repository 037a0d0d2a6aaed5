"""One batch through one network on several processes: each puts its share of the rows through, and all get all logits.

Everything around the network (draws, objectives, attacks, the optimiser) runs on every process, on the whole batch and with
the same numbers, so that it need not know of the others: an objective may look at its batch as a whole. What differs from one
process is the order of float32 sums.

Gradients follow one convention: behind the logits they are those of `world_size` times the loss, so that the mean over the
processes, which `average_gradients` takes, is right for what went through the network and for what did not (a penalty on the
weights, which every process computes in full).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgeproof.models.base import Classifier
from edgeproof.system.distributed import collect_rows, own_rows, total, world_size


def spread(model: Classifier) -> None:
    """Make a model answer together with those of the other processes, which must all be asked the same.

    Its batch norms take the statistics of the whole batch, its dropouts their rows of the draws of the whole batch.
    """
    batch = _Batch()
    _replace_layers(model.network, batch)
    model.register_forward_pre_hook(batch.take)
    model.register_forward_hook(batch.join)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over the processes."""
    if world_size() == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    means = total(torch.cat([grad.reshape(-1) for grad in grads])) / world_size()
    for grad, mean in zip(grads, torch.split(means, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view(grad.shape))


class _Batch:
    """The batch that is in the network, of which this process has some rows."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, model: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Give the network this process's rows."""
        self.size = len(inputs[0])
        return (_TakeRows.apply(inputs[0]),)  # type: ignore[no-untyped-call]

    def join(self, model: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        """Put the logits of all processes together."""
        joined: Tensor = _JoinRows.apply(logits, self.size)  # type: ignore[no-untyped-call]
        return joined


class _TakeRows(torch.autograd.Function):
    """All rows to this process's; backwards the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return x[own_rows(len(x))]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return collect_rows(grad, count=ctx.count) / world_size()


class _JoinRows(torch.autograd.Function):
    """This process's rows to all; backwards its own, times the number of processes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, count: int) -> Tensor:
        return collect_rows(logits, count=count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[own_rows(len(grad))] * world_size(), None


def _replace_layers(module: nn.Module, batch: _Batch) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _GlobalBatchNorm(child))
        elif isinstance(child, nn.Dropout):
            setattr(module, name, _GlobalDropout(child.p, batch))
        else:
            _replace_layers(child, batch)


class _GlobalDropout(nn.Dropout):
    """Dropout by draws that are made for the whole batch, of which each process uses its rows."""

    def __init__(self, p: float, batch: _Batch) -> None:
        super().__init__(p)
        self._batch = batch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        dense = x.is_contiguous() or x.dim() != 4
        layout = torch.contiguous_format if dense else torch.channels_last  # the draws follow the order in memory
        whole = x.new_empty(self._batch.size, *x.shape[1:]).contiguous(memory_format=layout).fill_(1)
        return x * functional.dropout(whole, self.p)[own_rows(self._batch.size)]


class _GlobalBatchNorm(_BatchNorm):
    """A batch norm whose statistics are those of the rows of all processes."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def _check_input_dim(self, input: Tensor) -> None:
        """Take what the replaced batch norm takes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count, mean, var = _global_statistics(x)
        self._remember(mean, var * count / max(count - 1, 1))
        normalized: Tensor = _Normalize.apply(x, self.weight, self.bias, mean, var, count, self.eps)  # type: ignore[no-untyped-call]
        return normalized

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)


@torch.no_grad()
def _global_statistics(x: Tensor) -> tuple[float, Tensor, Tensor]:
    """Return over the rows of all processes the number, the mean and the (biased) variance of each channel's values."""
    own = _precise(x)
    channels = own.shape[1]
    count = own.numel() // channels
    mean, var = torch.batch_norm_update_stats(own, None, None, 0.0) if count else own.new_zeros(2, channels)
    # Means and squares around them, merged in float64 (Chan et al., 1979): no difference of large sums.
    local = torch.cat([own.new_full((1,), count), mean, var * count]).double()
    all_ = collect_rows(local[None], count=world_size())
    counts, means, around = all_[:, :1], *all_[:, 1:].chunk(2, dim=1)
    whole = counts.sum()
    center = (counts * means).sum(0) / whole
    whole_var = (around + counts * (means - center).square()).sum(0) / whole
    return float(whole), center.to(own.dtype), whole_var.to(own.dtype)


class _Normalize(torch.autograd.Function):
    """Scale to given statistics, which were taken of the rows of all processes; backwards through them too."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: float,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        own, grad = _precise(x), _precise(grad)
        by_x, by_weight, by_bias = grad, torch.zeros_like(mean), torch.zeros_like(mean)
        if own.numel():  # the kernel divides by it
            by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
                grad, own, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )  # as if the statistics were constants
        means = total(torch.stack([by_bias, by_weight])) / ctx.count
        scale = -(var + ctx.eps).rsqrt() * (1 if weight is None else weight)
        through = functional.batch_norm(own, mean, var, scale * means[1], scale * means[0], training=False, eps=ctx.eps)
        return (
            through.add_(by_x).to(x.dtype),
            *((None, None) if weight is None else (by_weight, by_bias)),
            None,
            None,
            None,
            None,
        )


def _precise(x: Tensor) -> Tensor:
    """Return float32 of a shorter type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
