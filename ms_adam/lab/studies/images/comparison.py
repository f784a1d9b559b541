"""The numbers of an experiment: each run alone, and mode against mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np

from ms_adam.lab.run.comparison import Result


def summarize_run(result: Result) -> dict:
    """The row of one run.

    Returns:
        ``final_loss`` is the mean over the last epoch's batches. ``error_algorithm1`` and
        ``error_epsilon_hat`` are distances to the run's float64 shadows after the last step, and
        ``rounding_bound`` what roundings alone explain (see `shadow`); all
        three are None for the reference.
    """
    arrays = result.arrays
    steps, epochs = len(arrays["loss"]), len(arrays["test_accuracy"])
    row = {
        **result.columns,
        "steps": steps,
        "final_loss": float(np.mean(arrays["loss"][-(steps // epochs) :])),
        "train_accuracy": float(arrays["train_accuracy"][-1]),
        "test_accuracy": float(arrays["test_accuracy"][-1]),
        "rounding_bound": result.facts.get("rounding_bound"),
    }
    for name in ("error_algorithm1", "error_epsilon_hat"):
        row[name] = float(arrays[name][-1]) if name in arrays else None
    return row


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


def _first_difference(a: Result, b: Result, name: str) -> Optional[int]:
    different = np.flatnonzero(a.arrays[name] != b.arrays[name])
    return int(different[0]) + 1 if len(different) else None
