"""How far two arrays are apart, and two trainings step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ms_adam.lab.measure import TINY, UNIT
from ms_adam.lab.studies.compare.record import Record

METRICS = {
    "absolute": "the largest difference of an element",
    "relative": "that, over the size of the tensor: its largest element, and for a parameter the "
    "largest way that an element has come since the first step",
    "judged": "the same over the elements that are held to the limits: without those whose "
    "gradient is rounding noise",
    "ulp": "the largest difference in units in the last place of the element",
    "cosine": "cosine of the angle between the two tensors, over the elements finite in both",
    "within_0_1_percent": "share of elements whose difference is at most 0.1% of their size",
    "within_0_5_percent": "share of elements whose difference is at most 0.5% of their size",
    "different": "how many elements differ in a bit: 0 and -0 do, two NaN do not",
}
EQUAL = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0)  # all metrics of two equal arrays
LOSS = "loss"

_JUDGED = list(METRICS).index("judged")
_LEAST_IS_WORST = ("cosine", "within_0_1_percent", "within_0_5_percent")


def distance(a: np.ndarray, b: np.ndarray, dtype: str, size: Optional[float] = None) -> np.ndarray:
    """How far two arrays of one shape are apart, in all of `METRICS`.

    NaN equals NaN here, and an infinity itself: two sides that overflow at the same place do not
    part there. Where only one is finite the difference is infinite.

    Args:
        a: Of any float dtype.
        b: Likewise.
        dtype: Whose units in the last place to count: of the coarser of the two.
        size: What the relative distance is taken over; None: the largest finite element.

    Returns:
        float64, one number for each of `METRICS`. The unit in the last place of an element is that
        of the larger of the two values, so it does not count what lies between them, but differs
        from such a count by at most a factor of two, where a power of two is between them.
    """
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if a.size == 0:
        return np.array(EQUAL)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    different = int(np.count_nonzero(~equal | (np.signbit(a) != np.signbit(b)) & ~np.isnan(a)))
    if different == 0:
        return np.array(EQUAL)
    both = np.isfinite(a) & np.isfinite(b)
    larger = np.where(both, np.maximum(np.abs(a), np.abs(b)), 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(equal, 0.0, np.where(both, np.abs(a - b), np.inf))
    absolute = difference.max()
    size = larger.max() if size is None else size
    with np.errstate(divide="ignore", over="ignore"):
        relative = np.float64(absolute) / size if absolute else 0.0
        ulp = (difference / spacing(larger, dtype)).max()
    within = [np.count_nonzero(difference <= share * larger) / a.size for share in (0.001, 0.005)]
    cosine = _cosine(a[both], b[both])
    return np.array([absolute, relative, relative, ulp, cosine, *within, different])


def spacing(values: np.ndarray, dtype: str) -> np.ndarray:
    """The unit in the last place of each value in a dtype: from it to the next larger in size."""
    _, exponent = np.frexp(values)  # value = f * 2^exponent with f in [1/2, 1)
    least = max(2 * TINY[dtype], np.nextafter(0.0, 1.0))  # the smallest subnormal
    return np.where(values == 0, least, np.maximum(np.ldexp(UNIT[dtype], exponent), least))


def coarser(one: str, other: str) -> str:
    """The one of two dtypes with the larger units."""
    return max(one, other, key=UNIT.__getitem__)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """1 for two zero vectors, 0 where only one is zero."""
    sizes = [float(np.abs(x).max()) if x.size else 0.0 for x in (a, b)]
    if 0.0 in sizes:
        return 1.0 if sizes == [0.0, 0.0] else 0.0
    a, b = a / sizes[0], b / sizes[1]  # so that squares neither overflow nor vanish
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


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
        self.tables[LOSS][:, step, 0] = distance(np.array([a]), np.array([b]), "float32")

    def measure(
        self,
        step: int,
        quantity: str,
        a: Sequence[np.ndarray],
        b: Sequence[np.ndarray],
        dtypes: Sequence[str],
        first: Optional[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]] = None,
        left_out: Optional[Sequence[np.ndarray]] = None,
    ) -> None:
        """Measures one quantity of one step.

        Args:
            step: Counted from 0.
            quantity: Which.
            a: The one side's arrays, one for each parameter.
            b: The other's.
            dtypes: The coarser dtype for each parameter.
            first: Of parameters, what they were before the first step, on either side.
            left_out: Masks of the elements that do not count as judged; None for none.
        """
        for i, (one, other, dtype) in enumerate(zip(a, b, dtypes)):
            starts = None if first is None else (first[0][i], first[1][i])
            found = _distance(one, other, dtype, starts)
            if left_out is not None and left_out[i].any():
                judged = ~left_out[i]
                if starts is not None:
                    starts = starts[0][judged], starts[1][judged]
                found[_JUDGED] = _distance(one[judged], other[judged], dtype, starts)[_JUDGED]
            self.tables[quantity][:, step, i] = found

    def relative(self, quantity: str) -> np.ndarray:
        """The relative distance over all elements, shape (steps, parameters)."""
        return self.tables[quantity][list(METRICS).index("relative")]

    def judged(self, quantity: str) -> np.ndarray:
        """The relative distance that is held to the limits, shape (steps, parameters)."""
        return self.tables[quantity][_JUDGED]

    def worst(self, quantity: str) -> dict[str, np.ndarray]:
        """{metric: the worst over the parameters, of each step}."""
        return {
            metric: (np.min if metric in _LEAST_IS_WORST else np.max)(table, axis=1)
            if metric != "different"
            else table.sum(axis=1)
            for metric, table in zip(METRICS, self.tables[quantity])
        }

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


def between(
    a: Record, b: Record, left_out: Optional[dict[str, Sequence[np.ndarray]]] = None
) -> Distances:
    """The distances of two trainings that each went its own way.

    Args:
        a: One training.
        b: The other.
        left_out: {quantity: masks of the elements that do not count as judged}.
    """
    quantities = [quantity for quantity in a.quantities if quantity in b.quantities]
    found = Distances.empty(a.names, quantities, a.steps)
    first = a.initial(), b.initial()
    for step in range(a.steps):
        found.measure_loss(step, a.scalars["loss"][step], b.scalars["loss"][step])
        for quantity in quantities:
            found.measure(
                step,
                quantity,
                a.read(step, quantity),
                b.read(step, quantity),
                list(map(coarser, a.dtypes[quantity], b.dtypes[quantity])),
                first if quantity == "parameter" else None,
                (left_out or {}).get(quantity),
            )
    return found


def _distance(
    one: np.ndarray, other: np.ndarray, dtype: str, starts: Optional[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """`distance`, over the way from the places where a parameter started on each side."""
    size = None
    if starts is not None:
        size = max(
            _largest_finite(np.abs(one - starts[0])), _largest_finite(np.abs(other - starts[1]))
        )
    return distance(one, other, dtype, size)


def _largest_finite(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
