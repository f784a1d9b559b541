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
    """One judged claim.

    Attributes:
        claim: One sentence.
        status: `HELD`, `NOT_HELD`, `NOT_MEASURED`, or a study's own word.
        measured: The number that decides, in words; a list if there are several tests.
        limit: The value of `measured` at which the claim holds, in words.
        why: The source of the limit.
        test: How a claim without a single limit was tested.
    """

    claim: str
    status: str
    measured: Union[str, list[str]]
    limit: Optional[str] = None
    why: Optional[str] = None
    test: Optional[str] = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the attributes that are None."""
        return {key: value for key, value in vars(self).items() if value is not None}


class Measured(NamedTuple):
    """What a claim's measurement found.

    Attributes:
        held: Whether the claim holds; None if the measurement cannot decide it.
        measured: As in `Verdict`.
        limit: As in `Verdict`.
        why: Replaces the claim's own `why` if the measurement determines it.
    """

    held: Optional[bool]
    measured: str
    limit: str = ""
    why: Optional[str] = None


class Claim(NamedTuple):
    """One row of a study's table of claims.

    Attributes:
        claim: One sentence.
        why: The source of the limit.
        needs: What is missing if `measure` returns None, such as "needs two seeds".
        measure: Takes what the study found; returns None if the runs that it needs are missing.
    """

    claim: str
    why: str
    needs: str
    measure: Callable[[Any], Optional[Measured]]


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
