"""Runs a case of the matrix and looks at what it leaves."""

import contextlib

import mindspore as ms
import numpy as np
from mindspore import Tensor

import ms_adam
from ms_adam.backends import BACKENDS
from ms_adam.compat import FLOATS, HAS_AMSGRAD_KERNEL, has_shape
from ms_adam.lab.studies.matrix import cases
from ms_adam.lab.studies.matrix.cells import (  # noqa: F401  tests take these from here
    CompiledStep,
    as_tensors,
    excess,
    make_optimizer,
    make_parameters,
    snapshot,
    to_numpy,
)

# What this release of MindSpore has of the matrix.
DTYPES = tuple(dtype for dtype in cases.DTYPES if dtype in [str(it).lower() for it in FLOATS])
LOW_PRECISION = tuple(dtype for dtype in DTYPES if dtype.endswith("float16"))

# An empty list of numbers in the place of an empty table, which 2.0.0 lacks.
SHAPES = tuple(shape if has_shape(shape) else (0,) for shape in cases.SHAPES)


def set_mode(mode):
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)


def runs(backend, case, dtype, shapes):
    """Whether a backend can run a case; the optimizer itself must say the same."""
    if backend != "primitive":
        return True
    options = case.options
    amsgrad = options.get("use_amsgrad", False) or options.get("amsgrad", False)
    return (
        dtype == "float32"
        and case.optimizer != "AdaMax"
        and not options.get("use_lazy")
        and not (case.skips or "accumulate_steps" in options)
        and not ("state_dtype" in options or options.get("master_weights") == "split")
        and not (
            amsgrad and (not HAS_AMSGRAD_KERNEL or () in shapes or options.get("use_nesterov"))
        )
    )


ALL_BACKENDS = tuple(BACKENDS)


def adam(shapes, *arguments, dtype="float32", optimizer=ms_adam.Adam, **options):
    """An optimizer of parameters of some shapes."""
    return optimizer(make_parameters(shapes, dtype), *arguments, **options)


def whole_state(optimizer):
    """What a step changes: weights, moments and counters, for `np.testing.assert_equal`."""
    return snapshot(optimizer), int(optimizer.global_step), int(optimizer.update_count)


def bits(optimizer):
    """All that an optimizer has, weights, state and counters: {name: bytes}."""
    return {p.name: np.ascontiguousarray(p.asnumpy()).tobytes() for p in optimizer.get_parameters()}


@contextlib.contextmanager
def unchanged(optimizer):
    """Within it, no Parameter of an optimizer changes."""
    before = bits(optimizer)
    yield
    assert bits(optimizer) == before


def step_of(optimizer, compiled):
    """A step that Python calls, or one that is part of a graph."""
    return CompiledStep(optimizer) if compiled else optimizer


def run(optimizer, steps=3, scale=1.0, seed=0, compiled=False):
    """Makes steps with random gradients; returns those gradients as float64 arrays."""
    step, fed = step_of(optimizer, compiled), []
    dtype = str(optimizer.parameters[0].dtype).lower()
    for arrays in cases.gradients([p.shape for p in optimizer.parameters], steps, scale, seed):
        tensors, exact = as_tensors(arrays, dtype)
        step(tensors)
        fed.append(exact)
    return fed


def follow(method, start, fed, part=slice(None), **per_step):
    """The reference's weights, or a part of them, after the same gradients.

    `per_step` lists the arguments of each step that override the method's own.
    """
    weights = list(start[part])
    states = [method.init(weight) for weight in weights]
    for t, exact in enumerate(fed):
        overrides = {name: values[t] for name, values in per_step.items()}
        for i, gradient in enumerate(exact[part]):
            weights[i], states[i] = method.step(weights[i], gradient, states[i], **overrides)
    return weights


def copy_values(source, target):
    """Gives Parameters the values of others of the same names, in any order."""
    by_name = {parameter.name: parameter for parameter in source}
    for parameter in target:
        value = to_numpy(by_name[parameter.name])
        parameter.set_data(Tensor(value, parameter.dtype))


def float32(x):
    """The float64 number that `x` is in float32."""
    return float(np.float32(x))
