"""The description of one training: a YAML file, checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

from pydantic import Field

from ms_adam.lab.run.config import Count, Data, InBatches, Model, Number, Section, Seed, load

Decay = Annotated[Number, Field(ge=0, lt=1)]


class Schedule(Section):
    """How long, in batches of how many images, and from which seed."""

    epochs: Count
    batch_size: Count
    seed: Seed


class OptimizerSettings(Section):
    """Arguments of ``ms_adam.Adam`` and ``ms_adam.AdamW`` under their own names."""

    name: Literal["Adam", "AdamW"]
    learning_rate: Annotated[Number, Field(gt=0)]
    learning_rate_decay: Literal["none", "cosine"]
    beta1: Decay
    beta2: Decay
    eps: Annotated[Number, Field(gt=0)]
    weight_decay: Annotated[Number, Field(ge=0)]
    max_grad_norm: Optional[Annotated[Number, Field(gt=0)]]
    use_nesterov: bool
    use_amsgrad: bool
    epsilon_hat: bool
    bias_correction: bool
    backend: Literal["auto", "fused", "primitive", "composite"]
    flat_state: bool


class Checkpoints(Section):
    """How often the training is saved, and how many files are kept."""

    every_steps: Count
    keep: Annotated[Count, Field(ge=2)]  # a damaged newest file must leave another


class TrainingRun(InBatches):
    """One training. See ``configs/train.yaml`` for what each key means."""

    data: Data
    model: Model
    training: Schedule
    optimizer: OptimizerSettings
    checkpoints: Checkpoints


def load_training(path: Path) -> TrainingRun:
    """Reads and checks the config of a training, as `load` does."""
    return load(path, TrainingRun)
