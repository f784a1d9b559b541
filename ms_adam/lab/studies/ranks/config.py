"""The description of a data-parallel training: a YAML file, checked before anything runs."""

from __future__ import annotations

from typing import Annotated, Literal, Union

import pydantic
from pydantic import Field

from ms_adam.lab.run.config import Count, Mode, Name, Number, Once, Section, Seed


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
    """One of ours; the other arguments have their defaults."""

    name: Literal["Adam", "AdamW"]
    learning_rate: Annotated[Number, Field(gt=0)]
    weight_decay: Annotated[Number, Field(ge=0)]


class Checkpoints(Section):
    """How often a training is saved, and how many files are kept."""

    every_steps: Count
    keep: Annotated[Count, Field(ge=2)]  # a damaged newest file must leave another


class Distributed(Section):
    """Trainings that are made by one process and by several. See ``configs/distributed.yaml``."""

    name: Name
    title: Annotated[str, Field(min_length=1)]
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
    def _fits(self) -> Distributed:
        for workers in self.workers:
            if self.batch_size % workers:
                raise ValueError(
                    f"batch_size = {self.batch_size} can not be divided among "
                    f"{workers} workers in equal parts"
                )
        for problem in self.problems:
            if problem.train < self.batch_size:
                raise ValueError(
                    f"batch_size = {self.batch_size} is more than the "
                    f"{problem.train} examples of {problem.name}"
                )
        for what in ("problems", "optimizers"):
            names = [entry.name for entry in getattr(self, what)]
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: each name may stand only once")
        return self
