"""What is found: the questions, their answers in words, and all of them together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional

# What each question is called, and what its answers mean.
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
}
WORDS = {
    "epsilon": {
        "outside": "outside the root, after correction",
        "hat": "outside the root, before correction",
        "inside": "inside the root",
        "none": "none",
    },
    "corrected": {
        "both": "both moments",
        "first": "first moment only",
        "second": "second moment only",
        "neither": "none",
    },
    "powers": {
        "exact": "no drift",
        "rounded": "no drift",
        "single": "no drift",
        "drifts": "drifts: float32 powers multiplied up",
    },
    "decay": {
        "none": "none",
        "L2": "L2, added to the gradient",
        "decoupled": "decoupled, times the learning rate",
        "unscaled": "decoupled, not times the learning rate",
    },
    "nesterov": {
        "none": "none",
        "shared": "both parts under this step's correction",
        "own": "each part under its own correction (Dozat)",
    },
    "amsgrad": {
        "none": "none",
        "before": "maximum before correction",
        "after": "maximum after correction",
    },
    "moments": {
        "float32": "float32 or better",
        "float16": "float16",
        "at rest": "float16",
        "bfloat16": "bfloat16",
    },
    "zeros": {"updated": "updated (exact)", "left": "left alone (lazy)"},
    "first_step": {1: "t = 1", 2: "t = 2: counted once too often"},
    "betas": {"as given": "as given", "exchanged": "beta1 and beta2 exchanged"},
}

FOUND, AMBIGUOUS, UNKNOWN = "found", "ambiguous", "no known formula"
IGNORED, REFUSED = "option ignored", "refused"


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
        question: a key of QUESTIONS.
        status: "found"; "ambiguous": another answer explains what was seen as well; "no known
            formula": none does; "option ignored"; "refused": the optimizer raised an error.
        answer: in words. If there is no known formula, the one that is nearest.
        residual: relative error of the answer's formula; None if nothing could be measured.
        excess: the ratio of errors to what rounding explains of them, at its largest; up to 1, all.
        next_best: the next-best answer, in words; None if no other is thinkable.
        next_residual: its relative error.
        note: what else is to be said.
    """

    question: str
    status: str
    answer: str
    residual: Optional[float] = None
    excess: Optional[float] = None
    next_best: Optional[str] = None
    next_residual: Optional[float] = None
    note: str = ""


@dataclass(frozen=True)
class Identification:
    """What an optimizer is.

    Attributes:
        target: its name.
        options: what was set.
        status: "found", "ambiguous", "no known formula", or "refused": it does not run here.
        formula: in words; the error if it does not run.
        residual, excess, next_best, next_residual: as in `Finding`, of the formula as a whole.
        algorithm1: whether it is Algorithm 1 of Kingma & Ba 2015 for dense gradients in float32,
            with no question about that open.
        numbers: learning_rate, beta1, beta2 and eps that it was taken to have.
        assumed: those of them that nothing tells, and for which Adam's defaults stood.
        findings: one for each question that arose.
    """

    target: str
    options: Dict[str, Any]
    status: str
    formula: str
    residual: Optional[float] = None
    excess: Optional[float] = None
    next_best: Optional[str] = None
    next_residual: Optional[float] = None
    algorithm1: bool = False
    numbers: Dict[str, float] = field(default_factory=dict)
    assumed: List[str] = field(default_factory=list)
    findings: List[Finding] = field(default_factory=list)

    def finding(self, question):
        """The finding of a question; None if it was not asked."""
        return next((f for f in self.findings if f.question == question), None)

    def as_dict(self):
        """Plain values for JSON, which has no infinite numbers: None stands for them."""
        return _finite(asdict(self))


def words(axis, form):
    """What a form answers on an axis."""
    if axis == "amsgrad" and form.amsgrad != "none" and form.corrected in ("first", "neither"):
        return "maximum"  # with no correction to be before or after of
    return WORDS[axis][getattr(form, axis)]


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
