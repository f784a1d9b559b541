"""The gradient sequences. Each is one element of the parameter, so that one run has all of them.

Adam and its relatives treat each element by itself: a formula that fits all sequences at once, from
gradients far below epsilon to far above it, does so too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS = 64
LONG = 400


class Probe(NamedTuple):
    """The input of a run."""

    gradients: np.ndarray  # float64 array of shape (steps, elements) of float32 numbers
    start: np.ndarray  # the first value of the parameter, shape (elements,)


def structure(eps: float) -> Probe:
    """Tells all places of epsilon, corrections, Nesterov, AMSGrad, counts and zeros apart.

    The parameter starts at 0: then all digits of it are displacement.

    Args:
        eps: The optimizer's own. Epsilon shows where gradients are about as small: around eps
            where it is added to the root, around sqrt(eps) where it stands inside.
    """
    rng = np.random.default_rng(5)
    t = np.arange(STEPS)[:, None]
    ones = np.ones((STEPS, 1))
    near = max(eps, 1e-14)  # the squares of smaller gradients are below float32's range
    sizes = np.array(
        [1.0, 1e-2, 1e-4, 30 * near, 3 * near, 0.3 * near, 3 * near**0.5, 0.3 * near**0.5]
    )
    noise = rng.standard_normal((STEPS, 8))
    columns = [
        ones * sizes,  # constant: the corrections
        noise * sizes,  # all at once
        np.where(t % 2, -1.0, 1.0) * np.array([1.0, 3 * near]),  # m small, v large
        np.where(t % 16 == 4, 100.0, 0.1) * ones,  # spikes: the maximum
        np.where(t < 3, 10.0, 0.01) * np.array([1.0, -1.0]),  # v falls: vhat falls faster
        noise[:, :3] * (rng.random((STEPS, 3)) < 0.4),  # zeros between, as in sparse rows
        np.where(t < 6, 0.0, 1.0) * noise[:, :2],  # late: are steps of the element counted?
        1.2**t * 1e-3,
        0.8**t * 1.0,  # m and v behind the gradient
    ]
    gradients = _single(np.concatenate(columns, axis=1))
    return Probe(gradients, np.zeros(gradients.shape[1]))


def drift() -> Probe:
    """Many steps: corrections from powers of beta in float32 part from the exact ones."""
    gradients = _single(np.random.default_rng(6).standard_normal((LONG, 16)))
    return Probe(gradients, np.zeros(16))


def decay() -> Probe:
    """From weights of size 1 and 0.01, which decay acts on, with gradients of three sizes."""
    rng = np.random.default_rng(7)
    start = rng.choice([-1.0, 1.0], 12) * rng.uniform(0.5, 2.0, 12) * np.resize([1.0, 0.01], 12)
    gradients = rng.standard_normal((STEPS // 2, 12)) * np.repeat([1.0, 1e-2, 1e-4], 4)
    return Probe(_single(gradients), _single(start))


def halves() -> Probe:
    """For float16 parameters: gradients whose squares float16 holds, and some whose it does not."""
    rng = np.random.default_rng(8)
    gradients = rng.uniform(0.5, 2.0, (8, 8)) * np.repeat([0.5, 0.06, 1e-2, 1e-3], 2)
    return Probe(gradients.astype(np.float16).astype(np.float64), np.zeros(8))


def rows() -> tuple[Probe, np.ndarray]:
    """For row-sparse gradients: row r of 4 has a gradient in some steps only, 0 in the others.

    Returns:
        A Probe of 4 elements, which stand for the rows, and which rows are given in each step,
        bool of shape (steps, 4): always 2 of them, each once.
    """
    rng = np.random.default_rng(9)
    present = np.array([rng.permutation([True, True, False, False]) for _ in range(8)])
    present[0] = [True, True, False, False]
    gradients = _single(rng.standard_normal((8, 4)) * present)
    return Probe(gradients, np.zeros(4)), present


def _single(x):
    return x.astype(np.float32).astype(np.float64)
