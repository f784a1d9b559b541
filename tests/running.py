"""Runs a case of the matrix and looks at what it leaves."""

import mindspore as ms

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

# In the place of an empty table that it has not, an empty list of numbers.
SHAPES = tuple(shape if has_shape(shape) else (0,) for shape in cases.SHAPES)


def set_mode(mode):
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)


def runs(backend, case, dtype, shapes):
    """Whether a backend can run a case; the optimizer itself must say the same."""
    formula_amsgrad = case.options.get("use_amsgrad", False)
    if backend != "primitive":
        return True
    return (
        dtype == "float32"
        and case.optimizer != "AdaMax"
        and not case.options.get("use_lazy")
        and not (
            formula_amsgrad
            and (not HAS_AMSGRAD_KERNEL or () in shapes or case.options.get("use_nesterov", False))
        )
    )


ALL_BACKENDS = tuple(BACKENDS)
