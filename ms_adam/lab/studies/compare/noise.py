"""Elements of a gradient that are rounding noise.

Some gradients are zero in exact arithmetic: that of the bias of an attention's keys, since softmax
is shift invariant, and that of a bias before batch normalization. The computed gradient is a sum of
rounding errors. Two correct runs round differently, and Adam divides a gradient by its size, so the
parameter moves by whole steps of noise: two sides part there without any fault.

Rounding noise is recognised by the effect of a rounding, without knowledge of the network. Every
weight is nudged by one unit in the last place, and the gradient is taken again: a gradient with
correct digits changes in its last ones, noise changes by its own size. The test is relative to the
element itself, so a gradient is not taken for noise because it is small.

An element is noise if its largest size in any step is at most `FACTOR` times its largest change.
If n is the element and n' what a nudge makes of it, both independent and of spread s, the largest
of `SAMPLES` changes |n - n'| is about 2.6 s, and the largest |n| over a thousand steps 3.3 s: a
ratio of 1.3. In attention networks of 16 to 256 units the largest measured ratio is 2, and over
four steps or more the smallest one of another element is 1.8e4. A `FACTOR` of 8 lets the noise grow
by a factor of 6 between the steps that are sampled. An element above it has at least three correct
bits, in the step where it is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from ms_adam.lab.measure import spacing

FACTOR = 8.0
SAMPLES = 16  # nudged gradients at least, over the steps of a training

_FILE = "noise.npz"

Arrays = Sequence[np.ndarray]


class Noise(NamedTuple):
    """Measurements of one side's gradients; an array for each parameter.

    Attributes:
        size: The largest absolute value of each element over all steps.
        change: The largest change of each element by a nudge of the weights; 0 where the gradient
            does not repeat itself at the same weights, as with dropout: that is randomness, which
            the noise floor measures.
    """

    size: list[np.ndarray]
    change: list[np.ndarray]

    def elements(self) -> list[np.ndarray]:
        """Where the gradient is rounding noise."""
        return [(c > 0) & (s <= FACTOR * c) for s, c in zip(self.size, self.change)]

    def save(self, folder: Path) -> None:
        """Writes ``noise.npz`` into the folder of a record."""
        arrays = {
            f"{name}{i}": array
            for name, listed in self._asdict().items()
            for i, array in enumerate(listed)
        }
        np.savez(folder / _FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Noise:
        with np.load(folder / _FILE) as arrays:
            count = len(arrays.files) // len(cls._fields)
            return cls(*([arrays[f"{name}{i}"] for i in range(count)] for name in cls._fields))

    def zeros(self) -> list[np.ndarray]:
        """Where the gradient is always zero."""
        return [(s == 0) & (c == 0) for s, c in zip(self.size, self.change)]


def of_both(one: Noise, other: Noise) -> list[np.ndarray]:
    """Where the gradient is noise on both sides, or noise on one and always zero on the other.

    A gradient with correct digits on either side is compared: the noise may be the fault.
    """
    return [
        (a | a_zero) & (b | b_zero) & (a | b)
        for a, a_zero, b, b_zero in zip(
            one.elements(), one.zeros(), other.elements(), other.zeros()
        )
    ]


def sampled_steps(steps: int) -> list[int]:
    """The steps in which weights are nudged: all, or `SAMPLES` with the first and the last."""
    return sorted(set(np.linspace(0, steps - 1, min(steps, SAMPLES)).astype(int).tolist()))


class Sampler:
    """Samples the change of gradients step by step.

    Args:
        steps: Number of steps of the training.
        shapes: Of the parameters whose gradients are measured.
    """

    def __init__(self, steps: int, shapes: Sequence[Sequence[int]]):
        self._nudges = -(-SAMPLES // len(sampled_steps(steps)))
        self._random = np.random.default_rng(0)
        self._size = [np.zeros(shape) for shape in shapes]
        self._change = [np.zeros(shape) for shape in shapes]
        self._repeats = [np.ones(shape, bool) for shape in shapes]

    def see(self, gradients: Arrays) -> None:
        """Takes in the gradients of a step of the training."""
        for size, gradient in zip(self._size, gradients):
            np.maximum(size, np.abs(gradient), out=size)  # NaN stays, and is no noise

    def sample(
        self, weights: Arrays, dtypes: Sequence[str], gradients_at: Callable[[Arrays], Arrays]
    ) -> None:
        """Samples at the weights of one step.

        Args:
            weights: All weights that the gradients depend on.
            dtypes: Their dtypes in the network.
            gradients_at: Takes weights; returns the gradients there, on the batch of the step.
        """
        here, again = gradients_at(weights), gradients_at(weights)
        for repeats, one, other in zip(self._repeats, here, again):
            repeats &= one == other
        for _ in range(self._nudges):
            nudged = [self._nudged(*each) for each in zip(weights, dtypes)]
            for change, one, other in zip(self._change, here, gradients_at(nudged)):
                with np.errstate(invalid="ignore"):  # two infinities: NaN, which is no noise
                    moved = np.abs(np.subtract(one, other, dtype=np.float64))
                np.maximum(change, moved, out=change)

    def found(self) -> Noise:
        return Noise(self._size, [c * r for c, r in zip(self._change, self._repeats)])

    def _nudged(self, weight: np.ndarray, dtype: str) -> np.ndarray:
        unit = spacing(np.asarray(weight, np.float64), dtype)
        return weight + self._random.choice([-1.0, 1.0], np.shape(weight)) * unit
