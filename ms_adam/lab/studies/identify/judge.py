"""The distance of a hypothesis to the observed places, and what rounding explains of it."""

from __future__ import annotations

import functools
from typing import NamedTuple, Optional

import numpy as np

from ms_adam.lab.measure import UNIT
from ms_adam.reference.correction import bias_correction

SINGLE, HALF, DOUBLE = UNIT["float32"], UNIT["float16"], UNIT["float64"]

# A formula that rounding takes further than this on a sequence says nothing there.
LOOSEST = 1e-3


class Fit(NamedTuple):
    """A hypothesis beside the observed places."""

    form: object
    residual: float  # the largest relative error of any sequence at any step
    excess: float  # the largest ratio of an error to what rounding explains of it

    @property
    def fits(self) -> bool:
        """Whether rounding explains all of it."""
        return self.excess <= 1.0

    def rank(self) -> tuple:
        """Sorts the best fit to the front."""
        return not self.fits, self.residual


def errors(seen: np.ndarray, wanted: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Relative error at each step of each sequence: of its displacement, over the largest so far.

    So a wrong first step counts in full, and a displacement that comes back to 0 does not blow
    rounding up. NaN where NaN is expected is no error; anywhere else it is infinite.
    """
    with np.errstate(all="ignore"):
        scale = np.fmax.accumulate(np.abs(wanted - start), axis=0)
        distance = np.abs(seen - wanted)
        relative = np.where(distance == 0.0, 0.0, distance / scale)
    same = (seen == wanted) | (np.isnan(seen) & np.isnan(wanted))  # infinities too
    return np.where(same, 0.0, np.where(np.isnan(relative), np.inf, relative))


def _walk(form, probe, numbers, **how) -> np.ndarray:
    """`form.walk`: all optimizers are held to the same hypotheses, most with the same numbers."""
    arrays = tuple(np.asarray(x, np.float64) for x in probe)
    return _walked(form, numbers, *((x.tobytes(), x.shape) for x in arrays), tuple(how.items()))


@functools.lru_cache(maxsize=4096)  # of 10 kB; there are 300 hypotheses
def _walked(form, numbers, gradients, start, how):
    probe = (np.frombuffer(content).reshape(shape) for content, shape in (gradients, start))
    return form.walk(numbers, *probe, **dict(how))


def residual(form, seen: np.ndarray, probe, numbers) -> float:
    """The largest error of any sequence."""
    return float(errors(seen, _walk(form, probe, numbers), probe.start).max())


def unit_of(seen: np.ndarray) -> float:
    """The rounding of places: float64's only if they hold digits that float32 does not."""
    return SINGLE if np.array_equal(seen, seen.astype(np.float32), equal_nan=True) else DOUBLE


def judge(form, seen: np.ndarray, probe, numbers, unit: Optional[float] = None, **how) -> Fit:
    """The `Fit` of a hypothesis; the unit is `unit_of` unless given.

    This is no bound as in `ms_adam.lab.measure`, whose roundings are those of a known
    implementation: here the implementation is unknown. Rounding explains the larger of two:

    - 16 units, for the operations of an update, and for the parameter that is rounded in each
      step 4 sqrt(t) units of its size: these roundings are like independent ones, of a standard
      deviation of 0.58 units.
    - Four times the distance of the formula carried out in float32 to itself in float64, which
      includes cancellation and roundings that all go one way: each of the two computations has
      its own, and another order of operations may be as much less lucky again.

    Besides, the digits that 1 - beta2^t loses to cancellation are granted to each step where no
    hypothesis models how they are lost: in float64, and to relatives of Adam. These are granted
    four times the first, too, because the rounding of their other scalars is not tried out.
    """
    unit = unit or unit_of(seen)
    wanted = _walk(form, probe, numbers, **how)
    got = errors(seen, wanted, probe.start)
    with np.errstate(all="ignore"):
        size = np.fmax.accumulate(np.abs(wanted), axis=0)
        moved = np.fmax.accumulate(np.abs(wanted - probe.start), axis=0)
        steps = np.arange(1, len(wanted) + 1)[:, None]
        explained = unit * (16 + 4 * np.sqrt(steps) * np.fmax(size / moved, 1.0))
    single = _walk(form, probe, numbers, dtype=np.float32, **how)
    single = np.fmax.accumulate(errors(single, wanted, probe.start), axis=0)
    explained = np.fmax(explained, 4 * single * min(unit / SINGLE, 1.0))
    if not form.rounds_powers:
        explained = 4 * explained
    if not form.rounds_powers or unit == DOUBLE:
        lost = unit / np.array([bias_correction(numbers.beta2, t) for t in steps[:, 0]])
        changes = np.abs(np.diff(wanted, axis=0, prepend=np.asarray(probe.start)[None]))
        with np.errstate(all="ignore"):
            explained = explained + np.cumsum(lost[:, None] * changes, axis=0) / moved
    explained = np.fmin(np.where(np.isnan(explained), np.inf, explained), max(LOOSEST, 16 * unit))
    return Fit(form, float(got.max()), float((got / explained).max()))
