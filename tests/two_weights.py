"""Small optimizers of a table and a bias, for the tests of the tail of a step."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from running import to_numpy

import ms_adam

BACKENDS = ("fused", "composite")  # those that can leave a step out
DTYPES = ("float32", "float16", "bfloat16", "float64")
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # of the dtype of averages and sums


class Growing(nn.Cell):
    """A decay rate that grows with the steps made, like that of MindCV's averages."""

    def construct(self, done):
        return 0.9 * (1.0 - ops.exp(-(done + 1.0) / 4.0))

    def after(self, steps):
        """The same in float32 for each of the first steps, as float64."""
        return [float(np.float32(self(Tensor([t], ms.int32)).asnumpy()[0])) for t in range(steps)]


def make(options, *dtypes, seed=0):
    """An optimizer of two parameters, or of two in each of some dtypes: one compilation for all."""
    rng = np.random.default_rng(seed)
    parameters = [
        Parameter(
            Tensor(rng.standard_normal(shape), ms.float32).astype(getattr(ms, dtype)),
            f"{name}{i or ''}",
        )
        for i, dtype in enumerate(dtypes or ("float32",))
        for name, shape in (("table", (6, 4)), ("bias", (5,)))
    ]
    return ms_adam.Adam(parameters, **{"learning_rate": 1e-2, **options})


def random_gradients(optimizer, rng):
    """In the dtypes of the parameters."""
    return tuple(
        Tensor(rng.standard_normal(p.shape), ms.float32).astype(p.dtype)
        for p in optimizer.parameters
    )


def filled(optimizer, value):
    """Gradients of one value, in the dtypes of the parameters."""
    return tuple(Tensor(np.full(p.shape, value), p.dtype) for p in optimizer.parameters)


def mean_of(calls):
    """The gradients of the update, with sums in float32 as the optimizer makes them."""
    sums = []
    for parts in zip(*calls):
        wide = "float64" if parts[0].dtype == ms.float64 else "float32"
        total = np.zeros(parts[0].shape, wide)
        for part in parts:
            total += part.astype(getattr(ms, wide)).asnumpy()
        sums.append(Tensor(total / np.array(len(calls), wide)))
    return tuple(sums)


def arrays(tensors):
    return [to_numpy(tensor).astype(np.float64) for tensor in tensors]  # quicker than operators


def everything(optimizer):
    """Returns all that a step may change, but what a skipped step changes."""
    apart = {"skipped", "skipped_in_row", "scale_value", "counter", "scale_counter", "grad_norm"}
    kept = [p for p in optimizer.get_parameters() if p.name.split(".")[-1] not in apart]
    return dict(zip([p.name for p in kept], arrays(kept)))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def assert_same_weights(one, other):
    np.testing.assert_equal(arrays(one.parameters), arrays(other.parameters))
