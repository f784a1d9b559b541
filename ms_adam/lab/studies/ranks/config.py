"""Data-parallel trainings as a YAML file describes them; checked before anything runs."""

from __future__ import annotations

from typing import Annotated, Literal, Union

import pydantic
from pydantic import Field

from ms_adam.lab.run.config import (
    Checkpoints,
    Count,
    Mode,
    Number,
    Once,
    Section,
    Seed,
    StudyConfig,
)


class Images(Section):
    """A perceptron on MNIST; its gradients are dense."""

    name: Literal["images"]
    train: Count
    hidden: list[Count]


class Words(Section):
    """A table of words on movie-review snippets; lazy, with row-sparse gradients in graph mode."""

    name: Literal["words"]
    train: Count
    words: Count
    width: Count


Problem = Annotated[Union[Images, Words], Field(discriminator="name")]


class Optimizer(Section):
    """An optimizer of ms_adam; its other arguments have their defaults."""

    name: Literal["Adam", "AdamW"]
    learning_rate: Annotated[Number, Field(gt=0)]
    weight_decay: Annotated[Number, Field(ge=0)]


class RanksConfig(StudyConfig):
    """Trainings by one process and by several. ``configs/ranks.yaml`` describes each key."""

    study: Literal["ranks"]
    workers: Annotated[list[Annotated[Count, Field(ge=2)]], Field(min_length=1), Once]
    modes: Annotated[list[Mode], Field(min_length=1), Once]
    problems: Annotated[list[Problem], Field(min_length=1)]
    optimizers: Annotated[list[Optimizer], Field(min_length=1)]
    steps: Count
    batch_size: Count
    seed: Seed
    checkpoints: Checkpoints
    message_sizes: list[Count]

    @pydantic.model_validator(mode="after")
    def _fits(self) -> RanksConfig:
        for workers in self.workers:
            if self.batch_size % workers:
                raise ValueError(
                    f"batch_size = {self.batch_size} cannot be divided among "
                    f"{workers} workers in equal parts"
                )
        for problem in self.problems:
            if problem.train < self.batch_size:
                raise ValueError(
                    f"batch_size = {self.batch_size} is more than the "
                    f"{problem.train} examples of {problem.name}"
                )
        for key in ("problems", "optimizers"):
            names = [entry.name for entry in getattr(self, key)]
            if len(set(names)) != len(names):
                raise ValueError(f"{key}: each name may stand only once")
        return self
