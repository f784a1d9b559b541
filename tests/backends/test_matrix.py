"""Every case x dtype x mode x backend against the float64 reference, element by element."""

import dataclasses
import functools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from running import (
    ALL_BACKENDS,
    DTYPES,
    SHAPES,
    excess,
    follow,
    make_optimizer,
    make_parameters,
    run,
    runs,
    set_mode,
    snapshot,
)

import ms_adam
from ms_adam import reference
from ms_adam.lab.studies.matrix.cases import (
    CASES,
    COLUMNS,
    SCALES,
    SCHEMES,
    is_refused,
    reference_for,
)
from ms_adam.lab.studies.matrix.cells import put


def excess_of(case, dtype, backend, shapes=SHAPES, **more):
    optimizer = make_optimizer(case, make_parameters(shapes, dtype), backend=backend)
    assert optimizer.backend == backend
    return excess(case, optimizer, **more)


def kinds(case):
    """Eight shapes and their dtypes, two for each dtype; MindSpore compiles one step for all.

    Every case has every dtype and shape, and three cases have every pair of them. `ms-adam
    validate` runs the full product.
    """
    first = CASES.index(case)
    pairs = [
        (SHAPES[(first + i + more) % len(SHAPES)], dtype)
        for i, dtype in enumerate(DTYPES)
        for more in (0, 3)
    ]
    return list(zip(*pairs))


def kinds_of_primitive(case):
    """MindSpore's kernels take float32, and that of AMSGrad no shape ()."""
    for dtype in DTYPES:
        if not runs("primitive", case, dtype, SHAPES):
            with pytest.raises(ValueError, match="backend='primitive' cannot run here"):
                make_optimizer(case, make_parameters(SHAPES, dtype), backend="primitive")
    for shapes in (SHAPES, [shape for shape in SHAPES if shape != ()]):
        if runs("primitive", case, "float32", shapes):
            return shapes, "float32"
    return None


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_steps_are_within_their_roundings_and_the_same_in_both_modes(case, backend):
    """Called from Python, `fused` is launched by address: it is also run as a part of a graph."""
    able = kinds_of_primitive(case) if backend == "primitive" else kinds(case)
    first = None
    for mode in ("graph", "pynative") if able else ():
        set_mode(mode)
        for compiled in (False, True) if backend == "fused" else (False,):
            optimizer = make_optimizer(case, make_parameters(*able), backend=backend)
            assert optimizer.backend == backend
            share = excess(case, optimizer, compiled=compiled)
            assert share <= 1.0, f"{mode}, compiled={compiled}"
            end = snapshot(optimizer)
            first = first or end
            np.testing.assert_equal(end, first, f"{mode}, compiled={compiled}")


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@pytest.mark.parametrize("number", range(len(SCHEMES)), ids=lambda i: SCHEMES[i].name)
def test_steps_of_schemes_are_within_their_roundings(number, column):
    """Four parameters, of the dtypes that a column does not refuse; one mode for each case."""
    set_mode(("graph", "pynative")[number % 2])
    case = SCHEMES[number]
    wide = ("bfloat16",) if case.options.get("master_weights") == "split" else DTYPES
    able = [dtype for dtype in wide if not is_refused(case, dtype, column)]
    shapes = [SHAPES[(number + i) % len(SHAPES)] for i in range(4)]
    dtypes = np.resize(able if able and column.complete else "float32", 4).tolist()
    parameters = make_parameters(shapes, dtypes)
    if not able or not runs(column.options["backend"], case, dtypes[0], shapes):
        with pytest.raises(ValueError, match="cannot run here|is for backend="):
            make_optimizer(case, parameters, **column.options)
        return
    optimizer = make_optimizer(case, parameters, **column.options)
    assert excess(case, optimizer, compiled=column.compiled, scale=SCALES) <= 1.0


def test_kinds_cover_every_pair():
    found = [set(zip(*kinds(case))) for case in CASES]
    for pairs in found:
        assert [set(them) for them in zip(*pairs)] == [set(SHAPES), set(DTYPES)]
    assert set().union(*found[:3]) == {(shape, dtype) for shape in SHAPES for dtype in DTYPES}


@functools.cache  # one compilation for all that steps with a case
def made(name, backend):
    """An optimizer of a case, and its state before the first step."""
    case = next(case for case in CASES if case.name == name)
    optimizer = make_optimizer(case, make_parameters(SHAPES, "float32"), backend=backend)
    return case, optimizer, snapshot(optimizer)


def excess_again(name, backend, **more):
    """`excess` of a float32 case from the first step on."""
    set_mode("graph")  # the same bits as in the other
    case, optimizer, start = made(name, backend)
    put(optimizer, start, 0)
    return excess(case, optimizer, **more)


@pytest.mark.parametrize("scale", [1e-4, 1e-8])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("case", CASES[:6], ids=lambda case: case.name)
def test_step_with_small_gradients(case, backend, scale):
    assert excess_again(case.name, backend, scale=scale) <= 1.0


@pytest.mark.parametrize(
    "backend, options",
    [
        *((backend, {}) for backend in ALL_BACKENDS),
        ("composite", {"flat_state": True}),
        ("composite", {"use_lazy": True}),
    ],
)
def test_an_epsilon_below_all_floats_still_prevents_0_by_0(backend, options):
    set_mode("graph")
    dtypes = ("float32",) if backend == "primitive" else DTYPES
    parameters = make_parameters([(2, 3)] * len(dtypes), dtypes)
    optimizer = ms_adam.Adam(parameters, eps=1e-60, backend=backend, **options)
    before = snapshot(optimizer).weights
    gradient = Tensor(np.eye(1, 6).reshape(2, 3), ms.float32)
    for _ in range(2):
        optimizer((gradient,) * len(parameters))
    for old, new in zip(before, snapshot(optimizer).weights):
        np.testing.assert_array_equal(new.flat[1:], old.flat[1:])


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("beta", ["beta1", "beta2"])
def test_a_decay_rate_that_float32_rounds_to_1(backend, beta):
    """The bias corrections make a mean of all gradients of it; three of them are far from 2^30."""
    set_mode("graph")
    options = {beta: 1.0 - 2.0**-30}
    optimizer = ms_adam.Adam(make_parameters([(3, 5)], "float32"), backend=backend, **options)
    start = snapshot(optimizer).weights
    expected = follow(reference.Adam(1e-3, **options), start, run(optimizer))
    # Steps of 1e-3 beside weights up to 4, whose rounding is 2^-23.
    np.testing.assert_allclose(snapshot(optimizer).weights, expected, rtol=0, atol=3 * 2.0**-22)


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
