"""Does training on poisoned images confuse a classifier, which ones, and what undoes it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgeproof.config import format_eps
from edgeproof.errors import ConfigError, nearest
from edgeproof.plugins.registry import register
from edgeproof.runs import Run
from edgeproof.studies.base import Findings, Study
from edgeproof.studies.feng_cai_zhou.fits import Fit, fit_jobs, read_fits
from edgeproof.studies.feng_cai_zhou.looks import CLEAN, look_cells, read_looks
from edgeproof.studies.feng_cai_zhou.report import PUBLISHED, sections, verdicts
from edgeproof.studies.jobs import Job

#: Method of `poison` to the job that makes it: noise of the later literature, with no generator.
BASELINES = {"error-minimising": "minimised", "class-patterns": "patterns"}
_CLEAN_DRAWS = 10
_BASELINE_LR = 0.01


@register(
    "confuse",
    presets={
        "smoke": {
            "data": "digits", "limit": 400, "trials": 1, "generator_width": 4, "epochs": 1, "seeds": (0,), "loop_victim": "lenet",
            "victim": "lenet", "others": ("forest",), "budgets": (), "shares": (0.5,), "defences": ("jpeg=10",), "target": "next",
        },
        "small": {},
        "curves": {"budgets": (0.1, 0.15, 0.2, 0.25), "shares": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)},
        "paper": {
            "data": "cifar10", "limit": None, "eps": 0.032, "trials": 1000, "generator": "unet", "generator_width": 64,
            "generator_lr": 1e-4, "loop_victim": "confuse-conv5", "loop_lr": 0.01, "loop_epochs": 20, "loop_batch": 64, "victim": "confuse-conv5",
            "others": ("vgg16-bn", "resnet-18"), "epochs": 30, "lr": 1e-3, "augment": "flip-crop", "seeds": (0, 1, 2, 3, 4),
            "defences": ("jpeg=10", "grey", "bits=3", "blur=1", "cutout", "mixup", "adversarial=8/255"), "target": None, "device": "cuda", "amp": True,
        },
    },
)  # fmt: skip
def confuse(
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str = "mnist",
    limit: int | None = 10000,
    eps: float = 0.3,
    trials: int = 20,
    generator: str = "encoder-decoder",
    generator_width: int | None = None,
    generator_lr: float = 5e-4,
    loop_victim: str = "confuse-cnn-small",
    loop_lr: float = 0.1,
    loop_epochs: int = 1,
    loop_batch: int = 64,
    victim: str = "confuse-cnn",
    others: tuple[str, ...] = ("confuse-cnn-small", "confuse-cnn-large", "lenet", "resnet-20", "forest", "svm"),
    epochs: int = 2,
    lr: float = 0.01,
    augment: str = "none",
    budgets: tuple[float, ...] = (),
    shares: tuple[float, ...] = (0.5, 0.8, 0.9),
    defences: tuple[str, ...] = ("jpeg=10", "bits=1", "blur=1", "cutout", "mixup", "adversarial=0.15"),
    baselines: tuple[str, ...] = ("error-minimising", "class-patterns"),
    target: str | None = "next",
    target_trials: int | None = None,
    target_lr: float | None = None,
    deployed: bool = True,
    device: str = "cpu",
    amp: bool = False,
) -> Study:
    """Learning to confuse: training-time adversarial data from an auto-encoder.

    Feng, Cai and Zhou (2019, arXiv:1905.09027) add bounded noise from a generator to all training images, so that a classifier
    fitted to them is wrong on clean images. One generator is trained here; every victim below is fitted afresh and was never
    seen by it. It is chosen on held-out training images; the published code chose on the test images.

    Args:
        seeds: Of the victims; the generator is trained once, with the first.
        data: Data set.
        limit: Training images to use, stratified; none for all.
        eps: L-infinity budget.
        trials: Victims that the generator learns from.
        generator: encoder-decoder or unet.
        generator_width: Channels of its first stage; none for those of the paper.
        generator_lr: Adam's learning rate.
        loop_victim: Network that the generator learns from.
        loop_lr: Its learning rate (SGD). At 0.1 twenty trials do what takes the published 0.01 many more.
        loop_epochs: Passes of each of these.
        loop_batch: Images a step, there.
        victim: Network of the main table.
        others: Networks to transfer to, and of scikit-learn forest and svm.
        epochs: Passes of a victim over the images.
        lr: Its learning rate (Adam).
        augment: none, flip, crop or flip-crop, while victims are fitted.
        budgets: Other budgets, each with a generator of its own.
        shares: Parts of the training images that are poisoned, beside all of them.
        defences: Against the noise: filters on the training images (`train --squeeze`), cutout, mixup, and adversarial=EPS for
            adversarial training.
        baselines: Noise of the later literature, beside it: error-minimising and class-patterns.
        target: Wanted classes of a label-specific generator: next, to=CLASS or a list; none for no such generator.
        target_trials: Victims that it learns from; none for as many as `trials`.
        target_lr: Adam's learning rate for it; none for `generator_lr`.
        deployed: Whether a confused victim is exported and measured in FP16 and INT8 on ONNX Runtime.
        device: cpu or cuda.
        amp: Autocast to bfloat16.
    """
    if not seeds:
        raise ConfigError("seeds is empty; expected one or more, such as 0,1,2")
    for method in baselines:
        if method not in BASELINES:
            raise ConfigError(
                f"baselines: unknown {method!r}{nearest(method, BASELINES)}; known: {', '.join(BASELINES)}"
            )
    images = {"data.name": data, **({"data.limit_train": limit} if limit else {})}
    loop = {
        **images, "eps": eps, "trials": trials, "generator": generator, "generator_width": generator_width, "seed": seeds[0],
        "generator_lr": generator_lr, "victim": loop_victim, "victim_lr": loop_lr, "victim_epochs": loop_epochs,
        "batch_size": loop_batch, "device": device, "amp": amp,
    }  # fmt: skip
    training = {
        **images, "epochs": epochs, "lr": lr, "optimizer": "adam", "weight_decay": 0.0, "schedule": "constant",
        "batch_size": 64, "augment": augment, "device": device, "amp": amp,
    }  # fmt: skip
    plan = Plan(data, seeds, eps, victim, others, budgets, shares, defences, baselines, target)
    aimed = {"target": target, "trials": target_trials or trials, "generator_lr": target_lr or generator_lr}
    fits = tuple(plan.fits())
    jobs = (
        *plan.poisons(loop, {**loop, **aimed}),
        *(job for fit in fits for job in fit_jobs(fit, training)),
        *plan.looks(images),
        *(_deploy(fits[1], data=data) if deployed else ()),
    )
    return Study(_last(jobs, [f"poison-{_slug(eps)}" for eps in budgets]), partial(_collect, fits, plan))


def _last(jobs: Sequence[Job], names: Sequence[str]) -> tuple[Job, ...]:
    """Put the jobs of these names, and all that need them, behind the others: the main tables come before the long curve."""
    behind = set(names)
    for job in jobs:
        if behind & set(job.needs):
            behind.add(job.name)
    return tuple(sorted(jobs, key=lambda job: job.name in behind))


@dataclass(frozen=True)
class Plan:
    """What is to be fitted to what; see `confuse` for the fields."""

    data: str
    seeds: tuple[int, ...]
    eps: float
    victim: str
    others: tuple[str, ...]
    budgets: tuple[float, ...]
    shares: tuple[float, ...]
    defences: tuple[str, ...]
    baselines: tuple[str, ...]
    target: str | None

    def poisons(self, loop: Mapping[str, Any], aimed: Mapping[str, Any]) -> Iterator[Job]:
        """Make the poisoned training sets: first what trains a generator, then what applies one."""
        yield Job("poison", "poison", loop)
        for eps in self.budgets:
            yield Job(f"poison-{_slug(eps)}", "poison", {**loop, "eps": eps})
        if self.target is not None:
            yield Job("poison-target", "poison", aimed)
        for share in self.shares:
            yield Job(f"poison-part-{share:g}", "poison", {**loop, "reuse": "{poison}", "ratio": share})
            yield Job(f"flip-part-{share:g}", "poison", {**loop, "method": "label-flip", "ratio": share})
        for method in self.baselines:
            yield Job(BASELINES[method], "poison", {**loop, "method": method, "victim_lr": _BASELINE_LR})

    def looks(self, images: Mapping[str, Any]) -> Iterator[Job]:
        """Look for the noise in each kind of poisoned images, and in clean ones, ten draws of them."""
        for title, name in self.suspected():
            job = name.removeprefix("look-")
            poison = None if title == CLEAN else f"{{{job}}}"
            data = {key.removeprefix("data."): value for key, value in images.items()}
            draws = _CLEAN_DRAWS if poison is None else 1
            config = {"data": data, "poison": poison, "seed": self.seeds[0], "draws": draws}
            yield Job(name, "edgeproof.studies.feng_cai_zhou.looks:look", config)

    def suspected(self) -> Iterator[tuple[str, str]]:
        """Name the kinds of training images that are looked at, and the job that does."""
        yield CLEAN, "look-clean"
        yield f"generator, eps {format_eps(self.eps)}", "look-poison"
        for eps in self.budgets:
            yield f"generator, eps {format_eps(eps)}", f"look-poison-{_slug(eps)}"
        for share in self.shares:
            yield f"generator, {share:g} of the images", f"look-poison-part-{share:g}"
        if self.target is not None:
            yield "label-specific generator", "look-poison-target"
        for method in self.baselines:
            yield method.replace("-", " "), f"look-{BASELINES[method]}"

    def fits(self) -> Iterator[Fit]:
        """Name every victim, what it is fitted to and for which table."""
        yield from self._main()
        one = self.seeds[0]
        for network in self.others:
            yield Fit(f"clean-{network}", "transfer", network, None, seed=one)
            yield Fit(f"poisoned-{network}", "transfer", network, "poison", seed=one, eps=self.eps)
        for eps in self.budgets:
            yield Fit(f"budget-{_slug(eps)}", "budget", self.victim, f"poison-{_slug(eps)}", seed=one, eps=eps)
        for share in self.shares:
            for kind, eps in (("poison", self.eps), ("flip", 0.0)):
                yield Fit(
                    f"fit-{kind}-part-{share:g}",
                    kind,
                    self.victim,
                    f"{kind}-part-{share:g}",
                    seed=one,
                    eps=eps,
                    share=share,
                )
        yield from self._against()
        if self.target is not None:
            yield Fit("target", "target", self.victim, "poison-target", seed=one, eps=self.eps)

    def _main(self) -> Iterator[Fit]:
        for seed in self.seeds:
            yield Fit(f"clean-{seed}", "main", self.victim, None, seed=seed)
            yield Fit(f"poisoned-{seed}", "main", self.victim, "poison", seed=seed, eps=self.eps, noise=True)

    def _against(self) -> Iterator[Fit]:
        """Name the counter-measures, each on clean and on poisoned images, and the class-wise baseline."""
        one = self.seeds[0]
        for how in self.defences:
            for poison, eps in ((None, 0.0), ("poison", self.eps)):
                name = f"{'poisoned' if poison else 'clean'}-{how.replace('=', '-').replace('/', '-')}"
                yield Fit(name, "defence", self.victim, poison, seed=one, eps=eps, defence=how)
        for name in (BASELINES[method] for method in self.baselines):
            yield Fit(f"{name}-fit", "baseline", self.victim, name, seed=one, eps=self.eps)


def _deploy(fit: Fit, *, data: str) -> tuple[Job, Job]:
    """Export a confused victim and measure its graphs; it may lose any accuracy, since what it does is what is asked."""
    limits = {"parity.fp16_accuracy_drop": 1.0, "parity.int8_accuracy_drop": 1.0, "parity.int8_min_agreement": 0.0}
    export = Job("exported", "export", {"model": f"{{{fit.name}}}", **limits})
    asked = {"engines": ("{exported}",), "data": data, "throughput": False, "invariance": 0, "gallery": 0}
    return export, Job("deployed", "eval", asked)


def _collect(fits: tuple[Fit, ...], plan: Plan, runs: Mapping[str, Run]) -> Findings:
    found = read_fits(fits, runs)
    looks = read_looks({title: runs[job] for title, job in plan.suspected()})
    published = PUBLISHED.get(plan.data, {})
    return Findings(
        verdicts=verdicts(found, looks=looks, published=published),
        cells=(*(fit.cell() for fit in found), *look_cells(looks)),
        sections=sections(
            found,
            deployed=runs.get("deployed"),
            poison=runs["poison"],
            looks=looks,
            shown=runs[fits[1].measured_by],
            published=published,
            eps=plan.eps,
        ),
    )


def _slug(eps: float) -> str:
    return format_eps(eps).replace("/", "-")
