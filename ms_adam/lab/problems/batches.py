"""Seeded batches: one seed always gives one order of the examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Optional

import numpy as np


class Batches:
    """The batches of a training.

    Every epoch has every example once, in an order of its own, except for those that are dropped at
    its end.

    Args:
        arrays: The examples, along the first dimension of each array.
        batch_size: Examples in a batch.
        seed: Decides the orders. They come from the generator of [seed, 1], which is not that of
            the weights: a model of another size must not change the order.
        independent: Seeds each epoch by its number, as [seed, 1, epoch], so that no state of a
            generator has to be kept to go on in the middle. This gives other orders.
        keep_last: Whether an epoch's last batch may be smaller; otherwise it is dropped.
    """

    def __init__(
        self, arrays: Sequence, batch_size: int, seed: int, *, independent=False, keep_last=False
    ):
        self._arrays = arrays
        self._batch_size, self._seed, self._independent = batch_size, seed, independent
        end = len(arrays[0]) + 1 - (1 if keep_last else batch_size)
        self._starts = range(0, end, batch_size)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self._starts)

    def steps(self, first: int = 0, last: Optional[int] = None) -> Iterator[tuple]:
        """Yields the arrays of the steps after `first`, up to `last` or without end."""
        for batch in itertools.islice(self.indices(first), last and last - first):
            yield tuple(array[batch] for array in self._arrays)

    def indices(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yields the examples' indices of each step after `first`, without end."""
        epoch, skip = divmod(first, self.per_epoch)
        for order in self._orders(epoch):
            for start in self._starts[skip:]:
                yield order[start : start + self._batch_size]
            skip = 0

    def _orders(self, first: int) -> Iterator[np.ndarray]:
        random = np.random.default_rng([self._seed, 1])
        for epoch in itertools.count(first if self._independent else 0):
            if self._independent:
                random = np.random.default_rng([self._seed, 1, epoch])
            order = random.permutation(len(self._arrays[0]))
            if epoch >= first:
                yield order
