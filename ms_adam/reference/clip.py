"""Clipping by the global norm (Pascanu et al. 2013, algorithm 1)."""

import numpy as np

from ms_adam.reference.checks import array, check_above_0


def clip_by_global_norm(gradients, max_norm):
    """g * max_norm / max(norm, max_norm), norm over the elements of all gradients together.

    Args:
        gradients: list of arrays.
        max_norm: the largest norm that is left as it is; greater than 0.

    Returns:
        A list of float64 arrays, and the norm before clipping.
    """
    check_above_0(max_norm=max_norm)
    gradients = [array(gradient) for gradient in gradients]
    norm = float(np.sqrt(sum(np.sum(gradient**2) for gradient in gradients)))
    return [array(gradient * (max_norm / max(norm, max_norm))) for gradient in gradients], norm
