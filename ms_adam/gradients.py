"""Refuses gradients that do not fit their parameters, before any state is touched.

Shapes and dtypes are known when a step is compiled: the checks run then, once, and cost nothing
in a step. A gradient of shape (1,) would else be broadcast over its parameter without a word.
"""

import mindspore as ms
from mindspore.ops.primitive import constexpr

FLOATS = (ms.float16, ms.bfloat16, ms.float32, ms.float64)


@constexpr
def check_count(expected, count):
    """Raise ValueError unless there are as many gradients as parameters."""
    if count != expected:
        raise ValueError(f"For 'Adam', there must be one gradient for each of the {expected} "
                         f"parameters, but got {count}.")
    return True


@constexpr
def check_gradient(name, expected, shape, dtype):
    """Raise unless a gradient has its parameter's shape and a float dtype.

    Args:
        name: the parameter's name.
        expected: the parameter's shape.
        shape: the gradient's shape.
        dtype: the gradient's dtype.

    Raises:
        ValueError: If the shape is another one.
        TypeError: If the dtype is not a float.
    """
    if tuple(shape) != tuple(expected):
        raise ValueError(f"For 'Adam', the gradient of '{name}' must have the parameter's shape "
                         f"{tuple(expected)}, but got {tuple(shape)}.")
    if dtype not in FLOATS:
        raise TypeError(f"For 'Adam', the gradient of '{name}' must be float16, bfloat16, float32 "
                        f"or float64, but got {dtype}.")
    return True
