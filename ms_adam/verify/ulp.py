"""How far a computed step may be from the exact one: derived bounds, element by element."""

import numpy as np

# Unit roundoff u: rounding to nearest changes x by at most u * |x|, and by at most half the
# smallest subnormal where x is that small.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150, "float64": 2.0**-1075}


def rounding(x, dtype):
    """The largest error of rounding x to `dtype`: an array of the shape of x."""
    return UNIT[dtype] * np.abs(x) + TINY[dtype]


def step_bounds(adam, gradient, before, after, weight, weight_after, *, dtype, kernel_betas):
    """Bounds on one step that starts from a given state: of moment1, moment2 and the weight.

    Each line counts the roundings of an implementation that computes in the moments' dtype, each
    at most u times the size of what is rounded, and carries earlier errors through the formula to
    first order; the factor at the end stands for the second order.

    Args:
        adam: a `reference.Adam`, whose numbers the implementation was given.
        gradient: the gradient, exact.
        before, after: the reference's states around the step; `after` exact, from `before`.
        weight, weight_after: the weight before and, exact, after the step.
        dtype: of the weight, a name.
        kernel_betas: the decay rates that the implementation applies for beta1 and beta2.

    Returns:
        Three arrays of the weight's shape.
    """
    moment_dtype = "float64" if dtype == "float64" else "float32"
    u, tiny = UNIT[moment_dtype], TINY[moment_dtype]
    if moment_dtype == "float64":  # the reference rounds as often as what it checks
        u, tiny = 2 * u, 2 * tiny
    t = after.step
    beta1, beta2 = adam.beta1, adam.beta2
    kernel1, kernel2 = kernel_betas

    # g: times 1 / loss_scale (two roundings); plus weight_decay * w (two more).
    l2 = 0.0 if adam.decoupled else adam.weight_decay
    size = np.abs(gradient / adam.loss_scale) + np.abs(l2 * weight)
    error_g = 4 * u * size

    # m + rest * (g - m): rest, difference, product (3 roundings of at most 2 * rest * (|g| + |m|)),
    # sum; and what other decay rates the implementation has.
    rest1, rest2 = 1 - beta1, 1 - beta2
    span1 = size + np.abs(before.moment1)
    error_m = (rest1 * error_g + (6 * u * rest1 + abs(kernel1 - beta1)) * span1
               + u * np.abs(after.moment1) + tiny)
    span2 = size**2 + np.abs(before.moment2)
    error_v = (rest2 * (2 * size * error_g + u * size**2)
               + (6 * u * rest2 + abs(kernel2 - beta2)) * span2
               + u * np.abs(after.moment2) + tiny)

    # Nesterov's moment is one more lerp.
    error_used = error_m
    if adam.nesterov:
        error_used = (1 + rest1) * error_m + rest1 * error_g + 8 * u * rest1 * (span1 + size)

    # update = step_size * m / (sqrt(v) + epsilon). An implementation with other rates corrects for
    # them; from a state that is not its own this differs by the ratio of the corrections.
    v = after.vhat if adam.amsgrad else after.moment2
    c1, square2 = _corrections(beta1, beta2, t)
    k1, kernel_square2 = _corrections(kernel1, kernel2, t)
    gap = abs(k1 / c1 - 1) + abs(kernel_square2 / square2 - 1)
    correction1, correction2 = (c1, np.sqrt(square2)) if adam.bias_correction else (1.0, 1.0)
    epsilon = adam.eps * (correction2 if adam.epsilon == "outside" else 1.0)
    root = np.sqrt(v)
    step_size = adam.learning_rate * correction2 / correction1
    lead = np.abs(after.moment1)
    if adam.nesterov:
        lead = beta1 * lead + rest1 * size
    update = step_size * lead / (root + epsilon)
    relative_v = np.divide(error_v, v, out=np.zeros_like(error_v), where=v > 0)
    # Roundings: sqrt, epsilon (2), sum, quotient, step size (2), product: 8.
    error_update = (step_size * error_used / (root + epsilon)
                    + update * (0.5 * relative_v + 8 * u + gap))
    # Decoupled decay is one factor (3 roundings); an implementation may store the product first.
    error_w = error_update + 2 * u * np.abs(weight_after) + u * np.abs(weight)
    if adam.decoupled:
        error_w = error_w + 4 * u * np.abs(weight)
    error_w = error_w + rounding(np.abs(weight_after) + error_w, dtype)
    second_order = 1.01
    return second_order * error_m, second_order * error_v, second_order * error_w


def _corrections(beta1, beta2, t):
    return tuple(-np.expm1(t * np.log(beta)) if beta else 1.0 for beta in (beta1, beta2))
