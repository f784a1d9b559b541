"""The first parting of two sides, its cause in gradient or update, and one sentence on it.

Two sides part where the relative distance of a tensor is beyond the limit: the tolerance, or the
noise floor (what a side differs from itself in a second run) where that is higher. Elements whose
gradient is rounding noise are left out where gradients differ (see `noise`): in
the comparison of both trainings, and of gradients at the same weights. Given the same gradients,
noise or not, two optimizers have to agree in every element.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np

from ms_adam.lab.claims import short
from ms_adam.lab.studies.compare.config import Tolerance
from ms_adam.lab.studies.compare.distances import LOSS, Distances

EQUAL = "equal"
HELD = "held"
PARTED = "parted"

# Causes
NETWORK = "gradient"
UPDATE = "update"
BOTH = "gradient and update"
ONLY_LOSS = "loss"
DRIFT = "drift"

_WORDS = {
    "gradient": "the gradient of",
    "moment1": "the first moment of",
    "moment2": "the second moment of",
    "vhat": "the largest second moment of",
    "parameter": "the parameter",
}


@dataclasses.dataclass(frozen=True)
class Parting:
    """The first place where something is beyond its limit.

    Attributes:
        step: Counted from 1.
        quantity: "loss", "gradient", "moment1", "moment2", "vhat" or "parameter".
        parameter: The tensor's name; None for the loss.
        relative: Its relative distance, over the elements that are not left out.
        limit: The largest relative distance that holds.
        metrics: All of `distances.METRICS` of that tensor in that step.
    """

    step: int
    quantity: str
    parameter: Optional[str]
    relative: float
    limit: float
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The judgement on two sides.

    Attributes:
        status: `EQUAL` (in every value), `HELD` (within the limits) or `PARTED`.
        sentence: The verdict in words.
        first: Where they part, each going its own way; if that shows only in elements that are left
            out there, where they part when both are given the same gradients. None if they do not.
        cause: `NETWORK`, `UPDATE`, `BOTH`, `ONLY_LOSS` or `DRIFT` (each single step is within the
            limits, and training adds up the rest); None if they do not part.
        network: The first parting of loss or gradient when both have the same weights.
        update: The first parting of moments or parameters when both are given the same gradients.
    """

    status: str
    sentence: str
    first: Optional[Parting]
    cause: Optional[str]
    network: Optional[Parting]
    update: Optional[Parting]


def judge(
    names: tuple[str, str],
    free: Distances,
    replayed: Distances,
    floors: tuple[Distances, Distances],
    tolerance: Tolerance,
) -> Judgement:
    """Judges a pair of sides.

    Args:
        names: Of the two sides.
        free: Their distances when each goes its own way.
        replayed: Their distances when the second is given the first one's weights (loss, gradient)
            and the first one's gradients (moments, parameters).
        floors: Each side's distance to itself in a second run.
        tolerance: The allowed relative distances.
    """
    limits = {q: limit_of(q, tolerance, floors) for q in free.tables}
    network = _first(replayed, limits, ["gradient"]) or _first(replayed, limits, [LOSS])
    update = _first(replayed, limits, [q for q in replayed.tables if q not in (LOSS, "gradient")])
    first = _first(free, limits, list(free.tables)) or update
    cause = None if first is None else _cause(first, network, update)
    status = PARTED if first else (EQUAL if _all_equal(free) else HELD)
    sentence = _sentence(names, status, cause, free, limits, first, network, update)
    return Judgement(status, sentence, first, cause, network, update)


def limit_of(
    quantity: str, tolerance: Tolerance, floors: tuple[Distances, Distances]
) -> np.ndarray:
    """The limit of relative distances in each step, shape (steps,).

    The noise floor of a step is the largest of any tensor so far, in either side.
    """
    floor = np.max(
        [floor.relative(quantity).max(axis=1) for floor in floors if quantity in floor.tables],
        axis=0,
    )
    return np.maximum(tolerance.of(quantity), np.maximum.accumulate(floor))


def _first(distances: Distances, limits: dict, quantities: list[str]) -> Optional[Parting]:
    """The earliest step; in it the first quantity, in the order of a step; of it the worst tensor.

    NaN is beyond any limit.
    """
    beyond = {
        quantity: ~(distances.judged(quantity) <= limits[quantity][:, None]).all(axis=1)
        for quantity in quantities
    }
    steps = {q: int(np.argmax(somewhere)) for q, somewhere in beyond.items() if somewhere.any()}
    if not steps:
        return None
    step = min(steps.values())
    quantity = next(q for q in quantities if steps.get(q) == step)
    relative = np.nan_to_num(distances.judged(quantity)[step], nan=np.inf, posinf=np.inf)
    worst = int(np.argmax(relative))
    return Parting(
        step=step + 1,
        quantity=quantity,
        parameter=None if quantity == LOSS else distances.names[worst],
        relative=float(relative[worst]),
        limit=float(limits[quantity][step]),
        metrics=distances.at(quantity, step, worst),
    )


def _cause(first: Parting, network: Optional[Parting], update: Optional[Parting]) -> str:
    """Only a parting no later than the first one can have caused it."""
    earlier = {
        name: parting.step
        for name, parting in ((NETWORK, network), (UPDATE, update))
        if parting is not None and parting.step <= first.step
    }
    if not earlier:
        return DRIFT
    if len(set(earlier.values())) == 1 and len(earlier) == 2:
        return BOTH
    earliest = min(earlier, key=earlier.__getitem__)
    if earliest == NETWORK and network.quantity == LOSS:
        return ONLY_LOSS
    return earliest


def _all_equal(distances: Distances) -> bool:
    return all(float(np.max(distances.worst(q)["different"])) == 0 for q in distances.tables)


def _sentence(names, status, cause, free, limits, first, network, update) -> str:
    one, other = (f"“{name}”" for name in names)
    steps = len(limits[LOSS])
    over = f"{steps} steps" if steps > 1 else "the one step"
    if status == EQUAL:
        return (
            f"{one} and {other} are equal in every bit over {over}: losses, gradients, moments and "
            "parameters."
        )
    if status == HELD:
        quantity, step, worst = _closest_to_limit(free, limits)
        return (
            f"{one} and {other} stay within the limits over {over}: {quantity} comes closest to "
            f"its limit, in step {step}, with {_number(worst)} of at most "
            f"{_number(limits[quantity][step - 1])}."
        )
    start = f"{one} and {other} part in step {first.step}, "
    if cause == DRIFT:
        return (
            f"{start}where {_thing(first)} differs by {_measure(first)}, but neither in the "
            "gradient nor in the update: each single step is within the limits, and training adds "
            "up the rest."
        )
    if cause == ONLY_LOSS:
        return (
            f"{start}only in the loss: from the same weights and the same batch it differs by "
            f"{_measure(network)}, the gradient does not."
        )
    when = update if cause == UPDATE else network
    ahead = "" if when.step == first.step else f" (from step {when.step} on)"
    from_weights = network and (
        f"from the same weights and the same batch {_thing(network)} differs by {_measure(network)}"
    )
    from_gradients = update and (
        f"from the same gradients {_thing(update)} differs by {_measure(update)}"
    )
    place, reason = {
        BOTH: ("both in the gradient and in the update", f"{from_weights}; {from_gradients}"),
        NETWORK: ("in the gradient", from_weights),
        UPDATE: ("in the update, not in the gradient", from_gradients),
    }[cause]
    return f"{start}{place}{ahead}: {reason}."


def _thing(parting: Parting) -> str:
    if parting.quantity == LOSS:
        return "the loss"
    return f"{_WORDS[parting.quantity]} {parting.parameter}"


def _measure(parting: Parting) -> str:
    sizes = {"parameter": "the way it has come", LOSS: "its size"}
    size = sizes.get(parting.quantity, "its largest element")
    return f"{_number(parting.relative)} of {size} (limit {_number(parting.limit)})"


def _closest_to_limit(free: Distances, limits: dict) -> tuple[str, int, float]:
    """(Quantity, step, relative distance) of the tensor that comes closest to its limit."""
    best = (LOSS, 1, 0.0)
    most = -1.0
    for quantity, limit in limits.items():
        relative = free.judged(quantity).max(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(relative == 0, 0.0, relative / limit)
        if share.max() > most:
            most, step = share.max(), int(np.argmax(share))
            best = (quantity, step + 1, float(relative[step]))
    return best


def _number(value: float) -> str:
    return f"{value:.2g}" if value == 0 or 1e-3 <= value < 1e3 else short(value)
