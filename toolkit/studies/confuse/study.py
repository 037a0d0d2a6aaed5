"""Does training on poisoned images confuse a classifier, which ones, and what undoes it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeproof.config import format_eps
from edgeproof.errors import ConfigError, nearest
from edgeproof.plugins.registry import register
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.confuse import findings, measure, report
from edgeproof.studies.confuse.published import PUBLISHED
from edgeproof.studies.frame import saved
from edgeproof.studies.jobs import NO_PARITY_LIMITS, Job

#: Method of `poison` to the job that makes it: noise of the later literature, with no generator.
BASELINES = {"error-minimising": "minimised", "class-patterns": "patterns"}
_BASELINE_LR = 0.01
_CLASSICAL = ("forest", "svm")  # of scikit-learn
_CLEAN_DRAWS = 10  # of clean training images, for the detector
_ATTACK_STEPS = 5  # in adversarial training


@dataclass(frozen=True)
class Victim:
    """One network, forest or SVM that is fitted to training images.

    Attributes:
        name: Of its jobs, unique.
        table: Where it is reported.
        network: A model's registry name, "forest" or "svm".
        poison: The job that made its training images; None for clean ones.
        seed: Of the victim.
        eps: Budget of its noise; 0 where there is none.
        share: Part of the training images that were changed.
        defence: A filter before training (`squeeze`), "cutout", "mixup", or "adversarial=EPS" for adversarial training.
        noise: Whether it is also measured on noise alone.
    """

    name: str
    table: str
    network: str
    poison: str | None
    seed: int
    eps: float = 0.0
    share: float = 1.0
    defence: str | None = None
    noise: bool = False

    @property
    def measured_by(self) -> str:
        """The job that has measured it."""
        return self.name if self.network in _CLASSICAL else f"{self.name}-measured"


@register(
    "confuse",
    presets={
        "smoke": {
            "data": "digits",
            "limit": 400,
            "trials": 1,
            "generator_width": 4,
            "epochs": 1,
            "seeds": (0,),
            "loop_victim": "lenet",
            "victim": "lenet",
            "others": ("forest",),
            "budgets": (),
            "shares": (0.5,),
            "defences": ("jpeg=10",),
            "target": "next",
        },
        "small": {},
        "medium": {"budgets": (0.1, 0.15, 0.2, 0.25), "shares": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)},
        "paper": {
            "data": "cifar10",
            "limit": None,
            "eps": 0.032,
            "trials": 1000,
            "generator": "unet",
            "generator_width": 64,
            "generator_lr": 1e-4,
            "loop_victim": "confuse-conv5",
            "loop_lr": 0.01,
            "loop_epochs": 20,
            "loop_batch": 64,
            "victim": "confuse-conv5",
            "others": ("vgg16-bn", "resnet-18"),
            "epochs": 30,
            "lr": 1e-3,
            "augment": "flip-crop",
            "seeds": (0, 1, 2, 3, 4),
            "defences": ("jpeg=10", "grey", "bits=3", "blur=1", "cutout", "mixup", "adversarial=8/255"),
            "target": None,
            "device": "cuda",
            "amp": True,
        },
    },
    former={"curves": ("medium", {})},
)
@dataclass(frozen=True, kw_only=True)
class Confuse:
    """Learning to confuse: training-time adversarial data from an auto-encoder.

    Feng, Cai and Zhou (2019, arXiv:1905.09027) add bounded noise from a generator to all training images, so that a classifier
    fitted to them is wrong on clean images. One generator is trained here; every victim below is fitted afresh and was never
    seen by it. It is chosen on held-out training images; the published code chose on the test images.

    Args:
        seeds: Seeds of the victims; the generator is trained once, with the first.
        data: Data set.
        limit: Training images to use, stratified; none for all.
        eps: L-infinity budget.
        trials: Victims that the generator learns from.
        generator: encoder-decoder or unet.
        generator_width: Channels of its first stage; none for those of the paper.
        generator_lr: Learning rate of the generator (Adam).
        loop_victim: Network that the generator learns from.
        loop_lr: Learning rate of that network (SGD). At 0.1 twenty trials do what takes the published 0.01 many more.
        loop_epochs: Passes of each victim that the generator learns from.
        loop_batch: Images per step of these victims.
        victim: Network of the main table.
        others: Other victims: networks, and forest and svm of scikit-learn.
        epochs: Passes of a victim over the images.
        lr: Learning rate of a victim (Adam).
        augment: none, flip, crop or flip-crop, while victims are fitted.
        budgets: Other budgets, each with a generator of its own.
        shares: Shares of the training images that are poisoned, in addition to all of them.
        defences: Against the noise: filters on the training images (`train --squeeze`), cutout, mixup, and adversarial=EPS for
            adversarial training.
        baselines: Noise of the later literature to compare with: error-minimising and class-patterns.
        target: Wanted classes of a label-specific generator: next, to=CLASS or a list; none for no such generator.
        target_trials: Victims that the label-specific generator learns from; none for as many as `trials`.
        target_lr: Learning rate of the label-specific generator (Adam); none for `generator_lr`.
        deployed: Whether a confused victim is exported and measured in FP16 and INT8 on ONNX Runtime.
        device: cpu or cuda.
        amp: Autocast to bfloat16.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    data: str = "mnist"
    limit: int | None = 10000
    eps: float = 0.3
    trials: int = 20
    generator: str = "encoder-decoder"
    generator_width: int | None = None
    generator_lr: float = 5e-4
    loop_victim: str = "confuse-cnn-small"
    loop_lr: float = 0.1
    loop_epochs: int = 1
    loop_batch: int = 64
    victim: str = "confuse-cnn"
    others: tuple[str, ...] = ("confuse-cnn-small", "confuse-cnn-large", "lenet", "resnet-20", "forest", "svm")
    epochs: int = 2
    lr: float = 0.01
    augment: str = "none"
    budgets: tuple[float, ...] = ()
    shares: tuple[float, ...] = (0.5, 0.8, 0.9)
    defences: tuple[str, ...] = ("jpeg=10", "bits=1", "blur=1", "cutout", "mixup", "adversarial=0.15")
    baselines: tuple[str, ...] = ("error-minimising", "class-patterns")
    target: str | None = "next"
    target_trials: int | None = None
    target_lr: float | None = None
    deployed: bool = True
    device: str = "cpu"
    amp: bool = False

    def __post_init__(self) -> None:
        """Check what a signature cannot say.

        Raises:
            ConfigError: When there is no seed, or for a baseline that is not known.
        """
        if not self.seeds:
            raise ConfigError("seeds is empty; expected one or more, such as 0,1,2")
        for method in self.baselines:
            if method not in BASELINES:
                raise ConfigError(
                    f"baselines: unknown {method!r}{nearest(method, BASELINES)}; known: {', '.join(BASELINES)}"
                )

    def jobs(self) -> tuple[Job, ...]:
        """Poison training images, fit every victim and measure it, and look for the noise."""
        jobs = [*self._poisons(), *(job for victim in self.victims() for job in self._fit(victim)), *self._detections()]
        if self.deployed:
            jobs.append(Job("exported", "export", {"model": f"{{{self.shown().name}}}", **NO_PARITY_LIMITS}))
            asked = {"engines": ("{exported}",), "data": self.data, "throughput": False, "invariance": 0, "gallery": 0}
            jobs.append(Job("deployed", "eval", asked))
        # The other budgets, and all that needs them, come last: the main tables before the long curve.
        last = {f"poison-{_word(eps)}" for eps in self.budgets}
        for job in jobs:
            if last & set(job.needs):
                last.add(job.name)
        return tuple(sorted(jobs, key=lambda job: job.name in last))

    def findings(self, runs: Mapping[str, Run]) -> Findings:
        """Judge the claims, and put the published numbers next to what was measured."""
        victims = [{**asdict(victim), **measure.read_measured(runs[victim.measured_by])} for victim in self.victims()]
        rows = [*victims, *findings.detections({title: runs[job] for title, job in self.suspected()})]
        published = PUBLISHED.get(self.data, {})
        return Findings(
            verdicts=findings.verdicts(rows, published=published),
            rows=saved(rows, without=measure.UNSAVED),
            sections=report.sections(
                rows,
                published=published,
                eps=self.eps,
                poison=runs["poison"],
                shown=runs[self.shown().measured_by],
                deployed=runs.get("deployed"),
            ),
        )

    def victims(self) -> Iterator[Victim]:
        """List every victim, what it is fitted to and for which table."""
        one, eps, network = self.seeds[0], self.eps, self.victim
        for seed in self.seeds:
            yield Victim(f"clean-{seed}", "main", network, None, seed)
            yield Victim(f"poisoned-{seed}", "main", network, "poison", seed, eps, noise=True)
        for other in self.others:
            yield Victim(f"clean-{other}", "transfer", other, None, one)
            yield Victim(f"poisoned-{other}", "transfer", other, "poison", one, eps)
        for budget in self.budgets:
            yield Victim(f"budget-{_word(budget)}", "budget", network, f"poison-{_word(budget)}", one, budget)
        for share in self.shares:
            for kind, noise in (("poison", eps), ("flip", 0.0)):
                part = f"{kind}-part-{share:g}"
                yield Victim(f"fit-{part}", kind, network, part, one, noise, share)
        for how in self.defences:
            name = how.replace("=", "-").replace("/", "-")
            yield Victim(f"clean-{name}", "defence", network, None, one, defence=how)
            yield Victim(f"poisoned-{name}", "defence", network, "poison", one, eps, defence=how)
        for method in self.baselines:
            yield Victim(f"{BASELINES[method]}-fit", "baseline", network, BASELINES[method], one, eps)
        if self.target is not None:
            yield Victim("target", "target", network, "poison-target", one, eps)

    def shown(self) -> Victim:
        """Return the victim whose images are shown and that is deployed: the first poisoned one."""
        return next(victim for victim in self.victims() if victim.poison)

    def suspected(self) -> Iterator[tuple[str, str]]:
        """List the kinds of training images in which the detector looks for noise, and the job that does."""
        yield findings.CLEAN, "look-clean"
        yield f"generator, eps {format_eps(self.eps)}", "look-poison"
        for eps in self.budgets:
            yield f"generator, eps {format_eps(eps)}", f"look-poison-{_word(eps)}"
        for share in self.shares:
            yield f"generator, {share:g} of the images", f"look-poison-part-{share:g}"
        if self.target is not None:
            yield "label-specific generator", "look-poison-target"
        for method in self.baselines:
            yield method.replace("-", " "), f"look-{BASELINES[method]}"

    def _images(self) -> dict[str, Any]:
        return {"name": self.data, **({"limit_train": self.limit} if self.limit else {})}

    def _poisons(self) -> Iterator[Job]:
        """Make the poisoned training sets: first what trains a generator, then what applies one."""
        loop = {
            **{f"data.{key}": value for key, value in self._images().items()},
            "eps": self.eps,
            "trials": self.trials,
            "generator": self.generator,
            "generator_width": self.generator_width,
            "seed": self.seeds[0],
            "generator_lr": self.generator_lr,
            "victim": self.loop_victim,
            "victim_lr": self.loop_lr,
            "victim_epochs": self.loop_epochs,
            "batch_size": self.loop_batch,
            "device": self.device,
            "amp": self.amp,
        }
        yield Job("poison", "poison", loop)
        for eps in self.budgets:
            yield Job(f"poison-{_word(eps)}", "poison", {**loop, "eps": eps})
        if self.target is not None:
            own = {"trials": self.target_trials or self.trials, "generator_lr": self.target_lr or self.generator_lr}
            yield Job("poison-target", "poison", {**loop, "target": self.target, **own})
        for share in self.shares:
            yield Job(f"poison-part-{share:g}", "poison", {**loop, "reuse": "{poison}", "ratio": share})
            yield Job(f"flip-part-{share:g}", "poison", {**loop, "method": "label-flip", "ratio": share})
        for method in self.baselines:
            yield Job(BASELINES[method], "poison", {**loop, "method": method, "victim_lr": _BASELINE_LR})

    def _fit(self, victim: Victim) -> Iterator[Job]:
        """Fit a victim and measure it."""
        poison = None if victim.poison is None else f"{{{victim.poison}}}"
        shared = {"poison": poison, "data": self._images(), "seed": victim.seed}
        if victim.network in _CLASSICAL:
            yield Job(victim.name, f"{measure.__name__}:fit_classical", {**shared, "kind": victim.network})
            return
        training = {
            **{f"data.{key}": value for key, value in self._images().items()},
            "epochs": self.epochs,
            "lr": self.lr,
            "optimizer": "adam",
            "weight_decay": 0.0,
            "schedule": "constant",
            "batch_size": 64,
            "augment": self.augment,
            "device": self.device,
            "amp": self.amp,
            "model": victim.network,
            "poison": poison,
            "seed": victim.seed,
        }
        how, _, value = (victim.defence or "").partition("=")
        if how == "adversarial":
            training |= {"objective": "adversarial", "objective_params": {"eps": value, "steps": _ATTACK_STEPS}}
        elif how == "mixup":
            training["objective"] = "mixup"
        elif how == "cutout":
            training["augment"] = "cutout" if self.augment == "none" else f"{self.augment}-cutout"
        else:
            training["squeeze"] = victim.defence
        yield Job(victim.name, "train", training)
        asked = {**shared, "model": f"{{{victim.name}}}", "noise": victim.noise, "device": self.device}
        yield Job(victim.measured_by, f"{measure.__name__}:measure", asked)

    def _detections(self) -> Iterator[Job]:
        """Look for the noise in each kind of poisoned images, and in several draws of clean ones."""
        for title, name in self.suspected():
            poison = None if title == findings.CLEAN else f"{{{name.removeprefix('look-')}}}"
            draws = 1 if poison else _CLEAN_DRAWS
            config = {"data": self._images(), "poison": poison, "seed": self.seeds[0], "draws": draws}
            yield Job(name, f"{measure.__name__}:detect", config)


def _word(eps: float) -> str:
    return format_eps(eps).replace("/", "-")
