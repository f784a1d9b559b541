"""Float64 shadows: what the optimizer alone did wrong in a training.

Two trainings that differ by one rounding drift apart, because each computes its gradients where it
stands. So a run is not held to another training, but to its *shadow*: NumPy's float64 Adam, which
starts at the run's first parameters and is fed the run's own gradients, step by step. What then
lies between the run and its shadow is the optimizer's own error and nothing else.

What roundings alone explain. Let u = 2^-24, the largest relative error of one float32 rounding,
w the largest parameter, T the number of steps, and count the roundings that enter one step:

- the new parameter is rounded once: u w;
- the first moment is rounded 4 times a step (two products, one sum, its coefficients) and remembers
  1 / (1 - beta1) steps; the second moment likewise, and the square root halves what it passes on;
  8 more are in the bias corrections, the root, the sum, the quotient and the product. An update
  is about the learning rate in size (Kingma & Ba 2015, section 2.1), so together they make
  u lr (4 / (1 - beta1) + 2 / (1 - beta2) + 8).

With all of them at their largest, in one direction, at every step, and relative to the way that
the parameters went, d:

    bound = u T (w + lr (4 / (1 - beta1) + 2 / (1 - beta2) + 8)) / d

Real roundings partly cancel, so a sound optimizer stays well below this.
"""

from __future__ import annotations

import numpy as np

from ms_adam import reference
from ms_adam.lab.run.config import AdamSettings

_FLOAT32_ROUNDING = 2.0**-24


class Shadow:
    """Float64 Adam that is fed a run's own gradients.

    Args:
        settings: The run's hyperparameters.
        epsilon: Where epsilon stands, as in `ms_adam.reference.Adam`.
        initial: The run's first parameters, shape (n,).
    """

    def __init__(self, settings: AdamSettings, epsilon: str, initial: np.ndarray):
        self._adam = reference_adam(settings, epsilon)
        self._initial = initial.astype(np.float64)
        self._state = self._adam.init(self._initial)
        self._position = self._initial

    def follow(self, gradient: np.ndarray, position: np.ndarray) -> float:
        """Takes one step.

        Args:
            gradient: What the run's optimizer was given, shape (n,).
            position: Where the run went with it, shape (n,).

        Returns:
            max |position - shadow| / max |shadow - initial|: how far the run is from where it
            should be, in units of the way that it should have gone.
        """
        self._position, self._state = self._adam.step(
            self._position, gradient.astype(np.float64), self._state
        )
        return relative_distance(position, self._position, self._initial)


def reference_adam(settings: AdamSettings, epsilon: str) -> reference.Adam:
    return reference.Adam(
        learning_rate=settings.learning_rate,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
        epsilon=epsilon,
    )


def relative_distance(position: np.ndarray, target: np.ndarray, start: np.ndarray) -> float:
    """max |position - target| / max |target - start|; zero if nothing moved at all."""
    distance = np.max(np.abs(position - target))
    way = np.max(np.abs(target - start))
    return 0.0 if distance == 0 else float(np.divide(distance, way))


def rounding_bound(settings: AdamSettings, steps: int, largest: float, way: float) -> float:
    """What float32 roundings alone can make of the relative distance to the shadow.

    Args:
        settings: The run's hyperparameters.
        steps: T, the number of steps.
        largest: w, the largest absolute value of a parameter.
        way: d, the largest absolute change of a parameter.

    Returns:
        The bound that is derived at the top of this module.
    """
    roundings = 4 / (1 - settings.beta1) + 2 / (1 - settings.beta2) + 8
    per_step = largest + settings.learning_rate * roundings
    return _FLOAT32_ROUNDING * steps * per_step / way
