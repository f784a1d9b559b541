"""Finished runs, read back from disk and held against each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

REFERENCE = "float64 reference"  # the run whose parameters and moments are never rounded


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run, read back from disk."""

    optimizer: str
    mode: str
    seed: int
    facts: dict
    arrays: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        return label(self.optimizer, self.mode)

    @property
    def columns(self) -> dict:
        """What the row of any run starts with."""
        return {
            "optimizer": self.optimizer,
            "mode": self.mode,
            "seed": self.seed,
            "label": self.label,
            "file": self.facts["file"],
            "backend": self.facts["backend"],
            "seconds": self.facts["seconds"],
        }


def label(optimizer: str, mode: str) -> str:
    return REFERENCE if optimizer == REFERENCE else f"{optimizer}, {mode}"


def read_result(folder: Path, facts: dict) -> Result:
    """Reads the arrays of a run that lie beside each other in ``folder``."""
    with np.load(folder / facts["file"]) as arrays:
        return Result(facts["optimizer"], facts["mode"], facts["seed"], facts, dict(arrays.items()))


def compare_pairs(results: Sequence[Result]) -> list[dict]:
    """Every two runs of one seed against each other.

    Returns:
        One entry for each pair of labels. ``distance`` is the largest over the seeds of
        ||final a - final b|| / (the longer of the two ways from the first parameters), in the
        Euclidean norm: 0 means equal bits. ``loss`` is the largest difference between the losses
        of one step.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, group in _by_seed(results):
        for a, b in itertools.combinations(group, 2):
            numbers = (_distance(a, b), _loss_difference(a, b))
            pairs.setdefault((a.label, b.label), []).append(numbers)
    return [
        {
            "a": a,
            "b": b,
            "distance": max(distance for distance, _ in numbers),
            "loss": max(loss for _, loss in numbers),
        }
        for (a, b), numbers in pairs.items()
    ]


def _by_seed(results: Sequence[Result]):
    seeds = sorted({result.seed for result in results})
    return [(seed, [r for r in results if r.seed == seed]) for seed in seeds]


def _distance(a: Result, b: Result) -> float:
    # Not the largest difference: one weight of a pixel that is almost always blank gets gradients
    # of rounding size, Adam makes full steps of them, and it would speak for 100,000 others.
    first = a.arrays["initial"]
    finals = (a.arrays["final"].astype(np.float64), b.arrays["final"].astype(np.float64))
    difference = np.linalg.norm(finals[0] - finals[1])
    way = max(np.linalg.norm(final - first) for final in finals)
    return 0.0 if difference == 0 else float(np.divide(difference, way))


def _loss_difference(a: Result, b: Result) -> float:
    return float(np.max(np.abs(a.arrays["loss"] - b.arrays["loss"])))
