"""The sides that the study on text can compare."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from ms_adam.lab.run.config import Mode

# The kind of a table's gradient. "rows": the rows that the batch names, a RowTensor from
# nn.EmbeddingLookup(sparse=True). "dense": the whole table, from nn.Embedding.
Gradients = Literal["rows", "dense"]


class Side(NamedTuple):
    """One way to train."""

    optimizer: str  # the call that makes it, for people to read
    gradients: Gradients  # see `Gradients`
    mode: Mode  # MindSpore passes row-sparse gradients in graph mode only
    options: dict[str, Any] = {}  # of the optimizer, besides those of the config
    target: str = ""  # the value of ``optimizer.target``; "" leaves it
    # Whether mindspore.nn.Adam updates a table of its own with this side's gradients, so that the
    # two optimizers are compared and not two trainings.
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
_OURS_HAT = "ms_adam.Adam(use_lazy=True, epsilon_hat=True)"
_NN_LAZY = "nn.Adam(use_lazy=True)"

SIDES = {
    "exact": Side(_OURS, "dense", "graph"),
    "exact_rows": Side(_OURS, "rows", "graph"),
    "exact_pynative": Side(_OURS, "dense", "pynative"),
    "lazy": Side(_OURS_LAZY, "rows", "graph", _LAZY),
    "lazy_pynative": Side(_OURS_LAZY, "dense", "pynative", _LAZY),
    "lazy_epsilon_hat": Side(
        _OURS_HAT, "rows", "graph", {**_LAZY, "epsilon_hat": True}, followed=True
    ),
    "nn_lazy": Side(f"{_NN_LAZY} on target CPU", "rows", "graph", _LAZY, target="CPU"),
    "nn_lazy_default": Side(f"{_NN_LAZY} on its default target", "rows", "graph", _LAZY),
}
