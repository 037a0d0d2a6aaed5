"""The contract of each kind of plug-in, as a check that anybody can run on their own: `check("attack", "my-attack")`.

The tests check ours against the same contract. It needs no data: images are made up here.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.errors import ConfigError, PluginError
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import CALLERS, Entry, find
from edgeproof.types import Images

if TYPE_CHECKING:
    from torch import Tensor

    from edgeproof.attacks.configured import Attack

_COUNT = 12


def check(kind: str, name: str, *, path: Path | str | None = None, **params: Any) -> None:
    """Refuse a plug-in that breaks what its kind promises.

    Args:
        kind: "attack", "engine", "data" or "model".
        name: Registry name.
        path: Of a file that the engine opens; of the files of a data set that takes a path.
        params: Parameters of the plug-in, as text or values: those without a default, and what makes it quick.

    Raises:
        PluginError: For the first promise that is broken, with the numbers.
        AttackContractError: When an attack leaves its budget, the pixel range or the 8-bit grid.
        ConfigError: For an unknown kind, name or parameter.
    """
    checks = {"attack": _check_attack, "engine": _check_engine, "data": _check_data, "model": _check_model}
    if kind not in checks:
        raise ConfigError(f"kind = {kind!r} cannot be checked; expected {', '.join(checks)}")
    if (path is None) == (kind == "engine"):
        what = "give a file that it opens, path=FILE" if kind == "engine" else "leave out path"
        if kind != "data":
            raise ConfigError(f"{kind} {name!r}: {what}")
    entry = find(kind, name)
    undocumented = [param.name for param in entry.params if f"\n    {param.name}: " not in entry.help]
    if not entry.summary.endswith((".", ")")):
        _refuse(
            entry, f"its documentation begins with {entry.summary!r}", 'expected a whole sentence, which "list" shows'
        )
    if kind in ("attack", "data") and undocumented:
        _refuse(
            entry,
            f"its documentation does not say what {undocumented[0]!r} is",
            f"expected a line under Args: {undocumented[0]}: ...",
        )
    checks[kind](entry, None if path is None else Path(path), params)


def _refuse(entry: Entry, reason: str, expected: str) -> None:
    raise PluginError(f"plug-in {entry.file or entry.module}: {entry.kind} {entry.name!r}: {reason}; {expected}")


def _check_attack(entry: Entry, path: Path | None, params: dict[str, Any]) -> None:
    """Run it on a small network: budget, box and grid; nothing moved but its own images; the same in any batch and again."""
    import torch

    from edgeproof.attacks.base import Draws, find_attack
    from edgeproof.attacks.configured import choose_attack

    spec = find_attack(entry.name)
    torch_state = torch.random.get_rng_state()
    network, second = _network(torch.Generator().manual_seed(0)), _network(torch.Generator().manual_seed(1))
    x = torch.from_numpy(_images(_COUNT))
    y = torch.arange(_COUNT) % 5
    draws = Draws(seed=0, index=np.arange(_COUNT))
    eps = 8 / 255 * (10 if spec.norm == "l2" else 1)

    def attack(pixels: Any = "float", stop: str = "never") -> Attack:
        deployed = second if spec.takes("deployed") else None
        chosen = choose_attack(spec, eps=eps, params=params, pixels=pixels, stop=stop, deployed=deployed)
        if spec.access != "data":
            return chosen
        return replace(chosen, perturbation=chosen.fit(network, x, y, draws=draws))

    def same(one: Tensor, other: Tensor, reason: str, expected: str) -> None:
        if one.shape != other.shape or not torch.allclose(one, other, atol=1e-5, rtol=0):
            worst = float((one - other).abs().max()) if one.shape == other.shape and one.numel() else float("nan")
            _refuse(entry, f"{reason} (a pixel differs by {worst:g})", expected)

    before = x.clone()
    found = attack().run(network, x, y, draws=draws)
    if not torch.equal(x, before):
        _refuse(entry, "it changes the clean images", "expected a new tensor: begin with x.clone()")
    if spec.box:
        levels = attack("uint8").run(network, x, y, draws=draws)
        if not torch.equal(torch.round(levels * 255) / 255, levels):
            _refuse(entry, "its 8-bit images are off the grid", "expected whole levels")
    if spec.takes("stop"):
        with contextlib.suppress(ConfigError):  # some of its parameters may not go with it
            attack(stop="first").run(network, x, y, draws=draws)
    same(
        attack().run(network, x, y, draws=draws), found, "it gives other images when it is repeated",
        "expected all randomness from `draws`, a parameter",
    )  # fmt: skip
    some = torch.tensor([7, 2, 9])
    same(
        attack().run(network, x[some], y[some], draws=draws.take(some)), found[some],
        "an image gets another adversary in another batch", "expected each image to be attacked alone: sum the losses",
    )  # fmt: skip
    empty = attack().run(network, x[:0], y[:0], draws=draws.take(torch.arange(0)))
    same(empty, x[:0], "an empty batch does not stay empty", "expected shape (0, C, H, W)")
    attack().run(lambda x: network(x) * 0, x[:1], y[:1], draws=draws.take(torch.arange(1)))
    if not torch.equal(torch.random.get_rng_state(), torch_state):
        _refuse(entry, "it draws from torch's own generator", "expected all randomness from `draws`, a parameter")


def _network(generator: Any) -> Any:
    """Return a small smooth function of images (N, 3, 8, 8) to five logits."""
    import torch

    first = torch.randn(3 * 8 * 8, 16, generator=generator) / 8
    last = torch.randn(16, 5, generator=generator)
    return lambda x: torch.tanh((x - 0.5).flatten(1) @ first) @ last


def _images(count: int, shape: tuple[int, int, int] = (3, 8, 8)) -> Images:
    levels = np.random.default_rng(0).integers(0, 256, (count, *shape))
    return (levels / np.float32(255)).astype(np.float32)


def _check_engine(entry: Entry, path: Path | None, params: dict[str, Any]) -> None:
    """Open a file and ask it: every batch size, fresh arrays, the same answer again and in any batch, and what it says of itself."""
    from edgeproof.engines.base import open_engine, predict_all
    from edgeproof.errors import DataError

    if params:
        raise ConfigError(f"engine {entry.name!r} has no parameters; leave out {', '.join(params)}")
    assert path is not None
    with open_engine(path, backend=entry.name) as engine:
        info = engine.info
        if len(info.sha256) != 64 or not info.provider or not all(info.versions.values()):
            _refuse(entry, f"its info lacks sha256, provider or versions: {info!r:.200}", "expected what is active")
        x = _images(9, info.input_shape)
        whole = predict_all(engine, x, batch_size=9)
        for count in range(min(info.max_batch or 9, 9) + 1):
            logits = engine.predict(x[:count])
            if logits.shape != (count, info.num_classes) or logits.dtype != np.float32:
                _refuse(
                    entry,
                    f"predict gives {logits.dtype} of shape {logits.shape} for {count} images",
                    f"expected float32 ({count}, {info.num_classes})",
                )
        tolerance = {"fp32": 1e-4, "int8": 1e-4}.get(info.precision, 2e-2) * max(1.0, float(np.abs(whole).max()))
        for what, other in (
            ("when they are asked for one by one", predict_all(engine, x, batch_size=1)),
            ("in the other order", predict_all(engine, np.ascontiguousarray(x[::-1]), batch_size=4)[::-1]),
        ):
            if not np.allclose(other, whole, atol=tolerance):
                _refuse(
                    entry,
                    f"images get other logits {what} (by {np.abs(other - whole).max():g})",
                    "expected each image alone",
                )
        kept = x.copy()
        first = engine.predict(x[:1])
        copy = first.copy()
        engine.predict(1 - x[:1])
        if not np.array_equal(first, copy):
            _refuse(entry, "predict writes into an array that it has returned before", "expected a fresh one")
        if not np.array_equal(x, kept):
            _refuse(entry, "predict changes its input", "expected it to stay as it is")
        try:
            engine.predict(np.zeros((1, *(size + 1 for size in info.input_shape)), np.float32))
        except DataError:
            pass
        else:
            _refuse(
                entry,
                "predict takes images of a wrong shape",
                "expected a DataError: call check_input(self.info, images)",
            )
        engine.close()


def _check_data(entry: Entry, path: Path | None, params: dict[str, Any]) -> None:
    """Load it: labels, indices and classes fit, two loads are equal, and it can be split."""
    from edgeproof.data.base import load_dataset, split_dataset

    name = entry.name if path is None else f"{entry.name}:{path}"
    dataset, again = load_dataset(name, params=params), load_dataset(name, params=params)
    for part, other in ((dataset.test, again.test), (dataset.train, again.train)):
        if part is None or other is None:
            continue
        if len(set(part.index.tolist())) != len(part):
            _refuse(entry, f"two {part.split} images have the same index", "expected an index each")
        if not (np.array_equal(part.images, other.images) and np.array_equal(part.labels, other.labels)):
            _refuse(
                entry,
                f"loading it twice gives other {part.split} images",
                "expected the same: take a seed as a parameter",
            )
    if dataset.train is not None:
        split_dataset(dataset, seed=0, validation=0.1, calibration=dataset.train.num_classes)


def _check_model(entry: Entry, path: Path | None, params: dict[str, Any]) -> None:
    """Build it: logits of the right shape, gradients of every weight and of the image, and an image judged alone in eval mode."""
    import torch
    from torch import nn

    from edgeproof.models.base import build_classifier

    if entry.options.get("family"):
        raise ConfigError(f"model {entry.name!r} is a family; check one by building it")
    read_params(entry, params, skip=CALLERS["model"])
    size = max(int(entry.options.get("min_size", 1)), 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for channels, count in ((1, 2), (3, 10)):
            shape = (channels, size, size)
            model = build_classifier(
                entry.name, input_shape=shape, classes=[f"class {k}" for k in range(count)], mean=[0.5] * channels, std=[0.2] * channels
            )  # fmt: skip
            x = torch.from_numpy(_images(4, shape)).requires_grad_(True)
            nn.functional.cross_entropy(model(x), torch.arange(4) % count).backward()  # type: ignore[no-untyped-call]
            idle = [key for key, weight in model.named_parameters() if weight.grad is None]
            if idle or x.grad is None:
                _refuse(
                    entry, f"{idle[0] if idle else 'the image'} gets no gradient", "expected logits that depend on it"
                )
            model.eval()
            if not torch.allclose(model(x)[2:3], model(x[2:3]), rtol=1e-3, atol=1e-4):
                _refuse(
                    entry,
                    "in eval mode an image gets other logits in another batch",
                    "expected each image to be judged alone",
                )
