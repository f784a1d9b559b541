"""Judges one observed step of an optimizer, in float64: which formula made it, and what went wrong.

A step is seen from the outside: weights and moments before and after. Its gradient is the one that
the optimizer was given, or else the one that its first moment must have seen. `ms_adam.reference`
makes the same step from the same state under each formula. NumPy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import numpy as np

from ms_adam.lab.measure import UNIT, rounding
from ms_adam.reference import Adam, AdamState
from ms_adam.reference.correction import bias_correction

# float32 rounds an update about 20 times, 1e-6, and nn.Adam's 1 - beta2 is off by 1.3e-5; narrow
# moments add a rounding of their own.
FITS = 1e-4
NARROW_FITS = 32 * UNIT["bfloat16"]


class Part(NamedTuple):
    """The elements of a parameter that are looked at, in one step; float64, one axis.

    Arrays of moments are empty for an optimizer that has none, `gradient` without one.
    """

    name: str
    size: int  # of the whole parameter
    dtype: str
    moment_dtype: str
    rate: float
    decay: float
    weight: np.ndarray
    weight_after: np.ndarray
    moment1: np.ndarray
    moment1_after: np.ndarray
    moment2: np.ndarray
    moment2_after: np.ndarray
    largest: np.ndarray  # second moment so far, before the step
    gradient: np.ndarray
    numbers: dict[str, Any] = {}  # those in which its group differs from the formula's

    @property
    def has_moments(self) -> bool:
        return self.moment1.size == self.moment2.size == self.weight.size > 0

    def moved(self) -> np.ndarray:
        """Whether the weight or a moment of each element changes: in a dense step, of all."""
        moments = (self.moment1 != self.moment1_after) | (self.moment2 != self.moment2_after)
        return moments | (self.weight != self.weight_after)

    def updated(self) -> Part:
        """The elements that change, of a lazy optimizer, which leaves rows as they are."""
        if not self.has_moments:
            return self
        moved = self.moved()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return self._replace(**{n: it[moved] if it.size else it for n, it in arrays.items()})

    def with_moment_gradient(self, beta1: float, lazy: bool = False) -> Part:
        """The part with the gradient that takes its first moment from before to after the step."""
        beta1 = self.numbers.get("beta1", beta1)
        gradient = (self.moment1_after - beta1 * self.moment1) / (1.0 - beta1)
        if lazy:
            gradient = np.where(self.moved(), gradient, 0.0)
        numbers = {name: number for name, number in self.numbers.items() if name != "maximize"}
        return self._replace(gradient=gradient, numbers=numbers)


_ARRAYS = Part._fields[6:-1]


def formulas(method: Adam, decay: bool, maximum: bool) -> dict[str, Adam]:
    """All formulas that are tried, by name, the simpler ones first.

    AMSGrad is tried where there is a `maximum` of second moments in the state, which
    `experimental.optim.AdamW` has without it, too.
    """
    found = {}
    for nesterov, amsgrad, kind, base in itertools.product(
        ("", "Nesterov"),
        ("", "AMSGrad") if maximum else ("",),
        ("decoupled decay", "L2") if decay else ("",),
        _BASES,
    ):
        found[", ".join(filter(None, (base, nesterov, amsgrad, kind)))] = replace(
            method,
            **_BASES[base],
            nesterov=bool(nesterov),
            amsgrad=bool(amsgrad),
            decoupled=kind == "decoupled decay",
        )
    return found


_BASES: dict[str, dict[str, Any]] = {
    "Algorithm 1": {"bias_correction": True, "epsilon": "outside"},
    "epsilon-hat": {"bias_correction": True, "epsilon": "hat"},
    "epsilon inside the root": {"bias_correction": True, "epsilon": "inside"},
    # Where nothing is corrected, epsilon has one place outside the root.
    "no bias correction": {"bias_correction": False, "epsilon": "outside"},
    "no bias correction, epsilon inside the root": {"bias_correction": False, "epsilon": "inside"},
}


def of_the_paper(method: Adam) -> Adam:
    """Algorithm 1 with the same decay, Nesterov and AMSGrad."""
    return replace(method, epsilon="outside", bias_correction=True)


def distance(method: Adam, parts: Sequence[Part], t: int, decayed_gradient: bool = False) -> float:
    """How far the observed updates are from a formula's, beyond the rounding of the weights.

    The Euclidean norm of the difference over that of the formula's updates.

    Args:
        method: The formula.
        parts: The parts of the step.
        t: The number of the step, from 1.
        decayed_gradient: Whether L2 decay is in the gradients already.
    """
    error = update = 0.0
    for part in _joined(parts):
        with np.errstate(all="ignore"):
            wanted = _stepped(method, part, t, decayed_gradient)
            if np.any(np.isfinite(part.weight_after) & ~np.isfinite(wanted)):
                return float("inf")
            off = np.abs(part.weight_after - wanted)
            # Two roundings: of the decayed weight, and of the new one.
            off = off - 2.02 * rounding(np.maximum(abs(wanted), abs(part.weight)), part.dtype)
        both = np.isfinite(wanted) & np.isfinite(part.weight_after)
        error += float(np.sum(np.square(np.maximum(off[both], 0.0))))
        update += float(np.sum(np.square((wanted - part.weight)[both])))
    return float(np.sqrt(error / update)) if update else (float("inf") if error else 0.0)


def _stepped(method, part, t, decayed_gradient=False):
    decay = 0.0 if decayed_gradient and not method.decoupled else part.decay
    method = replace(method, learning_rate=part.rate, weight_decay=decay, **part.numbers)
    largest = part.largest if part.largest.size else part.moment2
    state = AdamState(t - 1, part.moment1, part.moment2, largest)
    return method.update(part.weight, part.gradient, state)[0]


def _joined(parts):
    """Parts of the same numbers and dtype as one: a formula then takes a few operations."""
    groups: dict[tuple, list[Part]] = {}
    for part in parts:
        key = (part.rate, part.decay, part.dtype, *sorted(part.numbers.items()))
        groups.setdefault(key, []).append(part)
    for same in groups.values():
        arrays = {name: np.concatenate([getattr(p, name) for p in same]) for name in _ARRAYS}
        yield same[0]._replace(**arrays)


class Shares(NamedTuple):
    """Shares of the elements of a step; None where no element counts."""

    epsilon: Optional[float]  # epsilon is at least the root beside it
    epsilon_of_paper: Optional[float]  # likewise in Algorithm 1
    underflowed: Optional[float]  # the gradient is not 0, and its second moment is
    stalled: Optional[float]  # rounding swallowed a change of the second moment


def tells_gradient(part: Part) -> bool:
    """Whether the first moment has enough digits to infer the gradient; a byte has four bits."""
    return not part.moment_dtype.startswith("int8")


def shares(method: Adam, parts: Sequence[Part], t: int) -> Shares:
    """Counts the elements in which a step shows a weakness of its formula or its dtypes.

    Rounding that is stochastic keeps the mean of the changes that it swallows: no moment stalls.
    """
    counts = sum(_counts(replace(method, **part.numbers), part, t) for part in _joined(parts))
    found = Shares(*(float(some / every) if every else None for some, every in counts))
    stochastic = any("stochastic" in part.moment_dtype for part in parts)
    return found._replace(stalled=None) if stochastic else found


def _counts(method, part, t):
    """For each of `Shares` the number of elements that have the weakness, and of those that may."""
    with np.errstate(all="ignore"):
        v0, v1, g = part.moment2, part.moment2_after, part.gradient
        exact = method.beta2 * v0 + (1 - method.beta2) * np.square(g / method.loss_scale)
        corrected = v1 / bias_correction(method.beta2, t)
        root = np.sqrt(corrected)
        own = {
            "outside": root if method.bias_correction else np.sqrt(v1),
            "hat": np.sqrt(v1),
            "inside": corrected,
        }[method.epsilon]
        moves = (v1 > 0) | (g != 0)
        change = np.abs(exact - v0) > 1e-6 * v0  # float32 keeps changes of 6e-8
    pairs = (
        (own <= method.eps, moves),
        (root <= method.eps, moves),
        (v1 == 0, g != 0),
        ((v1 == v0) & change, v0 > 0),
    )
    return np.array([[np.count_nonzero(weak & may), np.count_nonzero(may)] for weak, may in pairs])


def lost(method: Adam, part: Part, t: int) -> bool:
    """Whether no element moved, though some must move by more than two units in the last place.

    Wherever epsilon is, and without decay: L2 moves an element without a gradient by up to a whole
    step, and decoupled decay leaves it where it is.
    """
    if not part.has_moments or not np.array_equal(part.weight, part.weight_after):
        return False
    with np.errstate(all="ignore"):
        still = part._replace(decay=0.0)
        moved = (
            np.abs(_stepped(replace(method, epsilon=epsilon), still, t) - part.weight)
            for epsilon in ("outside", "hat")
        )
        return bool(np.any(np.minimum(*moved) > 4 * rounding(part.weight, part.dtype)))


def not_finite(part: Part) -> list[str]:
    """The quantities of a part with a NaN or an infinity after the step."""
    found = {
        "gradient": part.gradient,
        "weight": part.weight_after,
        "moment1": part.moment1_after,
        "moment2": part.moment2_after,
    }
    return [name for name, array in found.items() if not np.isfinite(array).all()]


def fits(parts: Sequence[Part]) -> float:
    """The largest distance that rounding explains."""
    wide = all(part.moment_dtype in ("float32", "float64") for part in parts)
    return FITS if wide else NARROW_FITS
