"""Findings: the questions, their answers in words, and all of them together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from ms_adam.lab.run.results import plain

# The title of each question.
QUESTIONS = {
    "epsilon": "epsilon",
    "corrected": "bias correction",
    "powers": "beta^t",
    "decay": "weight decay",
    "nesterov": "Nesterov",
    "amsgrad": "AMSGrad",
    "moments": "moments kept in",
    "halves": "with float16 weights",
    "zeros": "elements of zero gradient",
    "rows": "row-sparse gradients",
    "first_step": "first step",
    "betas": "decay rates",
    "heeded": "arguments",
    "measured": "measured numbers",
}

FOUND, AMBIGUOUS, UNKNOWN = "found", "ambiguous", "no known formula"
IGNORED, REFUSED = "option ignored", "refused"


@dataclass(frozen=True)
class Finding:
    """One answer."""

    question: str  # a key of QUESTIONS
    # "found"; "ambiguous": another answer explains the observation as well; "no known formula":
    # none does; "option ignored"; "refused": the optimizer raised an error.
    status: str
    answer: str  # in words. If there is no known formula, the nearest one.
    # Relative error of the answer's formula; None if nothing could be measured.
    residual: Optional[float] = None
    # The largest ratio of an error to what rounding explains of it; up to 1, all.
    excess: Optional[float] = None
    next_best: Optional[str] = None  # the next-best answer, in words; None if there is no other
    next_residual: Optional[float] = None  # its relative error
    note: str = ""  # further remarks


@dataclass(frozen=True)
class Identification:
    """The identity of an optimizer."""

    target: str
    options: dict[str, Any]  # those that were set
    status: str  # "found", "ambiguous", "no known formula", or "refused": it does not run here
    formula: str  # in words; the error if it does not run
    # As in `Finding`, of the formula as a whole.
    residual: Optional[float] = None
    excess: Optional[float] = None
    next_best: Optional[str] = None
    next_residual: Optional[float] = None
    # Whether it is Algorithm 1 of Kingma & Ba 2015 for dense gradients in float32, with no question
    # about that open.
    algorithm1: bool = False
    # The learning_rate, beta1, beta2 and eps that it was taken to have.
    numbers: dict[str, float] = field(default_factory=dict)
    # Those of them that nothing tells, and for which Adam's defaults stood.
    assumed: list[str] = field(default_factory=list)
    # beta1, beta2, eps and weight_decay as they act, and "1 - beta1", "1 - beta2": the factor of
    # the gradient and of its square. Those that could be measured.
    measured: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)  # one for each question that arose

    def finding(self, question: str) -> Optional[Finding]:
        """The finding of a question; None if it was not asked."""
        return next((f for f in self.findings if f.question == question), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinite numbers: None stands for them."""
        return plain(asdict(self), lambda number: None)
