"""Trainings on images: each optimizer in each mode, held to NumPy's float64 Adam."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ms_adam.lab.problems.images import Split, load_data
from ms_adam.lab.run.config import (
    AdamSettings,
    Data,
    InBatches,
    Model,
    Modes,
    Once,
    Section,
    Seeds,
    Share,
    Training,
)
from ms_adam.lab.run.study import Study
from ms_adam.lab.sides import REFERENCE, Result, Trainings, first_difference
from ms_adam.lab.studies.images.claims import CLAIMS, rounding_bound

OptimizerName = Literal["ms_adam.Adam", "mindspore.nn.Adam"]


class Compare(Section):
    """Which runs there are, and the accuracy that counts as trained."""

    optimizers: Annotated[list[OptimizerName], Field(min_length=1), Once]
    modes: Modes
    seeds: Seeds
    least_accuracy: Share


class Experiment(InBatches):
    """A config. See ``configs/quick.yaml`` for the meaning of each key."""

    study: Literal["images"]
    data: Data
    model: Model
    training: Training
    adam: AdamSettings
    compare: Compare


def sides(experiment: Experiment) -> dict[str, list[str]]:
    """Every optimizer trains in each mode; the reference's gradients come from one of them."""
    modes = experiment.compare.modes
    reference_mode = "graph" if "graph" in modes else modes[0]  # the quicker one
    return {**dict.fromkeys(experiment.compare.optimizers, modes), REFERENCE: [reference_mode]}


def row(experiment: Experiment, result: Result) -> dict[str, Any]:
    """Makes the study's columns of a run.

    Returns:
        Both accuracies, ``error_algorithm1`` and ``error_epsilon_hat`` (distances to the run's
        float64 shadows after the last step), and ``rounding_bound``, what roundings alone explain;
        the last three are None for the reference.
    """
    arrays, names = result.arrays, ("error_algorithm1", "error_epsilon_hat")
    found = {name: float(arrays[name][-1]) for name in ("train_accuracy", "test_accuracy")}
    if result.optimizer == REFERENCE:
        return {**found, **dict.fromkeys(names), "rounding_bound": None}
    path = len(arrays["loss"]), arrays["initial"], arrays["final"]
    found.update({name: float(arrays[name][-1]) for name in names})
    return {**found, "rounding_bound": rounding_bound(experiment.adam, *path)}


def more(experiment: Experiment, split: Split, results: list[Result]) -> dict[str, Any]:
    return {"images_sha256": split.fingerprint, "modes": compare_modes(results)}


def compare_modes(results: list[Result]) -> list[dict[str, Any]]:
    """Compares graph mode with PyNative mode, bit for bit, for each optimizer and seed.

    Returns:
        ``gradients_part`` and ``parameters_part`` are the first step (from 1) after which the
        gradients and the parameters differ in any bit, or None if they never do.
    """
    found = {(result.optimizer, result.mode, result.seed): result for result in results}
    return [
        {
            "optimizer": optimizer,
            "seed": seed,
            "steps": len(graph.arrays["loss"]),
            "gradients_part": first_difference(graph, pynative, "gradient_digest"),
            "parameters_part": first_difference(graph, pynative, "parameter_digest"),
        }
        for (optimizer, mode, seed), graph in found.items()
        for pynative in [found.get((optimizer, "pynative", seed))]
        if mode == "graph" and pynative is not None
    ]


TRAININGS = Trainings(__name__, Experiment, load_data, sides, row, more, CLAIMS, "{side}_{mode}")
STUDY = Study("images", Experiment, TRAININGS.run, "ms_adam.lab.report.studies.images:write_page")
