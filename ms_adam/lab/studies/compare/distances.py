"""The distances of two trainings, each on its own way, step by step. They judge nothing."""

from __future__ import annotations

import numpy as np

from ms_adam.lab.measure import METRICS, coarser, distance, largest
from ms_adam.lab.studies.compare.record import LOSS, Record, Tables

_WORST = {"cosine": np.min, "within_0_1_percent": np.min, "within_0_5_percent": np.min}
_WORST["different"] = np.sum


class Distances(Tables):
    """The distances of two trainings: for each quantity all metrics, step by step."""

    kinds = len(METRICS)

    @property
    def equal(self) -> bool:
        """Whether both trainings have the same bits in every step."""
        return not any(self.worst(quantity)["different"].any() for quantity in self.tables)

    def relative(self, quantity: str) -> np.ndarray:
        """The relative distance, shape (steps, parameters)."""
        return self.tables[quantity][list(METRICS).index("relative")]

    def worst(self, quantity: str) -> dict[str, np.ndarray]:
        """{metric: the worst over the parameters, of each step}; "different" is summed."""
        pairs = zip(METRICS, self.tables[quantity])
        return {metric: _WORST.get(metric, np.max)(table, axis=1) for metric, table in pairs}

    def at(self, quantity: str, step: int, parameter: int) -> dict[str, float]:
        """All metrics of one tensor in one step."""
        return dict(zip(METRICS, self.tables[quantity][:, step, parameter].tolist()))


def between(a: Record, b: Record) -> Distances:
    """The distances of two trainings that each followed its own gradients."""
    quantities = [quantity for quantity in a.quantities if quantity in b.quantities]
    losses = [LOSS] if a.has_losses and b.has_losses else []
    found = Distances.empty(a.names, losses + quantities, a.steps)
    tables = found.tables
    starts = list(zip(a.before(0), b.before(0)))
    for step in range(a.steps):
        if LOSS in tables:
            values = (record.scalars[LOSS][step : step + 1] for record in (a, b))
            tables[LOSS][:, step, 0] = distance(*values, "float32")
        for quantity in quantities:
            ways = starts if quantity in ("master", "parameter") else [None] * len(a.names)
            pairs = zip(a.read(step, quantity), b.read(step, quantity), ways)
            for i, (one, other, start) in enumerate(pairs):
                dtype = coarser(a.dtypes[quantity][i], b.dtypes[quantity][i])
                size = None if start is None else _way(one, other, start)
                tables[quantity][:, step, i] = distance(one, other, dtype, size)
    return found


def _way(one, other, starts) -> float:
    """The largest way that an element has come from where its side started."""
    return max(largest(one - starts[0]), largest(other - starts[1]))
