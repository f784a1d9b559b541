"""What ranks of a data-parallel side do beyond one process: shares, agreement, and divided state.

Each rank takes an equal share of every batch, in the order of the ranks, and all of them get the
mean of their gradients. So the loss must be a mean over the examples, and a network that normalizes
over the batch or draws random numbers computes something else than one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np

from ms_adam.lab.errors import UserError
from ms_adam.lab.measure import differences
from ms_adam.lab.targets import MindSporeOptimizer


def share_of(batch: tuple[tuple, ...], rank: int, ranks: int) -> tuple[tuple, ...]:
    """The share of a batch that a rank takes; arrays are divided by their first axis.

    Raises:
        UserError: An array cannot be divided.
    """
    if ranks == 1:
        return batch
    shapes = [array.shape for part in batch for array in part]
    examples = {shape[:1] for shape in shapes}
    if len(examples) > 1 or not all(shape and shape[0] % ranks == 0 for shape in shapes):
        raise UserError(
            f"a batch of arrays of shapes {', '.join(map(str, shapes))} cannot be divided among "
            f"{ranks} ranks: the first axis of all must be the examples, a multiple of {ranks}"
        )
    return tuple(tuple(np.split(array, ranks)[rank] for array in part) for part in batch)


def farthest(ranks, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    """Of each array the values of the rank that differs most from rank 0, and that rank.

    The rank is 0 where all are equal. Every rank must call this.

    Args:
        ranks: A `run.rank.Ranks`.
        arrays: This rank's.
    """
    wide = np.float64 if any(array.dtype == np.float64 for array in arrays) else np.float32
    rows = ranks.gather(np.concatenate([np.asarray(array, wide).ravel() for array in arrays]))
    ends = np.cumsum([array.size for array in arrays])[:-1]
    found, places = [], []
    for array, every in zip(arrays, np.split(rows, ends, axis=1)):
        apart = np.max(differences(every, every[0]), axis=1, initial=0.0)
        places.append(int(np.argmax(apart)))
        found.append(every[places[-1]].reshape(array.shape))
    return found, places


class Gathered(MindSporeOptimizer):
    """An optimizer of ours that divides its state among the ranks: it is read from all of them.

    Every rank must call the same methods in the same order.
    """

    @staticmethod
    def runs(made) -> bool:
        from ms_adam.checkpoint import core_of

        execution = getattr(core_of(made), "execution", None)
        return MindSporeOptimizer.runs(made) and getattr(execution, "sharded", False)

    def buffers(self, quantity: str) -> Optional[list]:
        """As `Optimizer.buffers`; a "master_weight" is the parameter where it has none."""
        from ms_adam.checkpoint import core_of, gather_state

        core = core_of(self.optimizer)
        state = gather_state(core)
        keys = [f"{quantity}.{name}" for name in core.check.names]
        if not any(key in state for key in keys):
            return None
        return [state.get(key, parameter) for key, parameter in zip(keys, self.parameters)]
