"""Attacks as a function call: a registered attack or any function, its contract checked, in memory or in a run folder."""

from __future__ import annotations

import hashlib
import inspect
import json
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgeproof.api.folders import run_in_folder
from edgeproof.api.images import Images, ImagesLike, as_images
from edgeproof.api.models import Folder, Model, ModelLike, open_attacked, opened
from edgeproof.config import AttackConfig, build_config, format_eps
from edgeproof.config.names import IN_MEMORY
from edgeproof.data.base import AdversarialSet, load_adversarial_set, save_adversarial_set
from edgeproof.errors import ConfigError
from edgeproof.evaluation import metrics
from edgeproof.evaluation.inputs import hash_labelled
from edgeproof.evaluation.metrics import Rate
from edgeproof.plugins.registry import REQUIRED, Entry, Param
from edgeproof.runs import Run
from edgeproof.types import Norm

if TYPE_CHECKING:
    from edgeproof.attacks.base import Access, AttackSpec

AttackFn: TypeAlias = Callable[..., Any]  # (model, x, y, *, eps, ...) -> adversarial images


@dataclass(frozen=True, repr=False, eq=False)
class Adversarial(AdversarialSet):
    """Adversarial images beside the clean ones that they were made from; `attack` makes it, `evaluate` takes it.

    Attributes:
        run: The run folder, where it was made with `out`.
    """

    run: Run | None = None

    def accuracy(self) -> Rate:
        """Return the share of adversarial images that the attacked model classifies correctly, with its 95 % interval."""
        return metrics.accuracy(metrics.predictions(self._logits(self.source_logits)), self.clean.labels)

    def clean_accuracy(self) -> Rate:
        """Return the same of the clean images."""
        return metrics.accuracy(metrics.predictions(self._logits(self.source_clean_logits)), self.clean.labels)

    def success(self) -> Rate:
        """Return, of the images that the attacked model classifies correctly when clean, the share that it no longer does."""
        before, after = self._logits(self.source_clean_logits), self._logits(self.source_logits)
        return metrics.attack_success(metrics.predictions(before), metrics.predictions(after), self.clean.labels)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        said = "" if self.source_logits is None else f", {self.accuracy().hits} classified correctly"
        return f"Adversarial({self.name}, {len(self)} images of {self.clean.name}{said})"

    def _logits(self, logits: Any) -> Any:
        if logits is None:
            raise ConfigError(
                f"{self.name} carries no logits of an attacked model; evaluate it: evaluate(model, [set])"
            )
        return logits


def attack(
    model: ModelLike | Sequence[ModelLike],
    images: ImagesLike,
    attack: str | AttackFn = "pgd-linf",
    *,
    eps: float | str = "8/255",
    norm: Norm | None = None,
    access: Access = "gradients",
    deployed: ModelLike | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    device: str = "cpu",
    batch_size: int = 256,
    seed: int = 0,
    pixels: Literal["float", "uint8"] = "float",
    stop: str = "never",
    gradients: Literal["exact", "fast", "bf16", "compiled"] = "fast",
    probe: int | None = None,
    **params: Any,
) -> Adversarial:
    """Craft an adversarial image of each image, and check that the attack keeps what it promises.

    Args:
        model: What is attacked. Of several the losses are averaged, as with `--ensemble-builds`.
        images: Clean images.
        attack: A name that `edgeproof list attacks` shows, or a function `(model, x, y, *, eps, ...)` on tensors: `model` maps
            images (N, C, H, W) in [0, 1] to logits (N, K), y is (N,) int64, and it returns images like `x` within `eps`.
        eps: Budget in [0, 1] pixel units; "8/255" is understood.
        norm: "linf" or "l2": what a function of yours keeps to.
        access: What such a function needs of the model: "gradients", "queries" or "none".
        deployed: The second build, for an attack on the difference of two (diva): a file or a train run.
        out: Run folder: what the command line writes, continued where it was interrupted (default: in memory).
        fresh: Start over in that folder.
        device: "cpu" or "cuda".
        batch_size: Images a step. Random draws do not depend on it.
        seed: Of the attack's draws.
        pixels: "uint8" keeps the images on the 8-bit grid, inside the budget.
        stop: "never", "first" or "margin=K": when an image has been attacked enough.
        gradients: "exact": the model as it is; "fast": batch norms folded; "bf16"; "compiled".
        probe: Images on which masked gradients are looked for (default: 64; 0: none).
        **params: The attack's own parameters, such as steps=20, as on the command line.

    Raises:
        AttackContractError: When the attack leaves its budget, the pixel range or the shape of the images.
        ConfigError: For an unknown attack or parameter, or a function without `norm`.
        ToolkitError: For a model or images that cannot be used.
    """
    chosen, models = as_images(images), opened(model)
    spec = attack_spec(attack, norm=norm, access=access)
    second = None if deployed is None else _deployed(deployed)
    config = build_config(
        AttackConfig,
        options={
            "attack": spec.name, "model": _text(models[0]), "deployed": second, "eps": eps, "params": params,
            "data": chosen.text(seed=seed), "split": chosen.split, "limit": chosen.limit, "seed": seed, "pixels": pixels, "stop": stop,
            "gradients": gradients, "probe": probe, "batch_size": batch_size, "device": device,
            "ensemble_builds": tuple(map(_text, models[1:])) or None,
        },
    )  # fmt: skip
    if out is None:
        scratch = Folder()
        return _craft(config, spec, models, chosen, scratch.path)
    folder = Path(out)
    texts = (config.model, *(config.ensemble_builds or ()), config.data or "")
    if isinstance(attack, str) and not any(text.startswith(IN_MEMORY) for text in texts):
        from edgeproof.stages import Place, run_attacks

        (run,) = run_attacks([config], Place(folder, fresh))
    else:
        run = _run(config, spec, models, chosen, attack, out=folder, fresh=fresh)
    return Adversarial(**_fields(load_adversarial_set(run)), run=run)


def attack_spec(attack: str | AttackFn, *, norm: Norm | None, access: Access) -> AttackSpec:
    """Return what an attack promises: of a registered one as it is registered, of a function as the caller says.

    Raises:
        ConfigError: For an unknown name, a function without `norm` or `eps`, or a norm for a registered attack.
    """
    from edgeproof.attacks.base import AttackSpec, find_attack

    if isinstance(attack, str):
        spec = find_attack(attack)
        if norm not in (None, spec.norm):
            raise ConfigError(f"attack {attack!r} keeps to {spec.norm}, not {norm!r}; leave norm out")
        return spec
    if not callable(attack):
        raise ConfigError(f"attack = {attack!r}: expected a name or a function (model, x, y, *, eps, ...)")
    name, options = getattr(attack, "registered", (getattr(attack, "__name__", "attack"), {}))
    given = {"access": access, **options, **({"norm": norm} if norm else {})}
    if given.get("norm") not in ("linf", "l2"):
        raise ConfigError(f"attack {name!r} does not say what its budget is measured in; add norm='linf' or norm='l2'")
    if given["access"] not in ("gradients", "queries", "none"):
        raise ConfigError(
            f"access = {given['access']!r} of attack {name!r} is not known; expected gradients, queries or none"
        )
    return AttackSpec(name=name, entry=_entry(attack, name), **given)


@dataclass(frozen=True)
class _FunctionEntry(Entry):
    target: AttackFn = print

    def load(self) -> AttackFn:
        return self.target if inspect.isfunction(self.target) else lambda *args, **kwargs: self.target(*args, **kwargs)


def _entry(function: AttackFn, name: str) -> Entry:
    found = list(inspect.signature(function).parameters.values())
    own = [each for each in found[3:] if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if len(found) < 4 or "eps" not in [each.name for each in own]:
        raise ConfigError(
            f"attack {name!r} is {name}{inspect.signature(function)}; expected (model, x, y, *, eps, ...)"
        )
    params = tuple(
        Param(
            each.name,
            _annotation(function, each),
            REQUIRED if each.default is each.empty else each.default,
        )
        for each in own
    )
    module = getattr(function, "__module__", "__main__")
    return _FunctionEntry(
        "attack", name, module, name, (function.__doc__ or "").split("\n")[0], params, target=function
    )


_READABLE = (int, float, bool, str)


def _annotation(function: AttackFn, param: inspect.Parameter) -> Any:
    """Return the type by which a parameter's text is read, or Any, which leaves the value as it is given."""
    holder = SimpleNamespace(__annotations__={param.name: param.annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    if param.annotation is param.empty:
        return Any
    try:
        kind = typing.get_type_hints(holder, globalns=names)[param.name]
    except (NameError, TypeError):  # a name that exists for the type checker alone
        return Any
    inner = [part for part in typing.get_args(kind) if part is not type(None) and part is not Ellipsis]
    plain = (
        kind in _READABLE or typing.get_origin(kind) is Literal or (bool(inner) and all(p in _READABLE for p in inner))
    )
    return kind if plain else Any


def _craft(
    config: AttackConfig, spec: AttackSpec, models: Sequence[Model], images: Images, folder: Path
) -> Adversarial:
    from edgeproof.attacks.craft import craft_sets
    from edgeproof.source_model.ensemble import combine

    with ExitStack() as stack:
        sources = [open_attacked(each, images.data, config, access=spec.access, stack=stack) for each in models]
        (made,) = craft_sets(
            [config],
            [folder],
            spec=spec,
            source=combine(sources),
            data=images.data,
            load_train=lambda: Images(images.config, split="train", limit=None, seed=0).data,
        )
    return Adversarial(**_fields(made))


def _run(
    config: AttackConfig,
    spec: AttackSpec,
    models: Sequence[Model],
    images: Images,
    attack: str | AttackFn,
    *,
    out: Path,
    fresh: bool,
) -> Run:
    """Craft in a run folder what the command line cannot name; its identity is the content of what was given."""
    from edgeproof.attacks.craft import CHUNKS
    from edgeproof.attacks.perturbed import FIT
    from edgeproof.stages import slug

    plain = config.model_copy(update={"params": {key: _plain(key, value) for key, value in config.params.items()}})
    content = {
        "models": [model.sha256 for model in models],
        "images": hash_labelled(images.data),
        "index": hashlib.sha256(images.data.index.tobytes()).hexdigest(),
        "attack": attack if isinstance(attack, str) else _source(attack, spec),
    }

    def work(run: Run) -> None:
        run.intermediate(CHUNKS, FIT)
        save_adversarial_set(run, _craft(config, spec, models, images, run.path))

    return run_in_folder(
        work,
        plain,
        kind="attack",
        name=f"{slug(models[0].name)}-{slug(spec.name)}-{slug(format_eps(config.eps))}",
        content=content,
        out=out,
        fresh=fresh,
        inputs={} if config.deployed is None else {"deployed": Path(config.deployed)},
    )


def _text(model: Model) -> str:
    return f"{IN_MEMORY}{model.name}" if model.source is None or model.folder is not None else str(model.source)


def _deployed(like: ModelLike) -> str:
    found = opened(like)
    if len(found) != 1 or found[0].source is None:
        raise ConfigError(f"deployed = {like!r}: expected one ONNX file or train run")
    return str(found[0].source)


def _plain(name: str, value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} is {type(value).__name__}, which a run folder cannot record; give numbers and texts, or leave out= out"
        ) from error
    return value


def _source(function: AttackFn, spec: AttackSpec) -> Mapping[str, Any]:
    """Return what stands for a function: its source, or this very object where it has none that can be read."""
    try:
        return {"norm": spec.norm, "access": spec.access, "source": inspect.getsource(function)}
    except (OSError, TypeError):
        return {"unhashed": uuid.uuid4().hex}


def _fields(made: AdversarialSet) -> dict[str, Any]:
    return {each.name: getattr(made, each.name) for each in fields(AdversarialSet)}
