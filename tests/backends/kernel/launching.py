"""Launches the kernel with NumPy arrays, without MindSpore."""

import ctypes
from typing import NamedTuple, Optional

import numpy as np

from ms_adam.backends import toolchain
from ms_adam.backends.fused import FUNCTION

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
DTYPES = tuple(UNIT)
MOMENTS = ("moment1", "moment2", "vhat")


def load(source):
    return getattr(ctypes.CDLL(str(toolchain.build(source))), FUNCTION)


# --- bfloat16, which NumPy lacks -----------------------------------------------------------------


def stored(values, dtype):
    """Returns values in a dtype; bfloat16 as uint16, rounded to nearest, ties to even."""
    if dtype != "bfloat16":
        return np.asarray(values, dtype=dtype)
    values = np.asarray(values, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = values.astype(float)
        # Eight bits of a fraction between 0.5 and 1; rint rounds ties to even.
        exponent = np.maximum(np.frexp(exact)[1], -125)  # subnormals have fewer
        rounded = np.ldexp(np.rint(np.ldexp(exact, 8 - exponent)), exponent - 8).astype(np.float32)
    rounded = np.where(np.isnan(values), np.float32(np.nan), rounded)
    return (rounded.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def value(array, dtype):
    """Returns the numbers of an array, in a NumPy dtype that can hold all of them."""
    if dtype != "bfloat16":
        return array
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


# --- weights -------------------------------------------------------------------------------------


class Formula(NamedTuple):
    """The kernel's `struct Formula`."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    loss_scale: float = 1.0
    max_grad_norm: float = np.inf
    epsilon_hat: bool = False
    bias_correction: bool = True
    nesterov: bool = False
    amsgrad: bool = False
    decoupled: bool = False
    lazy: bool = False
    maximize: bool = False
    infinity_norm: bool = False
    skips: bool = False
    scale_factor: float = 1.0
    scale_window: float = -1.0
    ema_decay: float = -1.0
    ema_debias: bool = True
    accumulate_steps: int = 1
    ema_scheduled: bool = False
    begun: int = 0
    narrow: int = 0
    seed: int = 0


class Weight(NamedTuple):
    """One weight with its gradient and state; arrays of one shape."""

    dtype: str
    weight: np.ndarray
    gradient_dtype: str
    gradient: np.ndarray
    moment1: np.ndarray
    moment2: np.ndarray
    vhat: np.ndarray
    rounded_dtype: Optional[str] = None
    rounded: Optional[np.ndarray] = None  # the parameter, if the weight is its master
    group: int = 0
    decayed: bool = False
    centralized: bool = False

    @property
    def moment_dtype(self):
        return "float64" if self.dtype == "float64" else "float32"

    def dtype_of(self, name):
        named = {"weight": "dtype", "gradient": "gradient_dtype", "rounded": "rounded_dtype"}
        return getattr(self, named.get(name, "moment_dtype"))

    def numbers(self, name):
        """Returns the numbers of an array, given its name."""
        return value(getattr(self, name), self.dtype_of(name))


def placed(values, shift):
    """Returns a copy that begins `shift` elements after alignment."""
    room = np.empty(values.size + 64, values.dtype)
    first = -room.ctypes.data % 64 // values.itemsize + shift
    view = room[first : first + values.size].reshape(values.shape)
    view[...] = values
    return view


def make(
    rng, shape, dtype="float32", gradient_dtype=None, rounded_dtype=None, scale=1.0, shift=0, **more
):
    """Returns a weight in the middle of a training."""
    gradient_dtype = gradient_dtype or dtype
    moment_dtype = "float64" if dtype == "float64" else "float32"

    def array(values, name):
        return placed(stored(values, name), shift)

    normal = rng.standard_normal
    moment2 = (scale * normal(shape)) ** 2
    weight = array(normal(shape), dtype)
    rounded = array(weight, rounded_dtype) if rounded_dtype else None
    return Weight(
        dtype,
        weight,
        gradient_dtype,
        array(scale * normal(shape), gradient_dtype),
        array(scale * normal(shape), moment_dtype),
        array(moment2, moment_dtype),
        array(moment2 * (1 + 0.1 * normal(shape)), moment_dtype),
        rounded_dtype,
        rounded,
        **more,
    )


def with_arrays(weight, change):
    """Returns a weight with each array replaced by change(array)."""
    return Weight(*(change(x) if isinstance(x, np.ndarray) else x for x in weight))


def copies(weights, shift=0):
    return [with_arrays(weight, lambda array: placed(array, shift)) for weight in weights]


def mixture(rng, scale=1.0):
    """Returns weights of all dtypes with gradients of all dtypes, for one launch."""
    kinds = [(dtype, None) for dtype in DTYPES] + [("float32", "float16"), ("float32", "bfloat16")]
    weights = []
    for dtype, rounded_dtype in kinds:
        for gradient_dtype in DTYPES:
            for shape in ((0,), (1,), (7,), (13, 21)):
                i = len(weights)
                more = dict(group=i % 2, decayed=i % 3 > 0, centralized=i % 5 > 2)
                weights.append(
                    make(rng, shape, dtype, gradient_dtype, rounded_dtype, scale, i % 3, **more)
                )
    return weights


# --- one launch ----------------------------------------------------------------------------------


def launch(kernel, formula, weights, step=1, rates=(1e-3,), decays=(0.0,), threads=1, flat=None):
    """Makes one step in place, as ops.Custom would.

    Args:
        flat: None, or offsets and a dict from dtype to three buffers, which replace the weights'
            moments.

    Returns:
        int, the kernel's answer, 0 for success.
    """
    before = step - 1
    last = formula.beta1 if formula.infinity_norm else formula.beta2
    betas = (formula.beta1, last, last)
    powers = [np.array(beta**before, np.float32) for beta in betas]
    count = np.array([before], np.int32)
    offsets, buffers = flat or ([0] * len(weights), {})
    plan = [len(weights), len(rates), threads, len(buffers)]
    for w, offset in zip(weights, offsets):
        is_master = w.rounded is not None
        plan += [0, w.weight.size, w.group, w.decayed, w.centralized, is_master, offset]
    tensors = [
        (np.array([formula] * (1 + len(rates)), np.float64), "float64"),
        (np.array(plan, np.int64), "int64"),
        (np.array([before], np.int32), "int32"),
        (count, "int32"),
        *((power, "float32") for power in powers),
    ]
    if formula.max_grad_norm < np.inf:
        tensors.append((np.zeros((), np.float32), "float32"))
    tensors += [(np.array(number, np.float32), "float32") for number in (*rates, *decays)]
    tensors += [(w.gradient, w.gradient_dtype) for w in weights]
    tensors += [(w.weight, w.dtype) for w in weights]
    tensors += [(w.rounded, w.rounded_dtype) for w in weights if w.rounded is not None]
    for k, name in enumerate(MOMENTS[: 3 if formula.amsgrad else 2]):
        if buffers:
            tensors += [(buffer[k], dtype) for dtype, buffer in buffers.items()]
        else:
            tensors += [(getattr(w, name), w.moment_dtype) for w in weights]
    tensors.append((np.zeros(1, np.int32), "int32"))  # the output

    n = len(tensors)
    shapes = [(ctypes.c_int64 * max(1, array.ndim))(*array.shape) for array, _ in tensors]
    answer = kernel(
        n,
        (ctypes.c_void_p * n)(*[array.ctypes.data for array, _ in tensors]),
        (ctypes.c_int * n)(*[array.ndim for array, _ in tensors]),
        (ctypes.c_void_p * n)(*map(ctypes.addressof, shapes)),
        (ctypes.c_char_p * n)(*[dtype.encode() for _, dtype in tensors]),
        None,
        None,
    )
    after = step if answer == 0 else before
    assert count == after
    assert powers == [np.float32(beta**after) for beta in betas]
    return answer
