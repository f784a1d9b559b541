"""Identifications as rows of words, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from ms_adam.lab.studies.identify.findings import (
    AMBIGUOUS,
    IGNORED,
    QUESTIONS,
    REFUSED,
    UNKNOWN,
    Identification,
)

SUMMARY = (
    "optimizer",
    "formula",
    "weight decay",
    "Nesterov",
    "AMSGrad",
    "beta^t",
    "float16 moments",
    "row-sparse",
    "residual",
    "next best",
)
DETAILS = ("question", "answer", "residual", "next best", "residual")

CONFORMANCE = (
    "optimizer",
    "formula",
    "weight decay",
    "beta1",
    "1 - beta1",
    "beta2",
    "1 - beta2",
    "eps",
    "not as given",
    "beta^t",
    "moments",
    "moments of float16 weights",
    "row-sparse gradients",
    "accepted without effect",
)

_COLUMNS = ("decay", "nesterov", "amsgrad", "powers", "halves", "rows")
_SHORT = {
    "L2, added to the gradient": "L2",
    "decoupled, times the learning rate": "decoupled",
    "decoupled, not times the learning rate": "decoupled, unscaled",
    "both parts under this step's correction": "yes",
    "each part under its own correction (Dozat)": "yes (Dozat)",
    "maximum": "yes",
    "maximum before correction": "before correction",
    "maximum after correction": "after correction",
    "drifts: float32 powers multiplied up": "drifts",
    "updated (exact)": "exact",
    "left alone (lazy)": "lazy",
    "float32 or better": "float32",
    "dropped: the parameter does not move": "dropped",
}


def summary_row(identification: Identification) -> tuple[str, ...]:
    """The words of one optimizer under SUMMARY."""
    cells = [_cell(identification.finding(question)) for question in _COLUMNS]
    formula = identification.formula
    if identification.status == AMBIGUOUS:
        formula = f"ambiguous: {formula}"
    return (
        title(identification),
        formula,
        *cells,
        number(identification.residual),
        number(identification.next_residual),
    )


def _cell(finding):
    if finding is None:
        return "-"
    if finding.status in (REFUSED, IGNORED, AMBIGUOUS):
        return finding.status
    if finding.residual is not None and finding.status == UNKNOWN:
        return "unknown"
    return _SHORT.get(finding.answer, finding.answer)


def conformance_row(identification: Identification) -> tuple[str, ...]:
    """The words of one optimizer under CONFORMANCE: its numbers as they act."""
    measured, found = identification.measured, identification.finding("measured")
    numbers = ("beta1", "1 - beta1", "beta2", "1 - beta2", "eps")
    ignored = [QUESTIONS[f.question] for f in identification.findings if f.status == IGNORED]
    cells = [_cell(identification.finding(q)) for q in ("powers", "moments", "halves", "rows")]
    return (
        title(identification),
        identification.formula,
        _cell(identification.finding("decay")),
        *(f"{measured[name]:.6g}" if name in measured else "-" for name in numbers),
        "-" if found is None else found.answer,
        *cells,
        ", ".join(ignored) or "-",
    )


def detail_rows(identification: Identification) -> Iterator[tuple[str, ...]]:
    """The words of each finding under DETAILS."""
    for finding in identification.findings:
        answer = finding.answer
        if finding.status == UNKNOWN and finding.residual is not None:
            answer = f"no known formula; nearest: {answer}"
        elif finding.status == AMBIGUOUS:
            answer = f"ambiguous: {answer}, or {finding.next_best}"
        elif finding.status == IGNORED:
            answer = f"option ignored: {answer}"
        if finding.note:
            answer += f" ({finding.note})"
        yield (
            QUESTIONS[finding.question],
            answer,
            number(finding.residual),
            finding.next_best or "-",
            number(finding.next_residual),
        )


def title(identification: Identification) -> str:
    """The optimizer with the options that were set."""
    options = ", ".join(f"{name}={value!r}" for name, value in identification.options.items())
    return identification.target + (f"({options})" if options else "")


def number(value: Optional[float]) -> str:
    """A relative error in two digits."""
    return "-" if value is None else f"{value:.1e}"
