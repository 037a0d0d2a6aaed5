"""Protected classes: cost-sensitive adversarial training and the Min-Max defence, with the controls that they need."""

from __future__ import annotations

from functools import partial

from edgeproof.plugins.registry import register
from edgeproof.studies.base import Study
from edgeproof.studies.protected_jobs import Protocol, make_jobs
from edgeproof.studies.protected_report import find


@register(
    "protected",
    presets={
        "smoke": {
            "data": "digits", "train_images": 400, "epochs": 1, "protected_images": 12, "other_images": 4, "restarts": 1,
            "steps": 5, "queries": 20, "searches": 2, "cw_steps": 10, "eps": 0.1, "rows": ("normal", "normal-continued", "cse"),
        },
        "small": {},
        "fashion": {"data": "fashion-mnist", "eps": 0.096, "eps_l2": 1.0, "conv2": 5.0},
        "cifar": {"data": "cifar10", "eps": 0.006, "eps_l2": 0.25, "conv2": 1.0, "epochs": 10, "train_images": 20000},
        "paper": {
            "seeds": (0, 1, 2), "protect": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), "train_images": 60000, "epochs": 10,
            "protected_images": 100, "other_images": 100,
            "rows": (
                "normal", "normal-continued", "adv", "adv-continued", "csa-both", "csa-miss", "csa-false-alarm", "cse",
                "sparse-only", "cost-only", "l2-conv1", "pgd-at", "trades", "cfa", "dafa", "worst-class",
            ),
        },
    },
)  # fmt: skip
def protected(
    *,
    seeds: tuple[int, ...] = (0,),
    data: str = "mnist",
    model: str = "lenet",
    protect: tuple[int, ...] = (8,),
    cost: float = 10.0,
    rows: tuple[str, ...] = (
        "normal", "normal-continued", "adv", "adv-continued", "csa-both", "csa-miss", "cse", "sparse-only", "cost-only",
        "l2-conv1",
    ),
    train_images: int = 10000,
    epochs: int = 4,
    eps: float = 0.092,
    eps_l2: float = 1.5,
    conv1: float = 1.0,
    conv2: float = 0.0,
    protected_images: int = 300,
    other_images: int = 25,
    steps: int = 40,
    restarts: int = 3,
    cw_steps: int = 60,
    searches: int = 4,
    queries: int = 500,
) -> Study:  # fmt: skip
    """Cost-sensitive adversarial training of protected classes, and the Min-Max defence.

    After Shen et al. (2022, arXiv:2101.12372), with what their code does not have: adversarial training continued for as many
    epochs, each half of the cost matrix, sparsity, cost and weight decay of the first convolution alone, and the deployed
    forms. Differing from it, one step of the optimiser sees clean and attacked images together, FGSM's images are clipped to
    [0, 1], the learning rate is constant and no checkpoint is chosen by the test images.

    Args:
        seeds: Each trains every row anew, on training and test images of its own draw.
        data: Data set.
        model: Network, with at least one convolution, two where `conv2` is set.
        protect: Numbers of the protected classes.
        cost: What their mistakes cost; every other mistake costs 1.
        rows: Ways of training; most continue another one.
        train_images: Images trained on.
        epochs: Of each stage.
        eps: L-infinity budget in pixel units; the paper's 0.3 is in normalised units, 0.092 on MNIST.
        eps_l2: L2 budget of DeepFool and of Carlini & Wagner.
        conv1: Weight of the penalty of the first convolution.
        conv2: Of the second one.
        protected_images: Test images of each protected class.
        other_images: Of each other class; means over classes weigh every class the same.
        steps: Of PGD.
        restarts: Of PGD.
        cw_steps: Of Carlini & Wagner, for each constant.
        searches: Constants that Carlini & Wagner try.
        queries: Of Square.
    """
    protocol = Protocol(
        seeds=seeds,
        data=data,
        model=model,
        protect=protect,
        cost=cost,
        rows=rows,
        train_images=train_images,
        epochs=epochs,
        eps=eps,
        eps_l2=eps_l2,
        conv1=conv1,
        conv2=conv2,
        protected_images=protected_images,
        other_images=other_images,
        steps=steps,
        restarts=restarts,
        cw_steps=cw_steps,
        searches=searches,
        queries=queries,
    )
    return Study(jobs=make_jobs(protocol), collect=partial(find, protocol=protocol))
