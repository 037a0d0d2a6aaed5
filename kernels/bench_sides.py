"""What the benchmark times: each kernel, the device's own copy, and the passes that torch needs for the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edgeproof.kernels import l2_step, linf_step, momentum_step, normalize, universal_apply

EPS, STEP = 8 / 255, 2 / 255
PIXELS = 3 * 32 * 32
PGD_STEPS, PGD_BATCH = 20, 256


@dataclass(frozen=True)
class Side:
    """One way to do something.

    Attributes:
        name: What it is called in the report.
        run: Does it once, without waiting for the device.
        bytes: That it has to move, at least; 0 where that means nothing.
    """

    name: str
    run: Callable[[], object]
    bytes: int = 0


def groups(images: int, stream: Any) -> Iterator[tuple[str, Callable[[], list[Side]]]]:
    """Give each group's name and how its sides are made; the first side of each is the device's own copy."""
    yield "linf_step f32", lambda: linf_sides(images, "float32", stream)
    yield "linf_step f16", lambda: linf_sides(images, "float16", stream)
    yield "momentum_step f32", lambda: momentum_sides(images, stream)
    yield "l2_step f32", lambda: l2_sides(images, stream)
    yield "universal_apply f32", lambda: universal_sides(images, stream)
    yield "normalize f32", lambda: normalize_sides(images, stream)


def random_images(images: int, count: int, dtype: str = "float32", *, more: int = 0) -> list[Any]:
    """Return `count` arrays of images on the device.

    Args:
        images: Images of each.
        count: How many arrays.
        dtype: Their type.
        more: Arrays of that size that the caller is going to make as well.

    Raises:
        MemoryError: When they would take more than 80 % of the free memory.
    """
    import torch

    kind = getattr(torch, dtype)
    free, _ = torch.cuda.mem_get_info()
    need = images * PIXELS * kind.itemsize * (count + more)
    if need > 0.8 * free:
        raise MemoryError(f"{images} images need {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    return [torch.rand(images, 3, 32, 32, device="cuda").to(kind) for _ in range(count)]


def copy_side(x: Any, out: Any) -> Side:
    """Return the device's own copy, the pace that a kernel bound by memory is held against."""
    return Side("copy", lambda: out.copy_(x), 2 * x.numel() * x.element_size())


def linf_sides(images: int, dtype: str, stream: Any) -> list[Side]:
    """The L-infinity step: one pass of ours against the passes of torch, and torch.compile where Triton is."""
    import torch

    x, grad, origin, out = random_images(images, 4, dtype, more=4)
    grad -= 0.5

    def eager() -> Any:
        moved = grad.sign().mul_(STEP).add_(x)
        return torch.clamp(moved, min=(origin - EPS).clamp_(0, 1), max=(origin + EPS).clamp_(0, 1))

    def ours() -> Any:
        linf_step.linf_step(x, grad, origin, out, step_size=STEP, eps=EPS, stream=stream)
        return out

    moved_bytes = 4 * x.numel() * x.element_size()
    sides = [copy_side(x, out), Side("kernel", ours, moved_bytes), Side("torch", eager, moved_bytes)]
    if importlib.util.find_spec("triton") is not None:
        sides.append(Side("torch.compile", torch.compile(eager), moved_bytes))
    check(ours().float(), eager().float(), tolerance=0.0 if dtype == "float32" else 2e-3)
    return sides


def momentum_sides(images: int, stream: Any) -> list[Side]:
    """MI-FGSM's accumulation and step."""
    import torch

    x, grad, origin, memory, out = random_images(images, 5, more=6)
    grad -= 0.5

    def eager(momentum: Any = memory) -> Any:
        norm = grad.abs().sum((1, 2, 3), keepdim=True)
        accumulated = momentum.mul_(0.5).add_(grad / norm)
        moved = accumulated.sign().mul_(STEP).add_(x)
        return torch.clamp(moved, min=(origin - EPS).clamp_(0, 1), max=(origin + EPS).clamp_(0, 1))

    def ours(momentum: Any = memory) -> Any:
        options = {"decay": 0.5, "step_size": STEP, "eps": EPS, "stream": stream}
        momentum_step.momentum_step(x, grad, momentum, origin, out, **options)
        return out

    zero = torch.zeros_like(memory)
    check(ours(zero.clone()), eager(zero), tolerance=0.0)
    moved_bytes = 6 * x.numel() * 4
    return [copy_side(x, out), Side("kernel", ours, moved_bytes), Side("torch", eager, moved_bytes)]


def l2_sides(images: int, stream: Any) -> list[Side]:
    """The Euclidean step."""
    import torch

    x, grad, origin, out = random_images(images, 4, more=4)
    grad -= 0.5

    def eager() -> Any:
        delta = x - origin + 0.5 * grad / torch.linalg.vector_norm(grad, dim=(1, 2, 3), keepdim=True)
        shrink = (1.0 / torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)).clamp_(max=1)
        return delta.mul_(shrink).add_(origin).clamp_(0, 1)

    def ours() -> Any:
        l2_step.l2_step(x, grad, origin, out, step_size=0.5, eps=1.0, stream=stream)
        return out

    check(ours(), eager(), tolerance=1e-5)
    moved_bytes = 4 * x.numel() * 4
    return [copy_side(x, out), Side("kernel", ours, moved_bytes), Side("torch", eager, moved_bytes)]


def universal_sides(images: int, stream: Any) -> list[Side]:
    """One perturbation added to all images."""
    x, out = random_images(images, 2, more=2)
    delta = (x[0] - 0.5) * EPS

    def eager() -> Any:
        return (x + delta).clamp_(0, 1)

    def ours() -> Any:
        universal_apply.universal_apply(x, delta, out, stream=stream)
        return out

    check(ours(), eager(), tolerance=0.0)
    moved_bytes = 2 * x.numel() * 4
    return [copy_side(x, out), Side("kernel", ours, moved_bytes), Side("torch", eager, moved_bytes)]


def normalize_sides(images: int, stream: Any) -> list[Side]:
    """Bytes, channels last, to normalised planes."""
    import torch

    x, out = random_images(images, 2, more=3)
    levels = x.mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    mean, std = torch.full_like(x[0, :, 0, 0], 0.5), torch.full_like(x[0, :, 0, 0], 0.25)

    def eager() -> Any:
        planes = levels.permute(0, 3, 1, 2).contiguous().float() / 255
        return (planes - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def ours() -> Any:
        normalize.normalize(levels, out, mean=mean, std=std, layout="nhwc", stream=stream)
        return out

    check(ours(), eager(), tolerance=0.0)
    moved_bytes = 5 * x.numel()
    return [copy_side(x, out), Side("kernel", ours, moved_bytes), Side("torch", eager, moved_bytes)]


def check(found: Any, expected: Any, *, tolerance: float) -> None:
    """Refuse to time what does not give torch's answer."""
    worst = float((found - expected).abs().max())
    if not worst <= tolerance:
        raise RuntimeError(f"the kernel and torch differ by {worst:g}, more than {tolerance:g}: nothing is timed")


def pgd_sides(stream: Any) -> list[Side]:
    """One step of PGD on a small network, gradient included, with torch's arithmetic and with ours."""
    import torch
    from torch import nn

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for width in (64, 128, 256):
        layers += [nn.Conv2d(width, min(2 * width, 256), 3, stride=2, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()
    (origin,) = random_images(PGD_BATCH, 1)
    model.to(origin.device).requires_grad_(False)
    labels = model(origin).argmax(1)
    x = origin.clone()

    def gradient() -> Any:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)[0]

    def torch_step() -> None:
        moved = gradient().sign().mul_(STEP).add_(x)
        x.copy_(torch.clamp(moved, min=(origin - EPS).clamp_(0, 1), max=(origin + EPS).clamp_(0, 1)))

    def kernel_step() -> None:
        linf_step.linf_step(x, gradient(), origin, x, step_size=STEP, eps=EPS, stream=stream)

    return [Side("torch", torch_step), Side("kernel", kernel_step)]
