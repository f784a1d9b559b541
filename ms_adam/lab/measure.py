"""How far a computed step may be from the exact one: derived bounds, element by element."""

from typing import NamedTuple

import numpy as np

# Unit roundoff u: rounding to nearest changes x by at most u * |x|, and by at most half the
# smallest subnormal where x is that small.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150, "float64": 2.0**-1075}


def rounding(x, dtype):
    """The largest error of rounding x to `dtype`: an array of the shape of x."""
    return UNIT[dtype] * np.abs(x) + TINY[dtype]


class Arithmetic(NamedTuple):
    """What bounds depend on of how an implementation computes.

    Attributes:
        dtype: of the moments and of all arithmetic before the new weight is rounded.
        beta1, beta2: the decay rates that it applies to its moments.
        float32_scalars: whether its numbers are float32, also beside float64 moments, and it
            corrects by powers of beta that it multiplies up in float32 step by step; `nn.Adam`
            does. If not, it corrects exactly for the rates that it applies.
    """

    dtype: str
    beta1: float
    beta2: float
    float32_scalars: bool = False


def step_bounds(
    adam, gradient, before, after, weight, weight_after, *, dtype, arithmetic, gradient_error=0.0
):
    """Bounds on one step that starts from a given state: of moment1, moment2 and the weight.

    Each line counts the roundings of an implementation, each at most u times the size of what is
    rounded, and carries earlier errors through the formula to first order; the factor at the end
    stands for the second order. The second moment's error goes through root and quotient as an
    interval, since in float16 it can be as large as the moment.

    Args:
        adam: a `reference.Adam`, whose numbers the implementation was given.
        gradient: the gradient, exact.
        before, after: the reference's states around the step; `after` exact, from `before`.
        weight, weight_after: the weight before and, exact, after the step.
        dtype: of the weight, a name.
        arithmetic: an `Arithmetic`.
        gradient_error: a bound on the error, if any, of the gradient that the implementation had.

    Returns:
        Three arrays of the weight's shape. Infinite where the implementation may divide by 0.
    """
    u, tiny = UNIT[arithmetic.dtype], TINY[arithmetic.dtype]
    if arithmetic.dtype == "float64":  # the reference rounds as often as what it checks
        u, tiny = 2 * u, 2 * tiny
    u_scalar = max(u, UNIT["float32"]) if arithmetic.float32_scalars else u
    t = after.step
    beta1, beta2 = adam.beta1, adam.beta2
    kernel1, kernel2 = arithmetic.beta1, arithmetic.beta2

    # g: 1 / loss_scale, times it, weight_decay, times w, their sum, and one more where the decay
    # was multiplied by the loss scale first: at most 6 in one path.
    l2 = 0.0 if adam.decoupled else adam.weight_decay
    size = np.abs(gradient / adam.loss_scale) + np.abs(l2 * weight)
    error_g = 6 * (u_scalar * size + tiny) + gradient_error
    if adam.centralize and size.ndim >= 2 and size.size:
        # The mean of n elements (n roundings: sums and a quotient), and a difference.
        n = size[0].size
        mean_size, mean_error = _row_mean(size), _row_mean(error_g)
        error_g = error_g + mean_error + n * (u * mean_size + tiny) + u * (size + mean_size)
        size = size + mean_size

    # m + rest * (g - m): rest (which may be subnormal in float16), difference, product (3 roundings
    # of at most 2 * rest * (|g| + |m|)), sum; and what other decay rates the implementation has.
    rest1, rest2 = 1 - beta1, 1 - beta2
    span1 = size + np.abs(before.moment1)
    error_m = (
        rest1 * error_g
        + (6 * u * rest1 + tiny + abs(kernel1 - beta1)) * span1
        + u * np.abs(after.moment1)
        + 2 * tiny
    )
    span2 = size**2 + np.abs(before.moment2)
    error_v = (
        rest2 * (2 * size * error_g + u * size**2 + tiny)
        + (6 * u * rest2 + tiny + abs(kernel2 - beta2)) * span2
        + u * np.abs(after.moment2)
        + 2 * tiny
    )

    # Nesterov's moment is one more lerp.
    error_used = error_m
    if adam.nesterov:
        error_used = (
            (1 + rest1) * error_m
            + rest1 * error_g
            + 8 * u * rest1 * (span1 + size)
            + (abs(kernel1 - beta1) + tiny) * (span1 + size)
            + 2 * tiny
        )

    # update = step_size * m / (sqrt(v) + epsilon), and how far its corrections may be off.
    v = after.vhat if adam.amsgrad else after.moment2
    c1, square2 = _corrections(beta1, beta2, t)
    gap = _gap(beta1, kernel1, arithmetic, t) + _gap(beta2, kernel2, arithmetic, t)
    correction1, correction2 = (c1, np.sqrt(square2)) if adam.bias_correction else (1.0, 1.0)
    epsilon = adam.eps * (correction2 if adam.epsilon == "outside" else 1.0)
    divisor = np.sqrt(v) + epsilon
    least = np.sqrt(np.maximum(v - error_v, 0.0)) + max(
        (1 - 2 * u_scalar - gap) * epsilon - tiny, 0.0
    )
    step_size = adam.learning_rate * correction2 / correction1
    lead = np.abs(after.moment1)
    if adam.nesterov:
        lead = beta1 * lead + rest1 * size
    update = step_size * lead / divisor
    # Roundings: sqrt, sum, quotient, step size (2), product: 6, and 2 in the step size's factors.
    with np.errstate(divide="ignore"):
        error_update = (
            (step_size * error_used + tiny) / least
            + step_size * lead * (1 / least - 1 / divisor)
            + update * (8 * u_scalar + gap)
            + tiny
        )
    # Decoupled decay is one factor (3 roundings); an implementation may store the product first.
    error_w = error_update + 2 * u * np.abs(weight_after) + u * np.abs(weight)
    if adam.decoupled:
        error_w = error_w + 4 * u * np.abs(weight)
    error_w = error_w + rounding(np.abs(weight_after) + error_w, dtype)
    second_order = 1.01
    return second_order * error_m, second_order * error_v, second_order * error_w


def _row_mean(x):
    return np.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def _corrections(beta1, beta2, t):
    return _correction(beta1, t), _correction(beta2, t)


def _correction(beta, t):
    return -np.expm1(t * np.log(beta)) if beta else 1.0


def _gap(beta, kernel, arithmetic, t):
    """How far, relatively, an implementation's correction may be from 1 - beta^t."""
    exact = _correction(beta, t)
    if not arithmetic.float32_scalars:
        # It corrects for the rates that it applies; from a state that is not its own this differs
        # by the ratio of the corrections.
        return abs(_correction(kernel, t) / exact - 1)
    # Rounding beta makes t relative errors of u in the power, t - 1 products make as many, and the
    # difference from 1 is rounded.
    u = UNIT["float32"]
    return (2 * t * u * beta**t + u * exact) / exact
