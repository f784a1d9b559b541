"""The description of an experiment on text: its config, and the sides that it can compare."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from ms_adam.lab.run.config import (
    AdamSettings,
    Count,
    InBatches,
    Mode,
    Number,
    Once,
    Section,
    Seed,
    Training,
)

# What a table's gradient is. "rows": the rows that the batch names, a RowTensor from
# nn.EmbeddingLookup(sparse=True). "dense": the whole table, from nn.Embedding.
Gradients = Literal["rows", "dense"]


@dataclasses.dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        optimizer: What people read: the call that makes it.
        gradients: See `Gradients`.
        mode: MindSpore passes row-sparse gradients in graph mode alone.
        options: Of the optimizer, besides those of the config.
        target: What ``optimizer.target`` is set to, or None.
        followed: Whether mindspore.nn.Adam is to update a table of its own with this side's
            gradients, so that the two optimizers are compared and not two trainings.
    """

    optimizer: str
    gradients: Gradients
    mode: Mode
    options: dict = dataclasses.field(default_factory=dict)
    target: str = ""
    followed: bool = False

    @property
    def is_ours(self) -> bool:
        return self.optimizer.startswith("ms_adam.")

    @property
    def title(self) -> str:
        """The label without the mode."""
        return f"{self.optimizer}, {'row-sparse' if self.gradients == 'rows' else 'dense'}"


_LAZY = {"use_lazy": True}
_OURS, _OURS_LAZY = "ms_adam.Adam()", "ms_adam.Adam(use_lazy=True)"
_NN_LAZY = "nn.Adam(use_lazy=True)"

SIDES = {
    "exact": Side(_OURS, "dense", "graph"),
    "exact_rows": Side(_OURS, "rows", "graph"),
    "exact_pynative": Side(_OURS, "dense", "pynative"),
    "lazy": Side(_OURS_LAZY, "rows", "graph", _LAZY),
    "lazy_pynative": Side(_OURS_LAZY, "dense", "pynative", _LAZY),
    "lazy_epsilon_hat": Side(
        "ms_adam.Adam(use_lazy=True, epsilon_hat=True)",
        "rows",
        "graph",
        {**_LAZY, "epsilon_hat": True},
        followed=True,
    ),
    "nn_lazy": Side(f"{_NN_LAZY} on target CPU", "rows", "graph", _LAZY, target="CPU"),
    "nn_lazy_default": Side(f"{_NN_LAZY} on its default target", "rows", "graph", _LAZY),
}


class TextData(Section):
    """Which snippets and words, and how the snippets are divided."""

    words: Count
    train: Count
    test: Count
    split_seed: Seed


class TextModel(Section):
    """The mean of the words' rows, then one dense layer."""

    width: Count


class TextCompare(Section):
    """Which sides train, from which seeds, and what counts as trained."""

    sides: Annotated[list[Literal[tuple(SIDES)]], Field(min_length=1), Once]
    seeds: Annotated[list[Seed], Field(min_length=1), Once]
    least_accuracy: Annotated[Number, Field(ge=0, le=1)]


class TextExperiment(InBatches):
    """One experiment. See ``configs/sparse_text.yaml`` for what each key means."""

    kind: Literal["sparse_text"]
    data: TextData
    model: TextModel
    training: Training
    adam: AdamSettings
    compare: TextCompare

    def sides_of(self, mode: str) -> list[str]:
        """The sides that train in a mode."""
        return [side for side in self.compare.sides if SIDES[side].mode == mode]
