"""Paths that MindSpore's optimizers take, in float32, and the gradients that they were given.

MindSpore is imported only when a path is followed.
"""

from __future__ import annotations

import contextlib
from typing import Callable

import numpy as np


def walk(
    build: Callable, gradient: Callable, start, steps: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Follows a MindSpore optimizer over a function of the plane.

    Args:
        build: Gives the optimizer of a list of parameters; here one of shape (2,), float32.
        gradient: Of a float64 array of shape (2,), the gradient there; it is rounded to float32.
        start: The first weights; they are rounded to float32.
        steps: How many updates.
        progress: Is called with the number of steps done.

    Returns:
        The weights before each step and after the last, shape (steps + 1, 2), and the gradients,
        shape (steps, 2); float64 arrays of what the float32 tensors hold.
    """
    import mindspore
    from mindspore import Parameter, Tensor

    points, gradients = np.empty((steps + 1, 2)), np.empty((steps, 2))
    with _mode(mindspore.PYNATIVE_MODE):
        weights = Parameter(Tensor(np.array(start, np.float32)), name="weights")
        optimizer = build([weights])
        for t in range(steps):
            points[t] = weights.asnumpy()
            with np.errstate(over="ignore"):  # a path may run out of float32's range
                given = np.asarray(gradient(points[t]), dtype=np.float32)
            optimizer((Tensor(given),))
            gradients[t] = given
            progress(t + 1)
        points[steps] = weights.asnumpy()
    return points, gradients


def fit(
    build: Callable, batches, start, steps: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trains `nn.Dense(2, 1)` without bias on `nn.MSELoss`, each step one compiled graph.

    Args:
        build: As for `walk`; the parameter has shape (1, 2).
        batches: The (inputs, targets) of each step: arrays of shapes (n, 2) and (n,).
        start: The first weights.
        steps: How many batches there are.
        progress: Is called with the number of steps done.

    Returns:
        Points and gradients as those of `walk`, and the losses, shape (steps,), before each step.
    """
    import mindspore
    from mindspore import Tensor

    from ms_adam.lab.studies.trajectories.linear_cell import LinearStep

    points, gradients = np.empty((steps + 1, 2)), np.empty((steps, 2))
    losses = np.empty(steps)
    with _mode(mindspore.GRAPH_MODE):
        step = LinearStep(np.array([start], np.float32), build)
        for t, (inputs, targets) in enumerate(batches):
            points[t] = step.model.weight.asnumpy()[0]
            loss, (gradient,) = step(
                Tensor(inputs.astype(np.float32)), Tensor(targets.astype(np.float32)[:, None])
            )
            losses[t], gradients[t] = loss.asnumpy(), gradient.asnumpy()[0]
            progress(t + 1)
        points[steps] = step.model.weight.asnumpy()[0]
    return points, gradients, losses


def device_target() -> str:
    """What MindSpore computes on: "CPU", "GPU" or "Ascend"."""
    import mindspore

    return mindspore.get_context("device_target")


@contextlib.contextmanager
def _mode(mode: int):
    """The mode is a setting of the whole process: it is put back."""
    import mindspore

    before = mindspore.get_context("mode")
    mindspore.set_context(mode=mode)
    try:
        yield
    finally:
        mindspore.set_context(mode=before)
