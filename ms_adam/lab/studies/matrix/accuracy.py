"""Distances of optimizers to the paper's formula: `python -m ms_adam.lab.studies.matrix.accuracy`.

Parameters start at 0, so that the displacement is the parameter, and follow gradients of normal
distribution; the float64 reference is given the same gradients.
"""

from __future__ import annotations

from typing import Callable

import numpy as np

from ms_adam.lab.measure import relative_distance
from ms_adam.lab.targets import MindSporeOptimizer, NumpyOptimizer, Optimizer

STEPS = (1, 10, 100, 1000)
SCALES = (1.0, 1e-4, 1e-8)
SIZE = 64


def gradients(scale: float, steps: int) -> np.ndarray:
    """float32 gradients of a standard deviation, shape (steps, SIZE)."""
    rng = np.random.default_rng(3)
    return (scale * rng.standard_normal((steps, SIZE))).astype(np.float32)


def displacements(optimizer: Optimizer, scale: float, steps=STEPS) -> list[np.ndarray]:
    """The places after some steps of a parameter of SIZE zeros, in float64."""
    places = []
    for t, gradient in enumerate(gradients(scale, max(steps)), 1):
        optimizer.step([gradient])
        if t in steps:
            places.append(np.array(optimizer.weights()[0], np.float64))
    return places


def of_mindspore(make: Callable, scale: float, steps=STEPS) -> list[np.ndarray]:
    """`displacements` of a function of a list of Parameters that returns an optimizer."""
    parameter = MindSporeOptimizer.parameter(np.zeros(SIZE), "float32")
    return displacements(MindSporeOptimizer(make([parameter])), scale, steps)


def of_reference(method, scale: float, steps=STEPS) -> list[np.ndarray]:
    """`displacements` of a method of `ms_adam.reference`."""
    return displacements(NumpyOptimizer(method, [np.zeros(SIZE)]), scale, steps)


def of_cann() -> list[tuple[str, ...]]:
    """Rows of words: how far CANN's arithmetic is from Algorithm 1 that is given its gradients."""
    from ms_adam.reference import Adam, CannAdamW

    rows = []
    for dtype in ("float32", "bfloat16", "float16"):
        for scale in SCALES:
            cann, given = CannAdamW(dtype=dtype), gradients(scale, max(STEPS))
            sides = [NumpyOptimizer(method, [np.zeros(SIZE)]) for method in (cann, Adam())]
            words = [dtype, f"{scale:g}"]
            for t, gradient in enumerate(cann.stored(given), 1):
                for side in sides:
                    side.step([gradient])
                if t in STEPS:
                    words.append(f"{relative_distance(*(s.weights()[0] for s in sides)):.1e}")
            rows.append(tuple(words))
    return rows


def main() -> None:
    """Prints the distances of our backends and of `nn.Adam` to Algorithm 1 and to epsilon-hat."""
    from mindspore import nn
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    import ms_adam
    from ms_adam import reference
    from ms_adam.backends import BACKENDS

    rate = float(np.float32(1e-3))  # as nn.Optimizer keeps it
    sides = {
        f"ms_adam.Adam, {name}": (lambda p, name=name: ms_adam.Adam(p, backend=name), "outside")
        for name in BACKENDS
    }
    sides["mindspore.nn.Adam"] = (nn.Adam, "outside")
    sides["ms_adam.Adam(epsilon_hat=True)"] = (lambda p: ms_adam.Adam(p, epsilon_hat=True), "hat")
    sides["mindspore.nn.Adam, to epsilon-hat"] = (nn.Adam, "hat")
    heads = ("gradients", *(f"{t} steps" for t in STEPS))
    table = Table("optimizer", *heads, title="Relative error to float64")
    jobs = [(side, scale) for side in sides for scale in SCALES]
    for side, scale in track(jobs, "1,000 steps each", transient=True):
        make, epsilon = sides[side]
        pairs = zip(
            of_mindspore(make, scale), of_reference(reference.Adam(rate, epsilon=epsilon), scale)
        )
        table.add_row(side, f"{scale:g}", *(f"{relative_distance(*pair):.1e}" for pair in pairs))
    cann = Table("dtype", *heads, title="CANN's arithmetic, relative error to Algorithm 1")
    for row in of_cann():
        cann.add_row(*row)
    Console(width=110).print(table, cann)


if __name__ == "__main__":
    main()
