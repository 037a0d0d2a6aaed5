"""The margin cap of `universal-balanced`, chosen on validation images: balance and strength for several caps.

    python benchmarks/universal_kappa.py --models RUN [RUN ...] --eps 8/255

For each network, the plain perturbation at several scales gives a curve of balance against fooling ratio. A balanced one is
judged by the entropy of its predictions beyond that curve at its own fooling ratio, averaged over the weights tau of the
calibration. Perturbations are fitted on training images and judged on validation images; test images are not read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from edgeproof.attacks.base import Draws, find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.config import parse_number
from edgeproof.data.base import load_splits
from edgeproof.data.origin import data_of
from edgeproof.evaluation import metrics
from edgeproof.models.base import load_classifier
from edgeproof.ops import universal_apply
from edgeproof.runs import Run, write_json
from edgeproof.source_model.folding import fast_form
from edgeproof.system.environment import describe_environment
from edgeproof.types import Array

SCALES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def main() -> None:
    """Fit and judge every cap on every network, write the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    found = [row for model, eps in zip(options.models, options.eps, strict=True) for row in _rows(model, eps, options)]
    best = {kappa: mean(row["beyond"] for row in found if row["kappa"] == kappa) for kappa in options.kappas}
    for kappa, beyond in best.items():
        strength = mean(row["strength"] for row in found if row["kappa"] == kappa)
        print(
            f"kappa {kappa:g}: {beyond:+.1f} % of log K beyond the plain curve, strongest tau {strength:+.1f} points of fooling"
        )
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(
        options.results / "universal-kappa.json",
        {"command": " ".join(sys.argv), "environment": describe_environment(), "rows": found},
    )


def _rows(path: str, eps: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a cap for one network."""
    run = Run.open(path, kind="train")
    splits = load_splits(data_of(run))
    judged = splits.validation.head(options.limit)
    model = load_classifier(run.file("model.safetensors"))
    source = fast_form(model, torch.from_numpy(judged.images[:8]), mode="fast")
    images, labels = torch.from_numpy(splits.train.images), torch.from_numpy(splits.train.labels)

    def predicted(delta: torch.Tensor | None) -> Array:
        x = torch.from_numpy(judged.images)
        made = []
        with torch.no_grad():
            for start in range(0, len(x), 500):
                part = x[start : start + 500]
                made.append(model(part if delta is None else universal_apply(part, delta)).argmax(1))
        return torch.cat(made).numpy()

    clean = predicted(None)

    def point(delta: torch.Tensor | None) -> tuple[float, float]:
        """Fooling ratio and normalised entropy, both in per cent."""
        made = predicted(delta)
        fooling = metrics.fooling_ratio(clean, made).value or 0.0
        return 100 * fooling, 100 * (metrics.normalised_entropy(made, num_classes=judged.num_classes) or 0.0)

    def fitted(attack: str, **params: Any) -> torch.Tensor:
        chosen = choose_attack(find_attack(attack), eps=parse_number(eps), params={"steps": options.steps, **params})
        draws = Draws(seed=run.config["seed"], index=splits.train.index)
        delta = chosen.fit(source, images, labels, draws=draws)
        assert delta is not None
        return delta

    plain = fitted("universal")
    curve = sorted([point(None), *(point(plain * scale) for scale in SCALES)])
    strengths, balances = ([place[axis] for place in curve] for axis in (0, 1))
    most = point(plain)[0]
    rows = []
    for kappa in options.kappas:
        points = {tau: point(fitted("universal-balanced", kappa=kappa, tau=tau)) for tau in options.taus}
        beyond = {
            tau: entropy - float(np.interp(fooling, strengths, balances)) for tau, (fooling, entropy) in points.items()
        }
        rows.append(
            {
                "data": run.config["data"]["name"], "model": run.config["model"], "seed": run.config["seed"], "eps": eps, "images": len(judged),
                "kappa": kappa, "beyond": mean(beyond.values()), "strength": max(fooling for fooling, _ in points.values()) - most,
                "plain": point(plain), "points": {f"{tau:g}": value for tau, value in points.items()},
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="train runs")
    parser.add_argument("--eps", nargs="+", required=True, help="budget on each of them")
    parser.add_argument("--kappas", nargs="+", type=float, default=[0.5, 1.0, 2.0, 5.0, 10.0])
    parser.add_argument("--taus", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--steps", type=int, default=100, help="batches of 128")
    parser.add_argument("--limit", type=int, default=2000, help="validation images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
