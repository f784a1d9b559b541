"""The distances of two trainings, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ms_adam.lab.measure import METRICS, coarser, distance
from ms_adam.lab.studies.compare.record import Record

LOSS = "loss"

_JUDGED = list(METRICS).index("judged")
_WORST = {"cosine": np.min, "within_0_1_percent": np.min, "within_0_5_percent": np.min}
_WORST["different"] = np.sum

Arrays = Sequence[np.ndarray]


class Distances:
    """The distances of two trainings: for each quantity all metrics, step by step.

    Attributes:
        names: The parameters' names.
        tables: {quantity: float64, shape (metrics, steps, parameters)}; the loss has one column.
            NaN where nothing was measured.
    """

    def __init__(self, names: Sequence[str], tables: dict[str, np.ndarray]):
        self.names = list(names)
        self.tables = tables

    @classmethod
    def empty(cls, names: Sequence[str], quantities: Sequence[str], steps: int) -> Distances:
        columns = {LOSS: 1, **dict.fromkeys(quantities, len(names))}
        return cls(
            names,
            {q: np.full((len(METRICS), steps, count), np.nan) for q, count in columns.items()},
        )

    def measure_loss(self, step: int, a: float, b: float) -> None:
        self.tables[LOSS][:, step, 0] = distance([a], [b], "float32")

    def measure(
        self,
        step: int,
        quantity: str,
        a: Arrays,
        b: Arrays,
        dtypes: Sequence[str],
        first: Optional[tuple[Arrays, Arrays]] = None,
        left_out: Optional[Arrays] = None,
    ) -> None:
        """Measures one quantity of one step.

        Args:
            step: Counted from 0.
            quantity: A quantity of a record.
            a: One side's arrays, one for each parameter.
            b: The other's.
            dtypes: The coarser dtype for each parameter.
            first: The parameters before the first step on either side, if the quantity is they.
            left_out: Masks of the elements that do not count as judged; None for none.
        """
        for i, (one, other, dtype) in enumerate(zip(a, b, dtypes)):
            starts = None if first is None else (first[0][i], first[1][i])
            found = _distance(one, other, dtype, starts)
            if left_out is not None and left_out[i].any():
                judged = ~left_out[i]
                starts = starts and (starts[0][judged], starts[1][judged])
                found[_JUDGED] = _distance(one[judged], other[judged], dtype, starts)[_JUDGED]
            self.tables[quantity][:, step, i] = found

    def relative(self, quantity: str) -> np.ndarray:
        """The relative distance over all elements, shape (steps, parameters)."""
        return self.tables[quantity][list(METRICS).index("relative")]

    def judged(self, quantity: str) -> np.ndarray:
        """The relative distance that is held to the limits, shape (steps, parameters)."""
        return self.tables[quantity][_JUDGED]

    def worst(self, quantity: str) -> dict[str, np.ndarray]:
        """{metric: the worst over the parameters, of each step}; "different" is summed."""
        pairs = zip(METRICS, self.tables[quantity])
        return {metric: _WORST.get(metric, np.max)(table, axis=1) for metric, table in pairs}

    def at(self, quantity: str, step: int, parameter: int) -> dict[str, float]:
        """All metrics of one tensor in one step."""
        return dict(zip(METRICS, self.tables[quantity][:, step, parameter].tolist()))

    def save(self, path: Path) -> None:
        np.savez(path, names=np.array(self.names), **self.tables)

    @classmethod
    def load(cls, path: Path) -> Distances:
        with np.load(path) as arrays:
            tables = {name: arrays[name] for name in arrays.files if name != "names"}
            return cls(arrays["names"].tolist(), tables)


def between(a: Record, b: Record, left_out: Optional[dict[str, Arrays]] = None) -> Distances:
    """The distances of two trainings that each followed its own gradients.

    Args:
        a: One training.
        b: The other.
        left_out: {quantity: masks of the elements that do not count as judged}.
    """
    quantities = [quantity for quantity in a.quantities if quantity in b.quantities]
    dtypes = coarser_dtypes(a.dtypes, b.dtypes, quantities)
    found = Distances.empty(a.names, quantities, a.steps)
    first = a.initial(), b.initial()
    for step in range(a.steps):
        found.measure_loss(step, a.scalars["loss"][step], b.scalars["loss"][step])
        for quantity in quantities:
            starts = first if quantity == "parameter" else None
            masks = (left_out or {}).get(quantity)
            both = a.read(step, quantity), b.read(step, quantity)
            found.measure(step, quantity, *both, dtypes[quantity], starts, masks)
    return found


def coarser_dtypes(a: dict, b: dict, quantities: Sequence[str]) -> dict[str, list[str]]:
    """{quantity: the coarser dtype of two sides for each parameter}."""
    return {quantity: list(map(coarser, a[quantity], b[quantity])) for quantity in quantities}


def _distance(one, other, dtype, starts) -> np.ndarray:
    """`distance`, over the way from the places where a parameter started on each side."""
    size = None
    if starts is not None:
        ways = [np.abs(one - starts[0]), np.abs(other - starts[1])]
        size = float(max(np.max(way, initial=0.0, where=np.isfinite(way)) for way in ways))
    return distance(one, other, dtype, size)
