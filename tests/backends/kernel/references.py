"""The kernel's operations with NumPy, one by one in the moments' dtype.

No product is fused with a sum and every operation rounds correctly, so the kernel must give the
same bits for any vectors, remainders, alignment and threads. tests/backends/test_matrix.py holds
the kernel to the formula in float64.
"""

import numpy as np

from backends.kernel.launching import copies, launch, stored, value

LONG = np.longdouble


def clip_factor(formula, weights):
    """Returns the factor by which clipping scales gradients."""
    squares = sum(np.sum(w.numbers("gradient").astype(LONG) ** 2) for w in weights)
    norm = np.sqrt(LONG(squares)) / LONG(formula.loss_scale)
    return formula.max_grad_norm / norm if norm > formula.max_grad_norm else LONG(1)


def check(kernel, formula, weights, step=1, rates=(1e-3,), decays=(0.0,), **more):
    """Makes a step, and asserts that it is the one of `one_by_one`.

    Sums in double, of a norm or a mean, are rounded in another order: float64 feels that.
    """
    before = copies(weights)
    clip = clip_factor(formula, before)
    assert launch(kernel, formula, weights, step, rates, decays, **more) == 0
    for old, new in zip(before, weights):
        numbers = clip, step, rates[old.group], decays[old.group]
        has_sums = formula.max_grad_norm < np.inf or old.centralized
        for name, values in one_by_one(formula, old, *numbers).items():
            if old.dtype == "float64" and has_sums:
                np.testing.assert_allclose(getattr(new, name), values, rtol=1e-12, atol=1e-14)
            else:
                assert_same_bits(new.numbers(name), value(values, new.dtype_of(name)))


def flushed(x):
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def one_by_one(formula, weight, clip, step, rate, decay):
    """Returns the arrays that a step leaves, by name; subnormals become zero."""
    real = np.dtype(weight.moment_dtype).type

    def lerp(start, end, factor):
        return flushed(start + flushed(factor * flushed(end - start)))

    rate, decay = float(np.float32(rate)), float(np.float32(decay))
    with np.errstate(divide="ignore"):  # log(0)
        c1 = -np.expm1(step * np.log(formula.beta1))
        c2 = np.sqrt(-np.expm1(step * np.log(formula.beta2)))
    c1, c2 = (c1, c2) if formula.bias_correction else (1.0, 1.0)
    scale = (-1.0 if formula.maximize else 1.0) / formula.loss_scale * float(clip)
    one_minus_beta1, one_minus_beta2 = real(1.0 - formula.beta1), real(1.0 - formula.beta2)
    step_size = real(rate * (c2 / c1))
    epsilon = real(formula.eps * (1.0 if formula.epsilon_hat else c2))
    fields = ("weight", "gradient", "moment1", "moment2", "vhat")
    with np.errstate(all="ignore"):
        w, g, m, v, vhat = (flushed(weight.numbers(name).astype(real)) for name in fields)
        l2 = decay if weight.decayed and not formula.decoupled else 0.0
        mean = real(0.0)
        if weight.centralized and g.ndim > 1 and g.size:
            axes, given = tuple(range(1, g.ndim)), weight.numbers("gradient")
            of_g, of_w = (x.mean(axes, float, keepdims=True) for x in (given, w))
            mean = (scale * of_g + l2 * of_w).astype(real)
        g = flushed(real(scale) * g)
        if l2:
            g = flushed(g + flushed(real(l2) * w))
        g = flushed(g - mean)
        m = lerp(m, g, one_minus_beta1)
        v = lerp(v, flushed(g * g), one_minus_beta2)
        largest = np.maximum(vhat, v) if formula.amsgrad else v
        numerator = lerp(m, g, one_minus_beta1) if formula.nesterov else m
        if weight.decayed and formula.decoupled:
            w = flushed(real(1.0 - rate * decay) * w)
        w = flushed(w - flushed(flushed(step_size * numerator) / (np.sqrt(largest) + epsilon)))
        state = {"weight": stored(w, weight.dtype), "moment1": m, "moment2": v}
        if weight.rounded is not None:
            state["rounded"] = stored(w, weight.rounded_dtype)
    return {**state, "vhat": largest} if formula.amsgrad else state


def assert_same_bits(got, expected):
    np.testing.assert_array_equal(got, expected)  # NaN equals NaN
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[real], np.signbit(expected)[real])


def assert_same_arrays(weights, others):
    for one, other in zip(weights, others):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)
