"""Clipping by the global norm (Pascanu, Mikolov & Bengio 2013)."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import ABOVE_0, array, number


def clip_by_global_norm(gradients: Sequence[ArrayLike], max_norm: float) -> List[np.ndarray]:
    """Scales gradients together so that their joint norm is at most max_norm.

        g = g * max_norm / max(norm, max_norm),   norm = sqrt(sum of g^2 over all elements of all g)

    or as algorithm 1 has it, and this: only if norm >= max_norm, g = g * max_norm / norm.

    >>> clip_by_global_norm([np.array([3.0]), np.array([0.0, 4.0])], 1.0)
    [array([0.6]), array([0. , 0.8])]

    Sources: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks",
    algorithm 1; MindSpore's ops.clip_by_global_norm.

    Args:
        gradients: list of array-likes, of any shapes.
        max_norm: finite and greater than 0.

    Returns:
        A list of float64 arrays of the same shapes. A norm that is NaN is not larger than max_norm:
        with a NaN anywhere nothing is clipped. An infinite norm makes 0 of all that is finite; it
        is infinite, too, if an element's size is over 1.3e154, the root of the largest float64.

    Raises:
        ValueError: max_norm is out of its range.
    """
    max_norm = number("max_norm", max_norm, ABOVE_0)
    given = [array(g) for g in gradients]
    norm = np.sqrt(sum(np.sum(g**2) for g in given))
    if norm >= max_norm:
        return [array(g * max_norm / norm) for g in given]
    return [g.copy() for g in given]
