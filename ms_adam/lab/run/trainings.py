"""What the trainings of a config leave on disk, and how they are compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.lab.run.worker import Events

REFERENCE = "float64 reference"  # the run whose parameters and moments are never rounded


def report_run(
    events: Events, job: dict[str, Any], done: int, name: str, arrays: dict[str, Any], **facts: Any
) -> None:
    """Called by a worker: writes the arrays of a finished run and reports its facts.

    Args:
        done: Steps of all runs so far.
        name: Of the file, unique in the config.
        arrays: NumPy's; `compare_pairs` needs ``loss``, ``initial`` and ``final``.
        facts: ``optimizer``, ``seed``, ``seconds``, ``backend``, and others.
    """
    import mindspore

    facts.update(mode=job["mode"], file=f"{name}.npz")
    np.savez(Path(job["folder"]) / facts["file"], **arrays)
    events.send("run", done=done, device_target=mindspore.get_context("device_target"), **facts)


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run, read back from disk."""

    optimizer: str
    mode: str
    seed: int
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        return REFERENCE if self.optimizer == REFERENCE else f"{self.optimizer}, {self.mode}"

    @property
    def columns(self) -> dict[str, Any]:
        """The first columns of the row of any run."""
        own = {key: getattr(self, key) for key in ("optimizer", "mode", "seed", "label")}
        return {**own, **{key: self.facts[key] for key in ("file", "backend", "seconds")}}


def read(folder: Path, facts: dict[str, Any]) -> Result:
    """Reads the arrays of a run."""
    with np.load(folder / facts["file"]) as arrays:
        return Result(facts["optimizer"], facts["mode"], facts["seed"], facts, dict(arrays))


def compare_pairs(runs: Sequence[Result]) -> list[dict[str, Any]]:
    """Compares every two runs of one seed.

    Returns:
        One entry for each pair of labels. ``distance`` is the largest over the seeds of
        ||final a - final b|| / (the longer of the two distances from the first parameters), in the
        Euclidean norm: 0 means equal bits. ``loss`` is the largest difference between the losses of
        one step.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in sorted({run.seed for run in runs}):
        for a, b in itertools.combinations([run for run in runs if run.seed == seed], 2):
            loss = float(np.max(np.abs(a.arrays["loss"] - b.arrays["loss"])))
            pairs.setdefault((a.label, b.label), []).append((_distance(a, b), loss))
    return [
        {"a": a, "b": b, "distance": max(distances), "loss": max(losses)}
        for (a, b), numbers in pairs.items()
        for distances, losses in [zip(*numbers)]
    ]


def _distance(a: Result, b: Result) -> float:
    # Not the largest difference: the weight of a pixel that is almost always blank gets gradients
    # of rounding size, and Adam makes full steps of them. It would decide for 100,000 others.
    finals = [run.arrays["final"].astype(np.float64) for run in (a, b)]
    difference = np.linalg.norm(finals[0] - finals[1])
    way = max(np.linalg.norm(final - a.arrays["initial"]) for final in finals)
    return 0.0 if difference == 0 else float(np.divide(difference, way))


def first_difference(a: Result, b: Result, name: str) -> int | None:
    """Returns the first step (from 1) at which an array of two runs differs, or None."""
    different = np.flatnonzero(a.arrays[name] != b.arrays[name])
    return int(different[0]) + 1 if len(different) else None
