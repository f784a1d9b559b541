"""Every case x dtype x mode x backend against the float64 reference, element by element."""

import dataclasses

import numpy as np
import pytest
from running import (
    ALL_BACKENDS,
    adam_state,
    as_tensors,
    kernel_betas,
    make_optimizer,
    make_parameters,
    runs,
    snapshot,
)

from ms_adam.verify.cases import CASES, DTYPES, SHAPES, gradients, reference_for
from ms_adam.verify.ulp import step_bounds

STEPS = 4


def excess(case, dtype, backend, reference=None, shapes=SHAPES, scale=1.0, **more):
    """The largest error of any element in any step, as a multiple of its bound.

    Each step of the reference starts from the state that the optimizer really left, so that a
    bound for one step holds, and errors of several steps do not hide each other.
    """
    right = reference_for(case)
    adam = reference or right
    parameters = make_parameters(shapes, dtype)
    optimizer = make_optimizer(case, parameters, backend=backend, **more)
    assert optimizer.backend == backend
    worst = 0.0
    scale = scale * case.options.get("loss_scale", 1.0)
    for step, arrays in enumerate(gradients(shapes, STEPS, scale)):
        tensors, exact = as_tensors(arrays, dtype)
        before = snapshot(optimizer)
        optimizer(tensors)
        after = snapshot(optimizer)
        for i, gradient in enumerate(exact):
            start = adam_state(step, before, i)
            weight, state = adam.step(before[0][i], gradient, start)
            bounds = step_bounds(right, gradient, start, state, before[0][i], weight,
                                 dtype=dtype, kernel_betas=kernel_betas(backend, right))
            for got, want, bound in zip((after[1][i], after[2][i], after[0][i]),
                                        (state.moment1, state.moment2, weight), bounds):
                assert got.shape == want.shape
                assert np.all(np.isfinite(want)) and np.all(np.isfinite(bound))
                if got.size:
                    ratio = np.abs(got - want) / bound
                    worst = max(worst, np.max(np.where(np.isnan(ratio), np.inf, ratio)))
    return worst


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_step_is_within_its_roundings(case, dtype, backend, mode):
    shapes = SHAPES
    if not runs(backend, case, dtype, shapes):
        with pytest.raises(ValueError, match=f"backend='{backend}' cannot run here"):
            make_optimizer(case, make_parameters(shapes, dtype), backend=backend)
        shapes = [shape for shape in SHAPES if shape != ()]
        if not runs(backend, case, dtype, shapes):
            return
    assert excess(case, dtype, backend, shapes=shapes) <= 1.0


@pytest.mark.parametrize("scale", [1e-4, 1e-8])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("case", CASES[:6], ids=lambda case: case.name)
def test_step_with_small_gradients(case, backend, scale, mode):
    assert excess(case, "float32", backend, scale=scale) <= 1.0


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
}


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_bounds_catch_a_wrong_formula(name, backend):
    case_name, change = MUTANTS[name]
    case = next(case for case in CASES if case.name == case_name)
    wrong = reference_for(case)
    for field, value in change.items():
        object.__setattr__(wrong, field, value)  # past the checks: a negative rate is refused
    assert dataclasses.is_dataclass(wrong)
    assert excess(case, "float32", backend, reference=wrong) > 2.0


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_modes_give_the_same_bits(case, dtype, backend):
    from running import set_mode
    shapes = [shape for shape in SHAPES if shape != ()] if backend == "primitive" else SHAPES
    if not runs(backend, case, dtype, shapes):
        return
    left = []
    for mode in ("graph", "pynative"):
        set_mode(mode)
        optimizer = make_optimizer(case, make_parameters(shapes, dtype), backend=backend)
        for arrays in gradients(shapes, 3):
            optimizer(as_tensors(arrays, dtype)[0])
        left.append(snapshot(optimizer))
    for graph, pynative in zip(*left):
        for a, b in zip(graph or (), pynative or ()):
            np.testing.assert_array_equal(a, b)
