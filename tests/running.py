"""Runs a case of the matrix and looks at what it leaves."""

import mindspore as ms

from ms_adam.backends import BACKENDS
from ms_adam.verify.cells import (  # noqa: F401  tests take these from here
    as_tensors,
    excess,
    make_optimizer,
    make_parameters,
    snapshot,
    to_numpy,
)


def set_mode(mode):
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)


def runs(backend, case, dtype, shapes):
    """Whether a backend can run a case; the optimizer itself must say the same."""
    formula_amsgrad = case.options.get("use_amsgrad", False)
    if backend != "primitive":
        return True
    return dtype == "float32" and not case.options.get("use_lazy") and not (
        formula_amsgrad and (() in shapes or case.options.get("use_nesterov", False)))


ALL_BACKENDS = tuple(BACKENDS)
