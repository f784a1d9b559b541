"""Around an update: averages of the weights, accumulation, finite gradients, the loss scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import BELOW_1, array, number


@dataclass(frozen=True)
class Average:
    """The exponential average of a weight.

        a = decay a + (1 - decay) w   after each update; the average is a / (1 - decay^t)

    Without `debias` a begins at the weight before the first update, and is the average itself.

    >>> average = Average(0.5)
    >>> a = average.update(average.start([8.0]), [4.0])
    >>> average.value(a, 1)
    array([4.])

    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization", arXiv 1412.6980,
    section 7.2.

    Args:
        decay: at least 0 and less than 1.
        debias: whether the bias towards the start is removed.
    """

    decay: float
    debias: bool = True

    def __post_init__(self):
        object.__setattr__(self, "decay", number("decay", self.decay, BELOW_1))

    def start(self, weight: ArrayLike) -> np.ndarray:
        """Returns a before the first update of a weight."""
        return np.zeros(np.shape(weight)) if self.debias else array(weight)

    def update(self, a: ArrayLike, weight: ArrayLike) -> np.ndarray:
        """Returns a after an update that made the weight."""
        return self.decay * array(a) + (1.0 - self.decay) * array(weight)

    def value(self, a: ArrayLike, t: int) -> np.ndarray:
        """Returns the average after t updates, at least 1."""
        return array(a) / (1.0 - self.decay**t) if self.debias else array(a)


def mean_of_calls(
    calls: Sequence[Sequence[ArrayLike]], loss_scale: float = 1.0, skip_nonfinite: bool = False
) -> List[np.ndarray]:
    """Returns the gradients of an update that several calls make: their mean, unscaled.

    >>> mean_of_calls([[[2.0]], [[np.inf]], [[6.0]]], loss_scale=2.0, skip_nonfinite=True)
    [array([2.])]

    Args:
        calls: for each call, the gradients of all parameters.
        loss_scale: the factor that they carry.
        skip_nonfinite: whether calls with a NaN or an infinite element are left out.
    """
    taken = [call for call in calls if not skip_nonfinite or all_finite(call)]
    return [np.mean([array(part) for part in parts], 0) / loss_scale for parts in zip(*taken)]


def all_finite(gradients: Sequence[ArrayLike]) -> bool:
    """Returns whether no gradient has a NaN or an infinite element.

    >>> all_finite([[1.0, 2.0], [np.inf]])
    False
    """
    return all(bool(np.isfinite(array(gradient)).all()) for gradient in gradients)


def adjust_loss_scale(
    scale: float, counter: int, finite: bool, factor: float, window: int
) -> Tuple[float, int]:
    """Returns the loss scale and its counter after a step.

    The scale grows by a factor after `window` finite steps in a row, unless it would become
    infinite in float32, and shrinks, to 1 at least, after a step with other gradients.

    >>> adjust_loss_scale(1024.0, 1, True, 2.0, 2), adjust_loss_scale(1024.0, 1, False, 2.0, 2)
    ((2048.0, 0), (512.0, 0))

    Source: MindSpore's amp.DynamicLossScaler.adjust.
    """
    if not finite:
        return max(1.0, scale / factor), 0
    grows = counter == window - 1 and scale * factor <= float(np.finfo(np.float32).max)
    return (scale * factor if grows else scale), (counter + 1) % window
