"""What a claim comes to, judged by a measured number and a limit.

A verdict is *held*, *not held*, or *not measured* where the runs that it needs were not asked for
or can not decide it. Nothing is held by default: a number that is not finite holds no claim.
"""

from __future__ import annotations

import dataclasses

HELD = "held"
NOT_HELD = "not held"
NOT_MEASURED = "not measured"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One judged claim.

    Attributes:
        claim: What is claimed, one sentence.
        status: `HELD`, `NOT_HELD` or `NOT_MEASURED`.
        measured: The number that decides, in words.
        limit: What it must be for the claim to hold, in words.
        why: Where the limit comes from.
    """

    claim: str
    status: str
    measured: str
    limit: str
    why: str


def short(value: float) -> str:
    """Two digits, as people write them: 2.1e-6."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent and int(exponent) else mantissa
