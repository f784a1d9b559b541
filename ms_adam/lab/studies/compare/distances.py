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

    def measure(
        self,
        step: int,
        record: Record,
        loss: Optional[float],
        arrays: dict[str, Arrays],
        dtypes: dict[str, list[str]],
        initial: Arrays,
        left_out: Optional[dict[str, Arrays]] = None,
    ) -> None:
        """Measures one step of a training against a record.

        Args:
            step: Counted from 0.
            record: The one training.
            loss: The other's loss; None: it is not measured.
            arrays: {quantity: the other's array for each parameter}; quantities without a table
                are not measured.
            dtypes: {quantity: the other's dtype for each parameter}.
            initial: The other's parameters before the first step.
            left_out: {quantity: masks of the elements that do not count as judged}.
        """
        if loss is not None:
            there = record.scalars["loss"][step]
            self.tables[LOSS][:, step, 0] = distance([there], [loss], "float32")
        for quantity in self.tables.keys() & arrays.keys():
            masks = (left_out or {}).get(quantity)
            places = list(zip(record.initial(), initial)) if quantity == "parameter" else None
            pairs = zip(record.read(step, quantity), arrays[quantity])
            for i, (one, other) in enumerate(pairs):
                dtype = coarser(record.dtypes[quantity][i], dtypes[quantity][i])
                starts = places and places[i]
                found = _distance(one, other, dtype, starts)
                if masks is not None and masks[i].any():
                    judged = ~masks[i]
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
    found, initial = Distances.empty(a.names, quantities, a.steps), b.initial()
    for step, loss in enumerate(b.scalars["loss"]):
        arrays = {quantity: b.read(step, quantity) for quantity in quantities}
        found.measure(step, a, loss, arrays, b.dtypes, initial, left_out)
    return found


def _distance(one, other, dtype, starts) -> np.ndarray:
    """`distance`, over the way from the places where a parameter started on each side."""
    size = None
    if starts is not None:
        ways = [np.abs(one - starts[0]), np.abs(other - starts[1])]
        size = float(max(np.max(way, initial=0.0, where=np.isfinite(way)) for way in ways))
    return distance(one, other, dtype, size)
