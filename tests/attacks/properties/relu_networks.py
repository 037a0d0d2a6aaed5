"""Small ReLU networks of which everything is known: bounds by intervals, exact minima by mixed-integer programming."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ReluNetwork:
    """Layers W h + b with a ReLU between them; the numbers are float32's, the arithmetic here is float64."""

    layers: tuple[tuple[Vector, Vector], ...]

    @classmethod
    def random(cls, *sizes: int, seed: int) -> ReluNetwork:
        random = np.random.default_rng(seed)
        layers = [(random.normal(size=(m, n)) / n**0.5, random.normal(size=m) * 0.3) for n, m in pairwise(sizes)]
        return cls(tuple((w.astype(np.float32).astype(float), b.astype(np.float32).astype(float)) for w, b in layers))

    def __call__(self, x: Vector) -> Vector:
        for weights, bias in self.layers[:-1]:
            x = np.maximum(x @ weights.T + bias, 0)
        return np.asarray(x @ self.layers[-1][0].T + self.layers[-1][1])

    def interval_margin(self, lower: Vector, upper: Vector, label: int) -> float:
        """Return a lower bound, over a box, of the label's logit minus the best other one."""
        for weights, bias in self.layers[:-1]:
            lower, upper = (np.maximum(bound, 0) for bound in _interval(weights, bias, lower, upper))
        weights, bias = self.layers[-1]
        ahead, offset = weights[label] - np.delete(weights, label, 0), bias[label] - np.delete(bias, label)
        return float(_interval(ahead, offset, lower, upper)[0].min())

    def exact_margin(self, lower: Vector, upper: Vector, label: int) -> float:
        """Return the minimum, over a box, of the label's logit minus the best other one, by one MILP for each other."""
        others = [k for k in range(len(self.layers[-1][1])) if k != label]
        return min(self._least(lower, upper, label, other) for other in others)

    def _least(self, lower: Vector, upper: Vector, label: int, other: int) -> float:
        from scipy.optimize import LinearConstraint, milp

        sizes = [len(lower), *(size for _, bias in self.layers[:-1] for size in (len(bias), len(bias)))]
        starts, total = np.cumsum([0, *sizes]), sum(sizes)  # x, then h and its switches, layer by layer
        low, high = np.zeros(total), np.ones(total)
        low[: len(lower)], high[: len(lower)] = lower, upper
        rows: list[Any] = []
        below, above, before = lower, upper, 0
        for layer, (weights, bias) in enumerate(self.layers[:-1]):
            least, most = _interval(weights, bias, below, above)
            least, most = np.minimum(least, 0), np.maximum(most, 0)
            h, z = starts[2 * layer + 1], starts[2 * layer + 2]
            high[h : h + len(bias)] = most
            for unit in range(len(bias)):
                row = np.zeros(total)
                row[before : before + weights.shape[1]], row[h + unit] = -weights[unit], 1
                rows.append((row, bias[unit], np.inf))  # h >= W x + b
                row = row.copy()
                row[z + unit] = -least[unit]
                rows.append((row, -np.inf, bias[unit] - least[unit]))  # h <= W x + b - least (1 - z)
                row = np.zeros(total)
                row[h + unit], row[z + unit] = 1, -most[unit]
                rows.append((row, -np.inf, 0))  # h <= most z
            below, above, before = np.maximum(least, 0), most, h
        weights, bias = self.layers[-1]
        cost = np.zeros(total)
        cost[before : before + weights.shape[1]] = weights[label] - weights[other]
        switches = np.zeros(total)
        for layer in range(len(self.layers) - 1):
            switches[starts[2 * layer + 2] : starts[2 * layer + 3]] = 1
        matrix, least_sums, most_sums = (np.array(column) for column in zip(*rows, strict=True))
        found = milp(
            cost,
            constraints=LinearConstraint(matrix, least_sums, most_sums),
            integrality=switches,
            bounds=(low, high),
            options={"mip_rel_gap": 1e-9},
        )
        assert found.status == 0, found.message
        return float(found.fun + bias[label] - bias[other])

    def save(self, path: Path, *, batch: int | str = "n", operator: str = "Relu", end: str = "") -> Path:
        """Write it as ONNX, its input a row (batch, n); `end` is an operator behind the logits."""
        from onnx import TensorProto, checker, helper, numpy_helper, save

        nodes, tensors, name = [], [], "x"
        for number, (weights, bias) in enumerate(self.layers):
            tensors += [
                numpy_helper.from_array(weights.astype(np.float32), f"w{number}"),
                numpy_helper.from_array(bias.astype(np.float32), f"b{number}"),
            ]
            last = number == len(self.layers) - 1
            out = "y" if last and not end else f"sum{number}"
            nodes.append(helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [out], transB=1))
            if not last:
                name = f"h{number}"
                nodes.append(helper.make_node(operator, [out], [name]))
        if end:
            nodes.append(helper.make_node(end, [out], ["y"], axis=1))
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "network",
            [value("x", TensorProto.FLOAT, [batch, self.layers[0][0].shape[1]])],
            [value("y", TensorProto.FLOAT, [batch, len(self.layers[-1][1])])],
            tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model)
        save(model, str(path))
        return path


def _interval(weights: Vector, bias: Vector, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    middle, reach = weights @ centre + bias, np.abs(weights) @ radius
    return middle - reach, middle + reach


def declarations(inputs: int, outputs: int) -> str:
    """Return the declarations of a VNN-LIB file."""
    names = [f"X_{k}" for k in range(inputs)] + [f"Y_{k}" for k in range(outputs)]
    return "\n".join(f"(declare-const {name} Real)" for name in names) + "\n"


def local_robustness(lower: Vector, upper: Vector, *, label: int, outputs: int) -> str:
    """Return the VNN-LIB text of a box in which no other class may reach the label's logit."""
    box = "\n".join(
        f"(assert (>= X_{k} {low!r}))\n(assert (<= X_{k} {high!r}))"
        for k, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
    )
    others = " ".join(f"(and (>= Y_{k} Y_{label}))" for k in range(outputs) if k != label)
    return f"{declarations(len(lower), outputs)}{box}\n(assert (or {others}))\n"
