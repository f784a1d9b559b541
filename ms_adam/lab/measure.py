"""How far arrays are apart, and how far rounding can take a computed step from the exact one.

The theory of rounding bounds: an operation in a dtype changes its exact result x by at most
u |x| + tiny. `step_bounds` counts the roundings of one step from a known state and carries them
through moments, quotient and weight, element by element; given the errors of the state, its bounds
run on from step to step. `path_bounds` does the same for the largest element of a path of many
steps that are given their gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ms_adam.reference import clip_by_global_norm
from ms_adam.reference.adamax import AdaMax
from ms_adam.reference.correction import bias_correction

# Unit roundoff u: rounding to nearest changes x by at most u * |x|, and by at most half the
# smallest subnormal where x is that small.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150, "float64": 2.0**-1075}


# --- distances ---------------------------------------------------------------------------------

METRICS = {
    "absolute": "the largest difference of an element",
    "relative": "that, over the size of the tensor: its largest element, and for a parameter the "
    "largest way that an element has come since the first step",
    "ulp": "the largest difference in units in the last place of the element",
    "cosine": "cosine of the angle between the two tensors, over the elements finite in both",
    "within_0_1_percent": "share of elements whose difference is at most 0.1% of their size",
    "within_0_5_percent": "share of elements whose difference is at most 0.5% of their size",
    "different": "how many elements differ in a bit: 0 and -0 do, two NaN do not",
}
EQUAL = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0)  # all metrics of two equal arrays


def differences(a, b) -> np.ndarray:
    """|a - b| of each element.

    NaN equals NaN here, and an infinity itself: two sides that overflow at the same place do not
    part there. Where only one is finite the difference is infinite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, difference)


def largest(array) -> float:
    """The size of the largest finite element; 0 if there is none."""
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))


def distance(a, b, dtype: str, size=None) -> np.ndarray:
    """The distance of two arrays of one shape in all `METRICS`, by their `differences`.

    Args:
        a: Array of any float dtype.
        b: Likewise.
        dtype: Its units in the last place are counted: the coarser dtype of the two.
        size: Divides the relative distance; None: the largest finite element.

    Returns:
        float64, one number for each of `METRICS`. The unit in the last place is that of the larger
        value of the two. It can be twice the unit below a power of two that lies between them.
    """
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    difference = differences(a, b)
    signs = (np.signbit(a) != np.signbit(b)) & ~np.isnan(a)
    different = int(np.count_nonzero((difference > 0) | signs))
    if different == 0:
        return np.array(EQUAL)
    both = np.isfinite(a) & np.isfinite(b)
    larger = np.where(both, np.maximum(np.abs(a), np.abs(b)), 0.0)
    absolute = difference.max()
    size = larger.max() if size is None else size
    with np.errstate(divide="ignore", over="ignore"):
        relative = np.float64(absolute) / size if absolute else 0.0
        ulp = (difference / spacing(larger, dtype)).max()
    within = [np.count_nonzero(difference <= share * larger) / a.size for share in (0.001, 0.005)]
    cosine = _cosine(a[both], b[both])
    return np.array([absolute, relative, ulp, cosine, *within, different])


def relative_distance(got, wanted, start=0.0) -> float:
    """max |got - wanted| / max |wanted - start|: the error in units of the way; 0 of equal ones."""
    error = np.max(np.abs(got - wanted))
    return float(np.divide(error, np.max(np.abs(wanted - start)))) if error else 0.0


def share_of_bound(got, wanted, bound) -> float:
    """The largest distance of any element as a share of its bound; infinite for NaN.

    An infinite bound allows every value.
    """
    if got.shape != wanted.shape:
        raise AssertionError(f"shape {got.shape} in place of {wanted.shape}")
    if not got.size:
        return 0.0
    ratio = np.abs(got - wanted) / bound
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    return float(np.max(np.where(np.isinf(bound), 0.0, ratio)))


def nearest_to_bound(got, wanted, bound) -> tuple[float, float]:
    """The distance and the bound of the element whose distance is the largest share of its bound.

    The distances are `differences`. An infinite bound allows every value.
    """
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if not got.size:
        return 0.0, 0.0
    difference = differences(got, wanted)
    with np.errstate(all="ignore"):
        share = np.where(difference == 0, 0.0, difference / bound)
    share = np.where(np.isinf(bound), 0.0, share)
    worst = np.unravel_index(np.argmax(share), share.shape)
    bounds = np.broadcast_to(bound, share.shape)
    return float(difference[worst]) if share[worst] else 0.0, float(bounds[worst])


def spacing(values, dtype: str) -> np.ndarray:
    """The unit in the last place of each value in a dtype: from it to the next larger in size."""
    _, exponent = np.frexp(values)  # value = f * 2^exponent with f in [1/2, 1)
    least = max(2 * TINY[dtype], np.nextafter(0.0, 1.0))  # the smallest subnormal
    return np.where(values == 0, least, np.maximum(np.ldexp(UNIT[dtype], exponent), least))


def coarser(one: str, other: str) -> str:
    """The one of two dtypes with the larger units."""
    return max(one, other, key=UNIT.__getitem__)


def _cosine(a, b):
    """1 for two zero vectors, 0 where only one is zero."""
    sizes = [float(np.abs(x).max()) if x.size else 0.0 for x in (a, b)]
    if 0.0 in sizes:
        return 1.0 if sizes == [0.0, 0.0] else 0.0
    a, b = a / sizes[0], b / sizes[1]  # so that squares neither overflow nor vanish
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


# --- rounding bounds of one step ---------------------------------------------------------------


def rounding(x, dtype: str):
    """The largest error of rounding x to `dtype`, of the shape of x."""
    return UNIT[dtype] * np.abs(x) + TINY[dtype]


class Arithmetic(NamedTuple):
    """The arithmetic of an implementation, as far as bounds depend on it."""

    dtype: str  # of the moments, and of all arithmetic before the new weight is rounded
    beta1: float  # the decay rate that it applies to the first moment
    beta2: float  # likewise of the second moment
    # Whether its numbers are float32, also beside float64 moments, and it corrects by powers of
    # beta that it multiplies up in float32 step by step, as `nn.Adam` does. Otherwise it corrects
    # exactly for the rates that it applies.
    float32_scalars: bool = False


def step_bounds(
    adam,
    gradient,
    before,
    after,
    weight,
    weight_after,
    *,
    dtype,
    arithmetic,
    gradient_error=0.0,
    state_error=(0.0, 0.0, 0.0),
):
    """Bounds on one step from a given state: of moment1, moment2 and the weight.

    Each line counts the roundings of an implementation, and carries earlier errors through the
    formula to first order; the factor at the end stands for the second order. The second moment's
    error goes through root and quotient as an interval, since in float16 it can be as large as the
    moment.

    Args:
        adam: A `reference.Adam` or `AdaMax` with the numbers that the implementation was given.
        gradient: The gradient, exact.
        before: The reference's state before the step.
        after: The reference's state after the step, exact, from `before`.
        weight: The weight before the step.
        weight_after: The weight after the step, exact.
        dtype: The name of the weight's dtype.
        arithmetic: An `Arithmetic`.
        gradient_error: A bound on the error of the implementation's gradient.
        state_error: Bounds on the distances of the implementation's moments and maximum to
            `before`, where its own are not known: the bounds of the step before.

    Returns:
        Three arrays of the weight's shape. Infinite where the implementation may divide by 0.
    """
    u, tiny = UNIT[arithmetic.dtype], TINY[arithmetic.dtype]
    if arithmetic.dtype == "float64":  # the reference rounds as often as the implementation
        u, tiny = 2 * u, 2 * tiny
    u_scalar = max(u, UNIT["float32"]) if arithmetic.float32_scalars else u
    t = after.step
    beta1, beta2 = adam.beta1, adam.beta2
    one_minus_beta1, one_minus_beta2 = 1 - beta1, 1 - beta2
    off1, off2 = abs(arithmetic.beta1 - beta1), abs(arithmetic.beta2 - beta2)
    maximum = isinstance(adam, AdaMax)
    decoupled = not maximum and adam.decoupled

    # g: 1 / loss_scale, times it, weight_decay, times w, their sum, and one more where the decay
    # was multiplied by the loss scale first: at most 6 in one path.
    l2 = 0.0 if decoupled else adam.weight_decay
    size = np.abs(gradient / adam.loss_scale) + np.abs(l2 * weight)
    error_g = 6 * (u_scalar * size + tiny) + gradient_error
    if adam.centralize and size.ndim >= 2 and size.size:
        # The mean of n elements (n roundings: sums and a quotient), and a difference.
        n = size[0].size
        mean_size, mean_error = _row_mean(size), _row_mean(error_g)
        error_g = error_g + mean_error + n * (u * mean_size + tiny) + u * (size + mean_size)
        size = size + mean_size

    # m + (1 - beta1) * (g - m): 1 - beta1 (which may be subnormal in float16), difference, product
    # (3 roundings of at most 2 (1 - beta1) (|g| + |m|)), sum; and the implementation's other rates.
    span1 = size + np.abs(before.moment1)
    error_m = (
        one_minus_beta1 * error_g
        + (6 * u * one_minus_beta1 + tiny + off1) * span1
        + u * np.abs(after.moment1)
        + 2 * tiny
        + beta1 * state_error[0]
    )
    span2 = size**2 + np.abs(before.moment2)
    error_v = (
        one_minus_beta2 * (2 * size * error_g + u * size**2 + tiny)
        + (6 * u * one_minus_beta2 + tiny + off2) * span2
        + u * np.abs(after.moment2)
        + 2 * tiny
        + beta2 * state_error[1]
    )

    if maximum:  # max(beta2 u, |g|): two roundings
        error_v = error_g + (2 * u + off2) * np.abs(before.moment2) + tiny + beta2 * state_error[1]

    numerator, error_numerator = np.abs(after.moment1), error_m
    if not maximum and adam.nesterov:  # one more lerp
        numerator = beta1 * numerator + one_minus_beta1 * size
        error_numerator = (
            (1 + one_minus_beta1) * error_m
            + one_minus_beta1 * error_g
            + 8 * u * one_minus_beta1 * (span1 + size)
            + (off1 + tiny) * (span1 + size)
            + 2 * tiny
        )

    # update = step_size * numerator / (sqrt(v) + epsilon), and the error of its corrections.
    gap = _gap(beta1, arithmetic.beta1, arithmetic, t)
    if maximum:  # step_size * numerator / (u + epsilon)
        correction1, correction2, epsilon = bias_correction(beta1, t), 1.0, adam.eps
        root, least_root = after.moment2, np.maximum(after.moment2 - error_v, 0.0)
    else:
        v = after.vhat if adam.amsgrad else after.moment2
        gap = gap + _gap(beta2, arithmetic.beta2, arithmetic, t)
        correction1 = bias_correction(beta1, t) if adam.bias_correction else 1.0
        correction2 = np.sqrt(bias_correction(beta2, t)) if adam.bias_correction else 1.0
        epsilon = adam.eps * (correction2 if adam.epsilon == "outside" else 1.0)
        error_root = np.maximum(error_v, state_error[2]) if adam.amsgrad else error_v
        root, least_root = np.sqrt(v), np.sqrt(np.maximum(v - error_root, 0.0))
    divisor = root + epsilon
    least = least_root + max((1 - 2 * u_scalar - gap) * epsilon - tiny, 0.0)
    step_size = adam.learning_rate * correction2 / correction1
    update = step_size * numerator / divisor
    # Roundings: sqrt, sum, quotient, step size (2), product: 6, and 2 in the step size's factors.
    with np.errstate(divide="ignore"):
        error_update = (
            (step_size * error_numerator + tiny) / least
            + step_size * numerator * (1 / least - 1 / divisor)
            + update * (8 * u_scalar + gap)
            + tiny
        )
    # Decoupled decay is one factor (3 roundings); an implementation may store the product first.
    error_w = error_update + 2 * u * np.abs(weight_after) + u * np.abs(weight)
    if decoupled:
        error_w = error_w + 4 * u * np.abs(weight)
    error_w = error_w + rounding(np.abs(weight_after) + error_w, dtype)
    second_order = 1.01
    return second_order * error_m, second_order * error_v, second_order * error_w


def narrow_spacing(moment, error, state_dtype: str, is_signed: bool):
    """The step of a narrow format at a moment: how far rounding up or down can take it.

    Stochastic rounding takes a number to one of its two neighbours in the format, which are one
    step apart. The number that is rounded lies within `error` of the exact one.

    bfloat16 has 7 binary places after the first. A byte has 3; below the smallest number of its
    block of 256, the step is that number. It is 2^-15 of the largest power of 2 in the block, or
    2^-31 without a sign, or twice that, since the largest number may be rounded up.

    Args:
        moment: The exact moment, of the parameter's shape.
        error: A bound on its error before it is rounded.
        state_dtype: "float32", "bfloat16" or "int8".
        is_signed: Whether the moment can be negative.
    """
    if state_dtype == "float32" or not moment.size:
        return np.zeros(moment.shape)
    size = (np.abs(moment) + error).reshape(-1)
    _, exponents = np.frexp(size)  # size < 2^exponent
    if state_dtype == "bfloat16":
        return np.ldexp(1.0, np.maximum(exponents - 8, -133)).reshape(moment.shape)
    blocks = np.zeros(-(-size.size // 256) * 256)
    blocks[: size.size] = size
    _, most = np.frexp(blocks.reshape(-1, 256).max(axis=1))
    smallest = np.repeat(np.maximum(most - (15 if is_signed else 31), -126), 256)[: size.size]
    return np.ldexp(1.0, np.maximum(exponents - 4, smallest)).reshape(moment.shape)


def clipped(gradients, max_norm: float, errors, dtype: str):
    """Gradients clipped to a global norm, exact, and bounds on their errors.

    The gradients are unscaled and exact; `errors` bounds the errors with which they come. In the
    norm's dtype N squares and their sum, root, quotient and products are rounded, in the reference
    too.
    """
    norm, error = (np.sqrt(sum(np.sum(x**2) for x in xs)) for xs in (gradients, errors))
    count = sum(gradient.size for gradient in gradients)
    relative = (count + 8) * UNIT[dtype] + error / max(norm, np.finfo(float).tiny)
    found = clip_by_global_norm(gradients, max_norm)
    return found, [e + relative * np.abs(g) for e, g in zip(errors, found)]


def average_bound(rate: float, moved, average, dtype: str):
    """A bound on the error of average + rate * moved, where moved = weight - average before.

    Rate, difference and product are rounded (3 roundings of rate * |moved|), and the sum. `average`
    is the exact one after the step.
    """
    u, tiny = UNIT[dtype], TINY[dtype]
    if dtype == "float64":  # the reference rounds as often as the implementation
        u, tiny = 2 * u, 2 * tiny
    return 1.01 * (u * (3 * rate * np.abs(moved) + np.abs(average)) + 3 * tiny)


def _row_mean(x):
    return np.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)


def _gap(beta, applied, arithmetic, t):
    """A bound on the relative error of an implementation's correction 1 - beta^t."""
    exact = bias_correction(beta, t)
    if not arithmetic.float32_scalars:
        # It corrects for the rates that it applies; from a state that is not its own this differs
        # by the ratio of the corrections.
        return abs(bias_correction(applied, t) / exact - 1)
    # Rounding beta makes t relative errors of u in the power, t - 1 products make as many, and the
    # difference from 1 is rounded.
    u = UNIT["float32"]
    return (2 * t * u * beta**t + u * exact) / exact


# --- rounding bounds of a path -----------------------------------------------------------------


def path_bounds(weights, changes, roundings) -> np.ndarray:
    """Bounds on a float32 path that follows given gradients, after each step.

    A step rounds the new weight, u |w|, and its change, which is off by K u D: D is the largest
    change of a step so far, and K counts the roundings on the way to it, those in moving averages
    times `memory`. Nothing amplifies an earlier error, since the gradients are given, so to first
    order the errors of the steps add up.

    This is looser than `step_bounds`, which needs the state before each step.

    Args:
        weights: The largest |w| up to each step.
        changes: The largest change of a weight up to each step.
        roundings: K of each step.
    """
    return np.cumsum(UNIT["float32"] * (weights + roundings * changes))


def memory(beta: float, t: float = np.inf) -> float:
    """1 + beta + ... + beta^(t-1): the part left of errors of 1 in each of t steps."""
    return (1 - beta**t) / (1 - beta)
