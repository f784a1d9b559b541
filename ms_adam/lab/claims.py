"""Claims and verdicts: a claim is a row of a table, and one function judges all rows.

A verdict is *held*, *not held*, or *not measured* if the runs that the claim needs are missing or
cannot decide it. Nothing is held by default: a number that is not finite holds no claim. Studies of
published figures use their own words for a status, such as "reproduced".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple, Optional, Union

HELD = "held"
NOT_HELD = "not held"
NOT_MEASURED = "not measured"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One judged claim."""

    claim: str  # one sentence
    status: str  # `HELD`, `NOT_HELD`, `NOT_MEASURED`, or a study's own word
    measured: Union[str, list[str]]  # the number that decides, in words; a list of several tests
    limit: Optional[str] = None  # the value of `measured` at which the claim holds, in words
    why: Optional[str] = None  # the source of the limit
    test: Optional[str] = None  # how a claim without a single limit was tested
    # Of a claim that is judged over seeds:
    seeds: Optional[int] = None  # how many it took
    interval: Optional[str] = None  # what the test that decides measured, with its bounds
    needed: Optional[int] = None  # about how many seeds would decide it

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the attributes that are None."""
        return {key: value for key, value in vars(self).items() if value is not None}


class Measured(NamedTuple):
    """What a claim's measurement found; see `Verdict`."""

    held: Optional[bool]  # None if the measurement cannot decide it
    measured: str
    limit: str = ""
    why: Optional[str] = None  # replaces the claim's own, if the measurement determines it


class Claim(NamedTuple):
    """One row of a study's table of claims."""

    claim: str  # one sentence
    why: str  # the source of the limit
    needs: str  # what is missing if `measure` returns None, such as "needs two seeds"
    measure: Callable[[Any], Optional[Measured]]  # of what the study found


def judge(claims: Iterable[Claim], found: Any) -> list[Verdict]:
    """Judges each claim by what a study found."""
    statuses = {True: HELD, False: NOT_HELD, None: NOT_MEASURED}
    verdicts = []
    for claim in claims:
        of = claim.measure(found) or Measured(None, claim.needs)
        status = statuses[None if of.held is None else bool(of.held)]
        verdicts.append(Verdict(claim.claim, status, of.measured, of.limit, of.why or claim.why))
    return verdicts


def all_held(verdicts: Iterable[dict[str, Any]]) -> bool:
    """Whether no verdict is `NOT_HELD` or `NOT_MEASURED`; a figure not reproduced is a finding."""
    return all(verdict["status"] not in (NOT_HELD, NOT_MEASURED) for verdict in verdicts)


def short(value: float) -> str:
    """Formats a number with two digits: 2.1e-6."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent and int(exponent) else mantissa
