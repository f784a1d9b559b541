"""The description of an experiment on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

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
    load,
)

OptimizerName = Literal["ms_adam.Adam", "mindspore.nn.Adam"]


class Compare(Section):
    """Which runs there are, and what a run must reach to count as trained."""

    optimizers: Annotated[list[OptimizerName], Field(min_length=1), Once]
    modes: Annotated[list[Mode], Field(min_length=1), Once]
    seeds: Annotated[list[Seed], Field(min_length=1), Once]
    least_accuracy: Annotated[Number, Field(ge=0, le=1)]


class Experiment(InBatches):
    """One experiment. See ``configs/quick.yaml`` for what each key means."""

    kind: Literal["images"] = "images"
    data: Data
    model: Model
    training: Training
    adam: AdamSettings
    compare: Compare


def load_experiment(path: Path) -> Experiment:
    """Reads and checks the config of an experiment, as `load` does."""
    return load(path, Experiment)
