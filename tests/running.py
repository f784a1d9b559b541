"""Runs a case of the matrix and looks at what it leaves."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

import ms_adam
from ms_adam import reference
from ms_adam.backends import BACKENDS


def set_mode(mode):
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)


def make_parameters(shapes, dtype, seed=1):
    """Parameters whose elements are of sizes 1, 1e-3 and 0 in turn.

    A weight of size 1 hides an error of the update below its own rounding, 6e-8; beside a weight
    that is 0 the update's last digits show.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([1.0, 1e-3, 0.0])
    parameters = []
    for i, shape in enumerate(shapes):
        values = rng.standard_normal(shape) * np.resize(np.roll(sizes, i), shape)
        parameters.append(Parameter(Tensor(values, getattr(ms, dtype)), name=f"layer{i}.weight"))
    return parameters


def make_optimizer(case, parameters, **more):
    return getattr(ms_adam, case.optimizer)(parameters, **{**case.options, **more})


def to_numpy(tensor):
    """A float64 array of a tensor of any float dtype."""
    if tensor.dtype == ms.bfloat16:
        tensor = tensor.astype(ms.float32)
    return np.array(tensor.asnumpy(), dtype=np.float64)  # a copy: asnumpy() shares memory


def snapshot(optimizer):
    """(weights, moment1, moment2, vhat or None): lists of float64 arrays."""
    buffers = [optimizer.parameters, optimizer.moment1, optimizer.moment2]
    values = [[to_numpy(p) for p in buffer] for buffer in buffers]
    vhat = [to_numpy(p) for p in optimizer.vhat] if hasattr(optimizer, "vhat") else None
    return (*values, vhat)


def as_tensors(arrays, dtype):
    """Tensors of a dtype, and the float64 arrays of what they hold."""
    tensors = tuple(Tensor(array, getattr(ms, dtype)) for array in arrays)
    return tensors, [to_numpy(tensor) for tensor in tensors]


def runs(backend, case, dtype, shapes):
    """Whether a backend can run a case; the optimizer itself must say the same."""
    formula_amsgrad = case.options.get("use_amsgrad", False)
    if backend != "primitive":
        return True
    return dtype == "float32" and not (
        formula_amsgrad and (() in shapes or case.options.get("use_nesterov", False)))


def kernel_betas(backend, adam):
    """The decay rates that a backend applies: MindSpore's kernel takes them in float32."""
    if backend == "primitive":
        return float(np.float32(adam.beta1)), float(np.float32(adam.beta2))
    return adam.beta1, adam.beta2


def adam_state(step, values, i):
    """The reference's state of parameter i, from a snapshot."""
    _, moment1, moment2, vhat = values
    return reference.AdamState(step, moment1[i], moment2[i], None if vhat is None else vhat[i])


ALL_BACKENDS = tuple(BACKENDS)
