"""The first parting of two sides, its cause in gradient or update, and one sentence on it.

Two sides part at the first step and tensor where one of them leaves the standard further than
roundings explain (see `checks`), or than the tolerance allows, where that is more.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np

from ms_adam.lab.claims import short
from ms_adam.lab.studies.compare.checks import Checks
from ms_adam.lab.studies.compare.config import Tolerance
from ms_adam.lab.studies.compare.distances import Distances
from ms_adam.lab.studies.compare.record import LOSS, QUANTITIES

EQUAL = "equal"
HELD = "held"
PARTED = "parted"

# Causes
NETWORK = "gradient"
UPDATE = "update"
BOTH = "gradient and update"
ONLY_LOSS = "loss"
ROUNDINGS = "roundings"


@dataclasses.dataclass(frozen=True)
class Parting:
    """The first place where a side is beyond what is allowed.

    Attributes:
        side: The side's name.
        step: Counted from 1.
        quantity: "loss" or one of `record.QUANTITIES`.
        parameter: The tensor's name; None for the loss.
        difference: To the standard, of the element that is farthest beyond.
        bound: What roundings explain of it.
        allowed: The bound, or what the tolerance allows, if that is more.
    """

    side: str
    step: int
    quantity: str
    parameter: Optional[str]
    difference: float
    bound: float
    allowed: float

    @property
    def times(self) -> float:
        return self.difference / self.allowed if self.allowed else np.inf


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The judgement on two sides.

    Attributes:
        status: `EQUAL` (in every value), `HELD` (as far as roundings explain) or `PARTED`.
        sentence: The verdict in words.
        first: Where they part; None if they do not.
        cause: `NETWORK`, `UPDATE`, `BOTH`, `ONLY_LOSS` or `ROUNDINGS` (where the tolerance is 0);
            None if they do not part.
        network: The first parting of a loss or gradient from that of the first side's network at
            the same weights.
        update: The first parting of an update from the formula.
    """

    status: str
    sentence: str
    first: Optional[Parting]
    cause: Optional[str]
    network: Optional[Parting]
    update: Optional[Parting]


def judge(
    checks: dict[str, Checks],
    free: Distances,
    tolerance: Tolerance,
    formula_of: Optional[str],
    other_batch: Optional[int] = None,
    apart: Optional[dict[str, Optional[dict]]] = None,
) -> Judgement:
    """Judges a pair of sides.

    Args:
        checks: Of each of the two sides.
        free: Their distances, each on its own way.
        tolerance: Relative differences that are allowed although roundings do not explain them.
        formula_of: The side whose formula updates were held to; None: neither has a known one, and
            the second side's updates were held to those of the first one's optimizer.
        other_batch: The first step in which the sides were given other batches, from 1.
        apart: {side: the first step, quantity, parameter and rank that differs from rank 0}.
    """
    names = list(checks)
    order = [q for q in QUANTITIES if q != "gradient"]
    network = _first(checks, ["gradient", LOSS], tolerance)
    update = _first(checks, order, tolerance)
    first, cause = _earliest(network, update), None
    if first is not None:
        cause = UPDATE if first is update else NETWORK
        if network and update and network.step == update.step:
            cause = BOTH
        elif first.quantity == LOSS:
            cause = ONLY_LOSS
    equal = _first_unequal(names, free, tolerance)
    wrong = [
        _first({name: of}, order + ["gradient", LOSS], tolerance) for name, of in checks.items()
    ]
    if free.equal and len({p and (p.step, p.quantity) for p in wrong}) == 1:
        # They do not part, even if both are wrong in the same way.
        first, cause, status = None, None, EQUAL
    elif first is None and equal is not None:
        first, cause, status = equal, ROUNDINGS, PARTED
    else:
        status = PARTED if first else HELD
    sentence = _sentence(
        names, status, cause, first, network, update, formula_of, checks, tolerance
    )
    if other_batch is not None and cause in (NETWORK, BOTH) and other_batch <= first.step:
        sentence += f" The batch of step {other_batch} is another one."
    for side, place in (apart or {}).items():
        if place and (first is None or place["step"] <= first.step):
            what = _thing(place["quantity"], place["parameter"])
            sentence += (
                f" The ranks of “{side}” are not alike: from step {place['step']} on {what} on "
                f"rank {place['rank']} is another one than on rank 0."
            )
    return Judgement(status, sentence, first, cause, network, update)


def _first(checks: dict[str, Checks], quantities, tolerance: Tolerance) -> Optional[Parting]:
    """The earliest step; in it the first quantity, of the side and tensor that is worst."""
    found = []
    for side, of in checks.items():
        for place, quantity in enumerate(quantities):
            if quantity not in of.tables:
                continue
            share = of.shares(quantity, tolerance.of(quantity))
            beyond = (share > 1).any(axis=1)
            if beyond.any():
                step = int(np.argmax(beyond))
                tensor = int(np.argmax(share[step]))
                difference, bound, _ = map(float, of.tables[quantity][:, step, tensor])
                allowed = float(of.allowed(quantity, tolerance.of(quantity))[step, tensor])
                name = None if quantity == LOSS else of.names[tensor]
                parting = Parting(side, step + 1, quantity, name, difference, bound, allowed)
                found.append(((step, place, -share[step, tensor], side), parting))
    return min(found)[1] if found else None


def _earliest(*partings: Optional[Parting]) -> Optional[Parting]:
    return min(filter(None, partings), key=lambda parting: parting.step, default=None)


def _first_unequal(names, free: Distances, tolerance: Tolerance) -> Optional[Parting]:
    """The first value that is not equal, of the quantities whose tolerance is 0."""
    wanted = [q for q in (LOSS, *QUANTITIES) if q in free.tables and tolerance.asks_equal(q)]
    steps = {q: np.flatnonzero(free.worst(q)["different"]) for q in wanted}
    found = [(int(at[0]), place, q) for place, (q, at) in enumerate(steps.items()) if at.size]
    if not found:
        return None
    step, _, quantity = min(found)
    tensor = int(np.argmax(free.relative(quantity)[step]))
    absolute = free.at(quantity, step, tensor)["absolute"]
    name = None if quantity == LOSS else free.names[tensor]
    return Parting(names[1], step + 1, quantity, name, absolute, 0.0, 0.0)


def _sentence(names, status, cause, first, network, update, formula_of, checks, tolerance) -> str:
    one, other = (f"“{name}”" for name in names)
    steps = len(next(iter(checks[names[0]].tables.values()))[0])
    over = f"{steps} steps" if steps > 1 else "the one step"
    if status == EQUAL:
        sentence = (
            f"{one} and {other} are equal in every bit over {over}: losses, gradients, moments and "
            "parameters."
        )
        wrong = _earliest(network, update)
        if wrong:
            sentence += f" Both are wrong in step {wrong.step}: {_reason(wrong, one, formula_of)}."
        return sentence
    if status == HELD:
        quantity, side, step, name, share = _nearest(checks, tolerance)
        within, limit = "is allowed", "its limit"
        if formula_of and _nearest(checks, Tolerance())[-1] <= 1:
            within, limit = "roundings", "what roundings explain"
        return (
            f"{one} and {other} differ by no more than {within} over {over}: "
            f"{_thing(quantity, name)} of “{side}” comes nearest, in step {step}, with "
            f"{_number(share)} of {limit}."
        )
    start = f"{one} and {other} part in step {first.step}, "
    if cause == ROUNDINGS:
        return (
            f"{start}where {_thing(first.quantity, first.parameter)} is not equal: it differs by "
            f"{_number(first.difference)}. Roundings explain it; the tolerance of 0 allows none."
        )
    if cause == ONLY_LOSS:
        return f"{start}only in the loss: {_reason(network, one, formula_of)}."
    of_network = "loss" if network and network.quantity == LOSS else "gradient"
    reasons = {
        BOTH: (f"both in the {of_network} and in the update", (network, update)),
        NETWORK: ("in the gradient", (network,)),
        UPDATE: ("in the update, not in the gradient", (update,)),
    }
    place, partings = reasons[cause]
    return f"{start}{place}: {'; '.join(_reason(p, one, formula_of) for p in partings)}."


def _reason(parting: Parting, one: str, formula_of: Optional[str]) -> str:
    side, thing = f"“{parting.side}”", _thing(parting.quantity, parting.parameter)
    explained = "roundings explain" if parting.allowed == parting.bound else "the tolerance allows"
    times = f"{_number(parting.times)} times what {explained}" if parting.allowed else "not 0"
    far = f"{_number(parting.difference)}, {times}"
    if parting.quantity in (LOSS, "gradient"):
        return (
            f"at its own weights and on the same batch {thing} of {side} differs from "
            f"that of the network of {one} by {far}"
        )
    if formula_of is None:
        return (
            f"given all its gradients, the optimizer of {one} makes of {thing} something "
            f"that differs from {side} by {far}"
        )
    return (
        f"from its own state and gradient {thing} of {side} differs from the formula of "
        f"“{formula_of}” by {far}"
    )


def _thing(quantity: str, tensor: Optional[str]) -> str:
    if quantity == LOSS:
        return "the loss"
    return f"the {QUANTITIES[quantity]}{'' if quantity == 'parameter' else ' of'} {tensor}"


def _number(value: float) -> str:
    return f"{value:.2g}" if value == 0 or 1e-3 <= value < 1e3 else short(value)


def _nearest(checks: dict[str, Checks], tolerance: Tolerance) -> tuple:
    """(Quantity, side, step, tensor, share) of what comes nearest to its bound."""
    found = []
    for side, of in checks.items():
        for quantity in of.tables:
            step, tensor, share = of.nearest(quantity, tolerance.of(quantity))
            found.append((quantity, side, step + 1, of.names[tensor], share))
    return max(found, key=lambda each: each[-1])
