"""The promise in figures: distance to Algorithm 1, to epsilon-hat, and to `nn.Adam` itself."""

import functools
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from backends.test_matrix import excess_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mindspore import nn
from running import ALL_BACKENDS, DTYPES, runs, set_mode

import ms_adam
from ms_adam import reference
from ms_adam.compat import HAS_AMSGRAD_KERNEL, has_shape
from ms_adam.lab.measure import relative_distance
from ms_adam.lab.studies.matrix.accuracy import (
    SCALES,
    SIZE,
    STEPS,
    of_cann,
    of_mindspore,
    of_reference,
)
from ms_adam.lab.studies.matrix.cases import Case

LIMIT = 3e-6
RATE = float(np.float32(1e-3))


@pytest.mark.parametrize("epsilon_hat", [False, True])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_distance_to_the_formula(backend, epsilon_hat):
    """Gradients of all sizes in one tensor, in one mode: test_matrix holds both to one another."""
    set_mode("graph")
    scales = np.resize(SCALES, SIZE)
    places = of_mindspore(
        lambda params: ms_adam.Adam(params, epsilon_hat=epsilon_hat, backend=backend), scales
    )
    method = reference.Adam(RATE, epsilon="hat" if epsilon_hat else "outside")
    for got, wanted in zip(places, of_reference(method, scales)):
        for scale in SCALES:
            same = scales == scale
            assert relative_distance(got[same], wanted[same]) <= LIMIT


@pytest.mark.parametrize("scale, least", list(zip(SCALES, (LIMIT, 1e-2, 0.5))))
def test_nn_adam_is_not_the_formula_that_it_documents(scale, least):
    """What the limit above would say of `nn.Adam`: the measurement is able to fail."""
    (place,) = of_mindspore(nn.Adam, scale, steps=(10,))
    (wanted,) = of_reference(reference.Adam(RATE), scale, steps=(10,))
    assert relative_distance(place, wanted) > least


def test_the_table_of_canns_arithmetic_is_what_the_reference_gives():
    page = Path(__file__).parents[4] / "docs" / "formulas.md"
    head = ("dtype", "gradients", *(f"{t} steps" for t in STEPS))
    table = [f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *of_cann())]
    assert "".join(table) in page.read_text(encoding="utf-8")


# nn.Adam multiplies float32 powers of beta up, step by step, and its 1 - 0.999 is off by 1.3e-5.
# Where epsilon-hat is larger than the root of the moment, its step carries half of that: 6.5e-6.
NN_ADAM = {
    "default": {},
    "nesterov": {"use_nesterov": True},
    "amsgrad": {"use_amsgrad": True},
    "decay": {"weight_decay": 0.01},
    "locking": {"use_locking": True},
    "loss scale": {"loss_scale": 1024.0},
    "betas": {"beta1": 0.8, "beta2": 0.99},
    "eps": {"eps": 1e-3},
    "schedule": {"learning_rate": [1e-3, 2e-3] * 500},
    "all": {
        "use_nesterov": True,
        "weight_decay": 0.01,
        "loss_scale": 1024.0,
        "eps": 1e-6,
        "use_locking": True,
    },
}


# An error of those powers is there from the first step.
STEPS_OF = {name: STEPS if name == "default" else STEPS[:3] for name in NN_ADAM}


@functools.cache  # for all our backends
def nn_adam_takes_it_to(name, scale):
    return of_mindspore(lambda params: nn.Adam(params, **NN_ADAM[name]), scale, STEPS_OF[name])


@pytest.mark.parametrize("name", NN_ADAM)
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_epsilon_hat_gives_the_numbers_of_nn_adam(backend, name):
    set_mode("graph")
    options = NN_ADAM[name]
    if backend == "primitive" and name == "amsgrad" and not HAS_AMSGRAD_KERNEL:
        with pytest.raises(ValueError, match=f"kernel of MindSpore {ms.__version__} has one eps"):
            of_mindspore(lambda params: ms_adam.Adam(params, backend=backend, **options), 1.0)
        return
    scale = options.get("loss_scale", 1.0)
    ours = of_mindspore(
        lambda params: ms_adam.Adam(params, epsilon_hat=True, backend=backend, **options),
        scale,
        STEPS_OF[name],
    )
    for got, wanted in zip(ours, nn_adam_takes_it_to(name, scale)):
        assert relative_distance(got, wanted) <= 1e-5


BETAS = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999]
DRAWN = {
    "learning_rate": [1e-5, 1e-3, 0.1],
    "beta1": BETAS,
    "beta2": BETAS,
    "eps": [1e-12, 1e-8, 1e-3],
    "bias_correction": [False, True],
    "weight_decay": [0.0, 0.01],
    "loss_scale": [1.0, 3.0, 128.0],
    **dict.fromkeys(("epsilon_hat", "use_nesterov", "use_amsgrad"), [False, True]),
}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_call_is_within_its_roundings(data):
    """Shapes, dtypes, scales and options drawn at random, each step within its bound."""

    def draw(name, values):
        return data.draw(st.sampled_from(values), label=name)

    backend, dtype = draw("backend", ALL_BACKENDS), draw("dtype", DTYPES)
    shape = st.lists(st.integers(0, 5), max_size=3).map(tuple).filter(has_shape)
    shapes = data.draw(st.lists(shape, min_size=1, max_size=3), label="shapes")
    options = {name: draw(name, values) for name, values in DRAWN.items()}
    case = Case("drawn", draw("optimizer", ["Adam", "AdamW"]), options)
    scale = draw("scale", [1.0, 1e-3, 1e-6])
    if dtype == "float16":
        scale = max(scale, 1e-3)  # smaller gradients are no float16 numbers
    if runs(backend, case, dtype, shapes):
        assert excess_of(case, dtype, backend, shapes, scale=scale) <= 1.0
