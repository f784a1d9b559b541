"""Every case x dtype x mode x backend against the float64 reference, element by element."""

import dataclasses
import functools

import mindspore as ms
import numpy as np
import pytest
from running import (
    ALL_BACKENDS,
    DTYPES,
    SHAPES,
    excess,
    make_optimizer,
    make_parameters,
    runs,
    set_mode,
    snapshot,
)

from ms_adam.lab.studies.matrix.cases import CASES, reference_for
from ms_adam.lab.studies.matrix.cells import put


def excess_of(case, dtype, backend, shapes=SHAPES, **more):
    optimizer = make_optimizer(case, make_parameters(shapes, dtype), backend=backend)
    assert optimizer.backend == backend
    return excess(case, dtype, optimizer, **more)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_steps_are_within_their_roundings_and_the_same_in_both_modes(case, dtype, backend):
    """Called from Python, `fused` is launched by address: it is also run as a part of a graph."""
    shapes = SHAPES
    if not runs(backend, case, dtype, shapes):
        with pytest.raises(ValueError, match=f"backend='{backend}' cannot run here"):
            make_optimizer(case, make_parameters(shapes, dtype), backend=backend)
        shapes = [shape for shape in SHAPES if shape != ()]
        if not runs(backend, case, dtype, shapes):
            return
    first = None
    for mode in ("graph", "pynative"):
        set_mode(mode)
        for compiled in (False, True) if backend == "fused" else (False,):
            optimizer = make_optimizer(case, make_parameters(shapes, dtype), backend=backend)
            assert optimizer.backend == backend
            share = excess(case, dtype, optimizer, compiled=compiled)
            assert share <= 1.0, f"{mode}, compiled={compiled}"
            end = snapshot(optimizer)
            first = first or end
            np.testing.assert_equal(end, first, f"{mode}, compiled={compiled}")


@functools.cache  # one compilation for all that steps with a case
def made(name, backend, mode):
    """An optimizer of a case, and its state before the first step."""
    case = next(case for case in CASES if case.name == name)
    optimizer = make_optimizer(case, make_parameters(SHAPES, "float32"), backend=backend)
    return case, optimizer, snapshot(optimizer)


def excess_again(name, backend, **more):
    """`excess` of a float32 case from the first step on."""
    case, optimizer, start = made(name, backend, ms.get_context("mode"))
    put(optimizer, start, 0)
    return excess(case, "float32", optimizer, **more)


@pytest.mark.parametrize("scale", [1e-4, 1e-8])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("case", CASES[:6], ids=lambda case: case.name)
def test_step_with_small_gradients(case, backend, scale, mode):
    assert excess_again(case.name, backend, scale=scale) <= 1.0


MUTANTS = {
    "epsilon moved": ("large epsilon", {"epsilon": "hat"}),
    "epsilon inside": ("large epsilon", {"epsilon": "inside"}),
    "not corrected": ("default", {"bias_correction": False}),
    "beta1": ("default", {"beta1": 0.9001}),
    "beta2": ("default", {"beta2": 0.99901}),
    "betas exchanged": ("short memory", {"beta1": 0.9, "beta2": 0.5}),
    "nesterov forgotten": ("nesterov", {"nesterov": False}),
    "nesterov too much": ("default", {"nesterov": True}),
    "decay forgotten": ("weight decay", {"weight_decay": 0.0}),
    "decay coupled": ("AdamW", {"decoupled": False}),
    "decay decoupled": ("weight decay", {"decoupled": True}),
    "loss scale forgotten": ("loss scale", {"loss_scale": 1.0}),
    "sign": ("default", {"learning_rate": -1e-3}),
    "learning rate": ("default", {"learning_rate": 1.0001e-3}),
    "eps": ("large epsilon", {"eps": 1.001e-2}),
    "AdaMax: beta1": ("AdaMax", {"beta1": 0.9001}),
    "AdaMax: beta2": ("AdaMax", {"beta2": 0.998}),
    "AdaMax: eps": ("AdaMax large epsilon", {"eps": 1.001e-2}),
    "AdaMax: decay forgotten": ("AdaMax", {"weight_decay": 0.0}),
    "maximize forgotten": ("maximize", {"maximize": False}),
    "decay maximized": ("maximize", {"weight_decay": -0.1}),
}


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_bounds_catch_a_wrong_formula(name, backend):
    case_name, change = MUTANTS[name]
    case = next(case for case in CASES if case.name == case_name)
    if not runs(backend, case, "float32", SHAPES):
        return
    wrong = reference_for(case)
    for field, value in change.items():
        object.__setattr__(wrong, field, value)  # past the checks: a negative rate is refused
    assert dataclasses.is_dataclass(wrong)
    assert excess_again(case_name, backend, adam_of=lambda *_: wrong) > 2.0
