"""Is there noise in training images that were received? A linear model on what a blur takes away, and its false alarms.

Noise that is to be learned before the image is itself linearly separable (Yu et al., 2022, arXiv:2111.00898), and little of
an image is in its residual x - blur(x), where such noise is nearly whole. So two linear models are fitted there: one that separates
suspected images from trusted clean ones, and one that predicts the classes, for the suspected and for the trusted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeproof.config import DetectConfig, Strict
from edgeproof.data.base import LabelledImages, load_dataset, load_splits
from edgeproof.data.poison import load_poison, poison_splits
from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import Rate
from edgeproof.runs import Run
from edgeproof.system.optional import require
from edgeproof.types import Array, Images, Labels

_WINDOW = 3  # pixels of the blur's side
_FOLDS = 5
_FEWEST = 40  # images of each kind: two folds of ten for each half would say nothing
_ALPHAS = np.logspace(0, 6, 7)  # strengths of the penalty, of which leave-one-out chooses


class DetectRecord(Strict):
    """The findings of a linear model in residuals; rates are of images that nothing was fitted to.

    auc: chance that a suspected image scores above a trusted one (0.5: they cannot be told apart), with p_value, the one-sided
    Mann-Whitney probability of such an area among images that cannot. flagged: suspected images over the threshold, which is
    set on other trusted images. false_alarms: trusted images over it. labels_suspected, labels_trusted: images whose class the
    residual alone predicts.
    """

    auc: float
    p_value: float
    flagged: Rate
    false_alarms: Rate
    labels_suspected: Rate
    labels_trusted: Rate


def detect_noise(config: DetectConfig) -> DetectRecord:
    """Compare the training images of a data set, or the poisoned ones of a run, with trusted test images.

    Raises:
        DataError: When the images do not fit together, or are too few.
        UnavailableError: When scikit-learn is not installed.
    """
    splits = load_splits(config.data)
    if not len(splits.train):
        raise DataError(
            f"data set {config.data.name!r} has no training images, and these are what is looked at; give folder:PATH with a "
            "folder per class, or an npz with x_train and y_train"
        )
    if config.poison is not None:
        splits = poison_splits(splits, load_poison(Run.open(config.poison, kind="poison")))
    trusted = splits.test if config.trusted is None else load_dataset(config.trusted).test
    return compare(splits.train, trusted, images=config.images, false_alarms=config.false_alarms, seed=config.seed)


def compare(
    suspected: LabelledImages, trusted: LabelledImages, *, images: int, false_alarms: float, seed: int
) -> DetectRecord:
    """Fit to one half of the images and measure on the other.

    Args:
        suspected: The images in question.
        trusted: Clean ones of the same kind.
        images: At most so many of each.
        false_alarms: Share of trusted images that the threshold may flag, in (0, 1).
        seed: Of the choice of images and of the halves.

    Raises:
        DataError: For images of another shape, or fewer than 40 of either.
        UnavailableError: When scikit-learn is not installed.
    """
    if suspected.input_shape != trusted.input_shape:
        raise DataError(
            f"suspected images are {suspected.input_shape} and trusted ones {trusted.input_shape}; expected the same (C, H, W)"
        )
    chosen = _choose(suspected, trusted, images=images, seed=seed)
    halves = [_halves(each, seed=seed) for each in chosen]
    (fit_bad, held_bad), (fit_good, held_good) = [[residuals(half.images) for half in pair] for pair in halves]
    rows, kinds = np.concatenate([fit_good, fit_bad]), np.repeat([0, 1], [len(fit_good), len(fit_bad)])
    model = _model().fit(rows, kinds)
    scores = _out_of_fold(rows, kinds, alpha=model[-1].alpha_, seed=seed)
    threshold = np.quantile(scores[kinds == 0], 1 - false_alarms)
    bad, good = model.decision_function(held_bad), model.decision_function(held_good)
    test = require("scipy.stats", extra="data", purpose="compare scores").mannwhitneyu(bad, good, alternative="greater")
    labels = [
        Rate.of(_model().fit(rows, pair[0].labels).predict(held) == pair[1].labels)
        for pair, rows, held in zip(halves, (fit_bad, fit_good), (held_bad, held_good), strict=True)
    ]
    return DetectRecord(
        auc=float(test.statistic) / (len(bad) * len(good)),
        p_value=float(test.pvalue),
        flagged=Rate.of(bad > threshold),
        false_alarms=Rate.of(good > threshold),
        labels_suspected=labels[0],
        labels_trusted=labels[1],
    )


def residuals(images: Images) -> Array:
    """Return x - blur(x) over 3 x 3 pixels, and its magnitude, of images (N, C, H, W): (N, 2 * C * H * W) float32.

    The sign shows a pattern that repeats; the magnitude shows noise that does not.
    """
    blur = require("scipy.ndimage", extra="data", purpose="blur images").uniform_filter
    rest = (images - blur(images, size=(1, 1, _WINDOW, _WINDOW), mode="nearest")).reshape(len(images), -1)
    return np.concatenate([rest, np.abs(rest)], axis=1)


def _choose(
    suspected: LabelledImages, trusted: LabelledImages, *, images: int, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Return a stratified choice of each; as many of a class in both, so that other class sizes are not taken for noise."""
    chosen = [each.head(images, seed=seed) for each in (suspected, trusted)]
    if suspected.classes == trusted.classes:
        counts = [np.bincount(each.labels, minlength=each.num_classes) for each in chosen]
        chosen = [_first_of_each(each, np.minimum(*counts)) for each in chosen]
    for each, whole in zip(chosen, (suspected, trusted), strict=True):
        classes = len(np.unique(each.labels))
        if len(each) < _FEWEST or classes < 2:
            raise DataError(
                f"{whole.name}/{whole.split} has {len(whole)} images, of which {len(each)} of {classes} classes can be compared; "
                f"expected {_FEWEST} or more of two classes or more, as many of a class among the suspected as among the trusted; "
                "give more images, or raise --images"
            )
    return chosen[0], chosen[1]


def _first_of_each(data: LabelledImages, counts: Array) -> LabelledImages:
    rows = [np.flatnonzero(data.labels == label)[:count] for label, count in enumerate(counts)]
    return data.take(np.sort(np.concatenate(rows)))


def _halves(chosen: LabelledImages, *, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Return two halves of the images; every class with two images is in both."""
    order = np.random.default_rng([seed, 7]).permutation(len(chosen))
    order = order[np.argsort(chosen.labels[order], kind="stable")]
    return chosen.take(order[::2]), chosen.take(order[1::2])


def _model(alpha: float | None = None) -> Any:
    """Return a linear classifier of standardised features, its penalty chosen by leave-one-out where it is not given."""
    linear, pipeline, scaling = (
        require(f"sklearn.{name}", extra="data", purpose="tell noise from images")
        for name in ("linear_model", "pipeline", "preprocessing")
    )
    ridge = linear.RidgeClassifierCV(_ALPHAS) if alpha is None else linear.RidgeClassifier(alpha)
    return pipeline.make_pipeline(scaling.StandardScaler(), ridge)


def _out_of_fold(rows: Array, kinds: Labels, *, alpha: float, seed: int) -> Array:
    """Return the score of each image by a model that was fitted without it, (N,)."""
    selection = require("sklearn.model_selection", extra="data", purpose="set a threshold")
    folds = selection.StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    scores: Array = selection.cross_val_predict(_model(alpha), rows, kinds, cv=folds, method="decision_function")
    return scores
