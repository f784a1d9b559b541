"""Seeded batches: one seed always gives one order of the examples."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Optional

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a training.

    Every epoch has every example once, in an order of its own, except for those that are dropped at
    its end.
    """

    arrays: Sequence[np.ndarray]  # the examples, along the first dimension of each
    batch_size: int
    # Decides the orders. They come from the generator of [seed, 1], which is not that of the
    # weights: a model of another size must not change the order.
    seed: int
    # Seeds each epoch by its number, as [seed, 1, epoch], so that no state of a generator has to be
    # kept to go on in the middle. This gives other orders.
    independent: bool = False
    keep_last: bool = False  # whether an epoch's last batch may be smaller; or it is dropped

    @property
    def _starts(self) -> range:
        end = len(self.arrays[0]) + 1 - (1 if self.keep_last else self.batch_size)
        return range(0, end, self.batch_size)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self._starts)

    def steps(self, first: int = 0, last: Optional[int] = None) -> Iterator[tuple]:
        """Yields the arrays of the steps after `first`, up to `last` or without end."""
        for batch in itertools.islice(self.indices(first), last and last - first):
            yield tuple(array[batch] for array in self.arrays)

    def indices(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yields the examples' indices of each step after `first`, without end."""
        epoch, skip = divmod(first, self.per_epoch)
        for order in self._orders(epoch):
            for start in self._starts[skip:]:
                yield order[start : start + self.batch_size]
            skip = 0

    def _orders(self, first: int) -> Iterator[np.ndarray]:
        random = np.random.default_rng([self.seed, 1])
        for epoch in itertools.count(first if self.independent else 0):
            if self.independent:
                random = np.random.default_rng([self.seed, 1, epoch])
            order = random.permutation(len(self.arrays[0]))
            if epoch >= first:
                yield order
