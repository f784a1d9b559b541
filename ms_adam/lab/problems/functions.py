"""Functions of the plane on which optimizers are watched, with exact gradients, in NumPy float64.

>>> rosenbrock = FUNCTIONS["rosenbrock"]
>>> float(rosenbrock.value(1.0, 1.0)), rosenbrock.gradient(0.0, 0.0).tolist()
(0.0, [-2.0, 0.0])
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Optional

import numpy as np

# Central differences of f in float64: a step h makes an error of h^2 f'''/6 by its length and of
# u f/h by rounding, u = 2^-53. Their sum is least for h near the cube root of u.
_DIFFERENCE_STEP = 2.0**-18


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of two real variables."""

    formula: str  # f(x, y) as a person writes it; matplotlib's mathtext
    value: Callable  # f(x, y) of two numbers or arrays of one shape
    slopes: Optional[Callable] = None  # (df/dx, df/dy); None: `gradient` takes central differences
    # Where f has its least value on the plane; empty if it has none, or if none is known.
    minima: tuple[tuple[float, float], ...] = ()

    def gradient(self, x, y) -> np.ndarray:
        """The gradient, a float64 array of shape (2, ...) for x and y of shape (...).

        Without `slopes` its relative error is near 1e-10 where f is of size 1.
        """
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if self.slopes is not None:
            _, _, *slopes = np.broadcast_arrays(x, y, *self.slopes(x, y))
            return np.array(slopes, dtype=np.float64)
        dx = _DIFFERENCE_STEP * np.maximum(1.0, np.abs(x))
        dy = _DIFFERENCE_STEP * np.maximum(1.0, np.abs(y))
        # the distance of the two points as they are in float64, not 2 dx as it was meant
        right, left, above, below = x + dx, x - dx, y + dy, y - dy
        along_x = (self.value(right, y) - self.value(left, y)) / (right - left)
        along_y = (self.value(x, above) - self.value(x, below)) / (above - below)
        return np.array([along_x, along_y], dtype=np.float64)

    @property
    def least(self) -> Optional[float]:
        """The least value of f on the plane, where it is known."""
        return float(self.value(*map(np.float64, self.minima[0]))) if self.minima else None


def _beale(x, y):
    """Sum of (c - x + x y^k)^2 for (c, k) = (1.5, 1), (2.25, 2), (2.625, 3) (Beale 1958)."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _beale_slopes(x, y):
    first, second, third = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return (
        2 * first * (y - 1) + 2 * second * (y**2 - 1) + 2 * third * (y**3 - 1),
        2 * first * x + 2 * second * 2 * x * y + 2 * third * 3 * x * y**2,
    )


def _rastrigin(x, y):
    return 20 + x**2 - 10 * np.cos(2 * np.pi * x) + y**2 - 10 * np.cos(2 * np.pi * y)


def _rastrigin_slopes(x, y):
    return (2 * x + 20 * np.pi * np.sin(2 * np.pi * x), 2 * y + 20 * np.pi * np.sin(2 * np.pi * y))


def _himmelblau(x, y):
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _himmelblau_slopes(x, y):
    first, second = x**2 + y - 11, x + y**2 - 7
    return 4 * x * first + 2 * second, 2 * first + 4 * y * second


FUNCTIONS: dict[str, Function] = {
    "sphere": Function(
        "$0.2\\,x_1^2 + 2\\,x_2^2$",
        lambda x, y: 0.2 * x**2 + 2 * y**2,
        lambda x, y: (0.4 * x, 4 * y),
        ((0.0, 0.0),),
    ),
    "valley": Function(
        "$x^2/20 + y^2$", lambda x, y: x**2 / 20 + y**2, lambda x, y: (x / 10, 2 * y), ((0.0, 0.0),)
    ),
    # A local minimum at (0, 0), a saddle point at (1/4, -1/2), and no bound below.
    "cubic": Function(
        "$x_0^2 + x_1^2 + x_1^3 + x_0 x_1$",
        lambda x, y: x**2 + y**2 + y**3 + x * y,
        lambda x, y: (2 * x + y, 2 * y + 3 * y**2 + x),
    ),
    "saddle": Function("$x^2 - y^2$", lambda x, y: x**2 - y**2, lambda x, y: (2 * x, -2 * y)),
    "beale": Function(
        "$(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2$",
        _beale,
        _beale_slopes,
        ((3.0, 0.5),),
    ),
    # Rosenbrock 1960.
    "rosenbrock": Function(
        "$(1 - x)^2 + 100\\,(y - x^2)^2$",
        lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
        lambda x, y: (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)),
        ((1.0, 1.0),),
    ),
    # Rastrigin 1974.
    "rastrigin": Function(
        "$20 + x^2 - 10\\cos 2\\pi x + y^2 - 10\\cos 2\\pi y$",
        _rastrigin,
        _rastrigin_slopes,
        ((0.0, 0.0),),
    ),
    # Himmelblau 1972; the minima other than (3, 2) are rounded to float64.
    "himmelblau": Function(
        "$(x^2 + y - 11)^2 + (x + y^2 - 7)^2$",
        _himmelblau,
        _himmelblau_slopes,
        (
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
    ),
}
