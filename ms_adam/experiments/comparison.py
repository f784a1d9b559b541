"""The numbers of an experiment: each run alone, runs against each other, mode against mode."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ms_adam.experiments.config import REFERENCE


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


def label(optimizer: str, mode: str) -> str:
    return REFERENCE if optimizer == REFERENCE else f"{optimizer}, {mode}"


def read_result(folder: Path, facts: dict) -> Result:
    """Reads the arrays of a run that lie beside each other in ``folder``."""
    with np.load(folder / facts["file"]) as arrays:
        return Result(
            facts["optimizer"], facts["mode"], facts["seed"], facts, dict(arrays.items())
        )


def summarize_run(result: Result) -> dict:
    """The row of one run.

    Returns:
        ``final_loss`` is the mean over the last epoch's batches. ``error_algorithm1`` and
        ``error_epsilon_hat`` are distances to the run's float64 shadows after the last step, and
        ``rounding_bound`` what roundings alone explain (see `ms_adam.experiments.shadow`); all
        three are None for the reference.
    """
    arrays = result.arrays
    steps, epochs = len(arrays["loss"]), len(arrays["test_accuracy"])
    row = {
        "optimizer": result.optimizer,
        "mode": result.mode,
        "seed": result.seed,
        "label": result.label,
        "file": result.facts["file"],
        "backend": result.facts["backend"],
        "seconds": result.facts["seconds"],
        "steps": steps,
        "final_loss": float(np.mean(arrays["loss"][-(steps // epochs) :])),
        "train_accuracy": float(arrays["train_accuracy"][-1]),
        "test_accuracy": float(arrays["test_accuracy"][-1]),
        "rounding_bound": result.facts.get("rounding_bound"),
    }
    for name in ("error_algorithm1", "error_epsilon_hat"):
        row[name] = float(arrays[name][-1]) if name in arrays else None
    return row


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


def compare_modes(results: Sequence[Result]) -> list[dict]:
    """Graph mode against PyNative mode, bit for bit, for each optimizer and seed.

    Returns:
        ``gradients_part`` and ``parameters_part`` are the first step (from 1) after which the
        gradients and the parameters differ in any bit, or None if they never do.
    """
    found = {(result.optimizer, result.mode, result.seed): result for result in results}
    rows = []
    for (optimizer, mode, seed), graph in found.items():
        pynative = found.get((optimizer, "pynative", seed))
        if mode != "graph" or pynative is None:
            continue
        rows.append(
            {
                "optimizer": optimizer,
                "seed": seed,
                "steps": len(graph.arrays["loss"]),
                "gradients_part": _first_difference(graph, pynative, "gradient_digest"),
                "parameters_part": _first_difference(graph, pynative, "parameter_digest"),
            }
        )
    return rows


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


def _first_difference(a: Result, b: Result, name: str) -> Optional[int]:
    different = np.flatnonzero(a.arrays[name] != b.arrays[name])
    return int(different[0]) + 1 if len(different) else None
