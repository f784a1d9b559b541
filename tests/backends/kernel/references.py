"""Two references for the kernel.

`exact` computes the formula in long double, with a bound for the kernel's roundings. `one_by_one`
carries out the kernel's operations with NumPy in the moments' dtype: no product is fused with a sum
and every operation rounds correctly, so the kernel must give the same bits for any vectors,
remainders, alignment and threads.
"""

import numpy as np

from backends.kernel.launching import NORMAL, SMALLEST, UNIT, copies, launch

LONG = np.longdouble


def clip_factor(formula, weights):
    """Returns the factor by which clipping scales gradients."""
    squares = sum(np.sum(w.numbers("gradient").astype(LONG) ** 2) for w in weights)
    norm = np.sqrt(LONG(squares)) / LONG(formula.loss_scale)
    return formula.max_grad_norm / norm if norm > formula.max_grad_norm else LONG(1)


def exact(formula, weight, clip, step, rate, decay):
    """Returns the state after a step, and a bound on the kernel's distance from it.

    The bounds carry each rounding through the formula to first order, with u the unit of the
    moments' dtype; a factor of 1.01 covers the second order. The scalars of a step (rates, epsilon,
    clipping) take at most 16 roundings in double and one to u.

    Returns:
        {field: (values, bounds)}.
    """
    u, normal = LONG(UNIT[weight.moment_dtype]), LONG(NORMAL[weight.moment_dtype])
    scalar = u + 16 * LONG(2.0**-53)
    fields = ("weight", "gradient", "moment1", "moment2", "vhat")
    w, g, m, v, vhat = (weight.numbers(name).astype(LONG) for name in fields)
    one_minus_beta1, one_minus_beta2 = 1 - LONG(formula.beta1), 1 - LONG(formula.beta2)
    rate, decay = LONG(np.float32(rate)), LONG(np.float32(decay))

    # g: cast (only from a wider dtype), factor, product.
    g = (-1 if formula.maximize else 1) * g * clip / LONG(formula.loss_scale)
    error_g = (scalar + 2 * u) * np.abs(g)
    if weight.decayed and not formula.decoupled:  # product, sum
        g = g + decay * w
        error_g = error_g + u * np.abs(decay * w) + u * np.abs(g)
    if weight.centralized and g.ndim > 1:  # a sum in double; rounding, difference
        axes = tuple(range(1, g.ndim))
        mean, size = (np.mean(x, axis=axes, keepdims=True) if g.size else g for x in (g, np.abs(g)))
        error_g = error_g + (g[:1].size + 16) * LONG(2.0**-53) * size + u * np.abs(mean)
        g = g - mean
        error_g = error_g + u * np.abs(g)

    def lerp(start, end, error_end, factor):
        """start + factor * (end - start): difference, factor, product, sum."""
        gap = np.abs(end - start)
        result = start + factor * (end - start)
        return result, (
            factor * (error_end + (u + scalar + u) * gap) + u * np.abs(result) + 3 * normal
        )

    m, error_m = lerp(m, g, error_g, one_minus_beta1)
    square, error_square = g**2, 2 * np.abs(g) * error_g + error_g**2 + u * g**2 + normal
    v, error_v = lerp(v, square, error_square, one_minus_beta2)
    largest = np.maximum(vhat, v) if formula.amsgrad else v
    numerator, error_numerator = m, error_m
    if formula.nesterov:  # the error of m enters once more
        numerator, error_numerator = lerp(m, g, error_g + error_m, one_minus_beta1)
        error_numerator = error_numerator + error_m

    c1 = 1 - LONG(formula.beta1) ** step
    c2 = np.sqrt(1 - LONG(formula.beta2) ** step)
    corrected = formula.bias_correction
    step_size = rate * (c2 / c1 if corrected else 1)
    epsilon = LONG(formula.eps) * (c2 if corrected and not formula.epsilon_hat else 1)

    root, error_root = np.sqrt(largest), np.sqrt(error_v)
    with np.errstate(divide="ignore", invalid="ignore"):
        error_root = np.where(root > 0, np.minimum(error_v / root, error_root), error_root)
    divisor = root + epsilon
    error_divisor = error_root + u * root + scalar * epsilon + u * divisor
    update = step_size * numerator / divisor
    smaller = np.maximum(divisor - error_divisor, epsilon / 2)
    error_update = (
        step_size * error_numerator / smaller
        + (scalar + u) * np.abs(update)  # product
        + np.abs(update) * error_divisor / smaller
        + u * np.abs(update)
        + normal
    )
    decoupled_decay = weight.decayed and formula.decoupled
    decayed = (1 - rate * decay) * w if decoupled_decay else w
    after = decayed - update
    error_w = error_update + u * np.abs(after)
    if decoupled_decay:  # factor, product
        error_w = error_w + (scalar + u) * np.abs(decayed)
    error_w = error_w + normal

    result = {
        "weight": (after, stored_error(after, error_w, weight.dtype)),
        "moment1": (m, error_m),
        "moment2": (v, error_v),
    }
    if formula.amsgrad:
        result["vhat"] = (largest, error_v)
    if weight.rounded is not None:
        result["rounded"] = (after, stored_error(after, error_w, weight.rounded_dtype))
    return {name: (values, LONG(1.01) * bounds) for name, (values, bounds) in result.items()}


def stored_error(values, errors, dtype):
    """Returns the error after rounding to `dtype`."""
    if dtype in NORMAL:
        return errors
    return errors + UNIT[dtype] * (np.abs(values) + errors) + SMALLEST[dtype] / 2


def excess(kernel, formula, weights, step=1, rates=(1e-3,), decays=(0.0,), **more):
    """Makes a step; returns the largest error of any element, as a multiple of its bound."""
    before = copies(weights)
    clip = clip_factor(formula, before)
    assert launch(kernel, formula, weights, step, rates, decays, **more) == 0
    worst = 0.0
    for old, new in zip(before, weights):
        expected = exact(formula, old, clip, step, rates[old.group], decays[old.group])
        for name, (values, bounds) in expected.items():
            got = new.numbers(name).astype(LONG)
            assert got.shape == values.shape
            if new.dtype_of(name) == "float16":  # beyond its largest number is Inf
                got, values = np.clip(got, -65504, 65504), np.clip(values, -65504, 65504)
            if got.size:
                worst = max(worst, float(np.max(np.abs(got - values) / bounds)))
    return worst


def one_by_one(formula, weight, clip, step, rate, decay):
    """Returns the state after the kernel's operations in NumPy; subnormals become zero."""
    real = np.dtype(weight.moment_dtype).type

    def flushed(x):
        return np.where(np.abs(x) < np.finfo(real).tiny, np.copysign(real(0), x), x)

    def lerp(start, end, factor):
        return flushed(start + flushed(factor * flushed(end - start)))

    rate, decay = float(np.float32(rate)), float(np.float32(decay))
    c1 = -np.expm1(step * np.log(formula.beta1))
    c2 = np.sqrt(-np.expm1(step * np.log(formula.beta2)))
    scale = real(1.0 / formula.loss_scale * float(clip))
    one_minus_beta1, one_minus_beta2 = real(1.0 - formula.beta1), real(1.0 - formula.beta2)
    step_size, epsilon = real(rate * (c2 / c1)), real(formula.eps * c2)
    fields = ("weight", "gradient", "moment1", "moment2", "vhat")
    with np.errstate(all="ignore"):
        w, g, m, v, vhat = (flushed(weight.numbers(name).astype(real)) for name in fields)
        g = flushed(scale * g)
        if weight.decayed and not formula.decoupled:
            g = flushed(g + flushed(real(decay) * w))
        m = lerp(m, g, one_minus_beta1)
        v = lerp(v, flushed(g * g), one_minus_beta2)
        largest = np.maximum(vhat, v) if formula.amsgrad else v
        numerator = lerp(m, g, one_minus_beta1) if formula.nesterov else m
        if weight.decayed and formula.decoupled:
            w = flushed(real(1.0 - rate * decay) * w)
        w = flushed(w - flushed(flushed(step_size * numerator) / (np.sqrt(largest) + epsilon)))
    state = {"weight": w, "moment1": m, "moment2": v}
    return {**state, "vhat": largest} if formula.amsgrad else state


def assert_same_bits(got, expected):
    np.testing.assert_array_equal(got, expected)  # NaN equals NaN
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[real], np.signbit(expected)[real])


def assert_same_arrays(weights, others):
    for one, other in zip(weights, others):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)
