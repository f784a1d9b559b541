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
    # f, df/dx and df/dy as `_written` has them, for pages; empty of a function of the user's own.
    text: tuple[str, ...] = ()

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


def _written(formula: str, f: str, dx: str, dy: str, *minima: tuple[float, float]) -> Function:
    """Returns the function of formulas in x and y that Python and JavaScript read alike."""
    names = {"cos": np.cos, "sin": np.sin, "pi": np.pi}
    value, slopes = (eval(f"lambda x, y: {text}", names) for text in (f, f"({dx}, {dy})"))
    return Function(formula, value, slopes, minima, (f, dx, dy))


FUNCTIONS: dict[str, Function] = {
    "sphere": _written(
        "$0.2\\,x_1^2 + 2\\,x_2^2$", "0.2 * x**2 + 2 * y**2", "0.4 * x", "4 * y", (0.0, 0.0)
    ),
    "valley": _written("$x^2/20 + y^2$", "x**2 / 20 + y**2", "x / 10", "2 * y", (0.0, 0.0)),
    # A local minimum at (0, 0), a saddle point at (1/4, -1/2), and no bound below.
    "cubic": _written(
        "$x_0^2 + x_1^2 + x_1^3 + x_0 x_1$",
        "x**2 + y**2 + y**3 + x * y",
        "2 * x + y",
        "2 * y + 3 * y**2 + x",
    ),
    "saddle": _written("$x^2 - y^2$", "x**2 - y**2", "2 * x", "-2 * y"),
    # Sum of (c - x + x y^k)^2 for (c, k) = (1.5, 1), (2.25, 2), (2.625, 3) (Beale 1958).
    "beale": _written(
        "$(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2$",
        "(1.5 - x + x * y)**2 + (2.25 - x + x * y**2)**2 + (2.625 - x + x * y**3)**2",
        "2 * (1.5 - x + x * y) * (y - 1) + 2 * (2.25 - x + x * y**2) * (y**2 - 1)"
        " + 2 * (2.625 - x + x * y**3) * (y**3 - 1)",
        "2 * (1.5 - x + x * y) * x + 2 * (2.25 - x + x * y**2) * 2 * x * y"
        " + 2 * (2.625 - x + x * y**3) * 3 * x * y**2",
        (3.0, 0.5),
    ),
    # Rosenbrock 1960.
    "rosenbrock": _written(
        "$(1 - x)^2 + 100\\,(y - x^2)^2$",
        "(1 - x)**2 + 100 * (y - x**2)**2",
        "-2 * (1 - x) - 400 * x * (y - x**2)",
        "200 * (y - x**2)",
        (1.0, 1.0),
    ),
    # Rastrigin 1974.
    "rastrigin": _written(
        "$20 + x^2 - 10\\cos 2\\pi x + y^2 - 10\\cos 2\\pi y$",
        "20 + x**2 - 10 * cos(2 * pi * x) + y**2 - 10 * cos(2 * pi * y)",
        "2 * x + 20 * pi * sin(2 * pi * x)",
        "2 * y + 20 * pi * sin(2 * pi * y)",
        (0.0, 0.0),
    ),
    # Himmelblau 1972; the minima other than (3, 2) are rounded to float64.
    "himmelblau": _written(
        "$(x^2 + y - 11)^2 + (x + y^2 - 7)^2$",
        "(x**2 + y - 11)**2 + (x + y**2 - 7)**2",
        "4 * x * (x**2 + y - 11) + 2 * (x + y**2 - 7)",
        "2 * (x**2 + y - 11) + 4 * y * (x + y**2 - 7)",
        (3.0, 2.0),
        (-2.805118086952745, 3.131312518250573),
        (-3.779310253377747, -3.283185991286170),
        (3.584428340330492, -1.848126526964404),
    ),
}
