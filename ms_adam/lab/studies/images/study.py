"""Trainings on images: each optimizer in each mode, held to NumPy's float64 Adam."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ms_adam.lab.problems.images import Split, load_data
from ms_adam.lab.run.config import (
    AdamSettings,
    Data,
    InBatches,
    Mode,
    Model,
    Number,
    Once,
    Section,
    Seed,
    Training,
)
from ms_adam.lab.run.study import Study
from ms_adam.lab.run.trainings import REFERENCE, Result, compare_pairs
from ms_adam.lab.run.trainings import first_difference as differs
from ms_adam.lab.sides import Trainings, common
from ms_adam.lab.studies.images.claims import CLAIMS, rounding_bound

OptimizerName = Literal["ms_adam.Adam", "mindspore.nn.Adam"]


class Compare(Section):
    """Which runs there are, and the accuracy that counts as trained."""

    optimizers: Annotated[list[OptimizerName], Field(min_length=1), Once]
    modes: Annotated[list[Mode], Field(min_length=1), Once]
    seeds: Annotated[list[Seed], Field(min_length=1), Once]
    least_accuracy: Annotated[Number, Field(ge=0, le=1)]


class Experiment(InBatches):
    """A config. See ``configs/quick.yaml`` for the meaning of each key."""

    study: Literal["images"]
    data: Data
    model: Model
    training: Training
    adam: AdamSettings
    compare: Compare


def sides(experiment: Experiment) -> dict[str, list[str]]:
    """Each mode trains with every optimizer; the reference's gradients come from one of them."""
    compare = experiment.compare
    reference_mode = "graph" if "graph" in compare.modes else compare.modes[0]  # the quicker one
    return {
        mode: [*compare.optimizers, *([REFERENCE] if mode == reference_mode else [])]
        for mode in compare.modes
    }


def evaluate(experiment: Experiment, split: Split, results: list[Result]) -> dict[str, Any]:
    """Makes the config's entry in ``results.json``."""
    order = [*experiment.compare.optimizers, REFERENCE]
    results = sorted(results, key=lambda run: order.index(run.optimizer))  # modes keep their order
    return {
        "images_sha256": split.fingerprint,
        "parameters": int(results[0].arrays["final"].size),
        "runs": [summarize(experiment, result) for result in results],
        "pairs": compare_pairs(results),
        "modes": compare_modes(results),
    }


def summarize(experiment: Experiment, result: Result) -> dict[str, Any]:
    """Makes the row of one run.

    Returns:
        The columns of every study, both accuracies, ``error_algorithm1`` and ``error_epsilon_hat``
        (distances to the run's float64 shadows after the last step), and ``rounding_bound``, what
        roundings alone explain; the last three are None for the reference.
    """
    arrays = result.arrays
    row = {
        **common(experiment, result),
        "train_accuracy": float(arrays["train_accuracy"][-1]),
        "test_accuracy": float(arrays["test_accuracy"][-1]),
        "rounding_bound": None,
        "error_algorithm1": None,
        "error_epsilon_hat": None,
    }
    if result.optimizer != REFERENCE:
        bound = rounding_bound(experiment.adam, row["steps"], arrays["initial"], arrays["final"])
        errors = {name: float(arrays[name][-1]) for name in row if name.startswith("error_")}
        row.update(errors, rounding_bound=bound)
    return row


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
            "gradients_part": differs(graph, pynative, "gradient_digest"),
            "parameters_part": differs(graph, pynative, "parameter_digest"),
        }
        for (optimizer, mode, seed), graph in found.items()
        for pynative in [found.get((optimizer, "pynative", seed))]
        if mode == "graph" and pynative is not None
    ]


TRAININGS = Trainings(
    "ms_adam.lab.studies.images.training:work", load_data, sides, evaluate, CLAIMS
)
STUDY = Study("images", Experiment, TRAININGS.run, "ms_adam.lab.report.studies.images:write_page")
