"""Which MindSpore optimizer has the same formula as the reference, and which has not: measured.

Each optimizer follows its own float32 path, the reference is given the same gradients, and what is
between them must lie within what roundings alone explain (derived in `counterparts`).
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from ms_adam import reference
from ms_adam.lab.problems.functions import FUNCTIONS
from ms_adam.lab.studies.trajectories.counterparts import Counterpart, NoCounterpart, counterpart
from ms_adam.lab.studies.trajectories.following import compare, replay, walk

STEPS = 50
SAME = [
    reference.SGD(0.2),
    reference.Momentum(0.01, 0.9),
    reference.Momentum(0.01, 0.9, form="scaled"),
    reference.Nesterov(0.01, 0.9),
    reference.Nesterov(0.01, 0.0),
    reference.AdaGrad(0.5, eps=1e-8, epsilon="inside"),
    reference.AdaGrad(0.5, eps=1e-8, epsilon="inside", initial_accumulator=0.1),
    reference.RMSProp(0.1, 0.9, eps=1e-7, epsilon="inside", initial_mean_square=1.0),
    reference.RMSProp(0.1, 0.99, eps=1e-10, epsilon="inside", initial_mean_square=1.0),
    reference.Adam(0.2, 0.9, 0.99, 1e-7),
    reference.Adam(0.3, eps=1e-7, epsilon="hat"),
    reference.Adam(0.1, bias_correction=False),
    reference.Adam(0.1, amsgrad=True),
    reference.Adam(0.1, nesterov=True),
    reference.Adam(0.1, weight_decay=0.1, loss_scale=8.0),
    reference.Adam(0.1, weight_decay=0.1, decoupled=True, centralize=True),
    reference.AdaMax(0.1, 0.9, 0.99, 1e-7),
    reference.AdaMax(0.1, eps=0.0, weight_decay=0.1, centralize=True),
]


def path(build, scale=1.0, steps=STEPS):
    """Points and gradients of an optimizer on 0.2 x^2 + 2 y^2, its gradients times `scale`."""
    return walk(
        build, lambda w: scale * FUNCTIONS["sphere"].gradient(*w), [3, 4], steps, lambda _: None
    )


def facts(build, method, scale=1.0, computes=None, steps=STEPS):
    """`compare` of an optimizer with the formula that is said to be its."""
    found = counterpart(method)
    computes = dataclasses.replace(found, name="it", computes=computes or found.computes)
    return compare(computes, method, *path(build, scale, steps))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("method", SAME, ids=str)
def test_same_formula(method, scale):
    found = counterpart(method)
    assert found.same_formula
    measured = compare(found, method, *path(found.build, scale))
    assert measured["within_limit"], measured
    assert measured["steps_compared"] == STEPS
    # the methods differ by `centralize` at most, which does nothing to a vector
    assert measured["distance"] == measured["distance_to_method"]
    # float32 was at work: equal digits would say that the reference was compared with itself
    assert measured["distance"] > 0


@pytest.mark.parametrize("method", SAME, ids=str)
def test_a_wrong_formula_is_seen(method):
    """A learning rate that is off by one part in a hundred is out of the limit."""
    found = counterpart(method)
    wrong = dataclasses.replace(method, learning_rate=1.01 * method.learning_rate)
    measured = compare(dataclasses.replace(found, computes=wrong), wrong, *path(found.build))
    assert not measured["within_limit"]
    assert measured["share_of_limit"] > 1


@pytest.mark.parametrize(
    "method, changes",
    [
        (reference.Momentum(0.01, 0.9), {"rho": 0.901}),
        (reference.Nesterov(0.01, 0.9), {"rho": 0.901}),
        (reference.AdaGrad(0.5, 1e-8, "inside"), {"epsilon": "outside"}),
        (reference.AdaGrad(0.5, 1e-8, "inside"), {"eps": 2e-8}),
        (reference.RMSProp(0.1, 0.9, 1e-7, "inside", False, 1.0), {"beta": 0.901}),
        (reference.RMSProp(0.1, 0.9, 1e-7, "inside", False, 1.0), {"initial_mean_square": 0.99}),
        (reference.Adam(0.2, 0.9, 0.99, 1e-7), {"epsilon": "hat"}),
        (reference.Adam(0.2, 0.9, 0.99, 1e-7), {"epsilon": "inside"}),
        (reference.Adam(0.2, 0.9, 0.99, 1e-7), {"beta2": 0.991}),
    ],
    ids=str,
)
def test_every_number_of_a_formula_is_seen(method, changes):
    """With gradients down to 1e-6, where epsilon weighs."""
    found = counterpart(method)
    wrong = dataclasses.replace(found, computes=dataclasses.replace(method, **changes))
    assert any(
        not compare(wrong, method, *path(found.build, scale))["within_limit"]
        for scale in (1.0, 1e-4, 1e-6)
    )


# Where MindSpore has NOT the formula. "about" is within a tenth of the distance that was measured
# with MindSpore 2.10 on the CPU: a release that changes it must change what is said of it.


def about(distance):
    return pytest.approx(distance, rel=0.1)


def test_momentum_ignores_use_nesterov():
    def build(parameters):
        return nn.Momentum(parameters, 0.01, 0.9, use_nesterov=True)

    nesterov, momentum = reference.Nesterov(0.01, 0.9), reference.Momentum(0.01, 0.9)
    assert facts(build, nesterov)["distance_to_method"] == about(0.52)
    assert not facts(build, nesterov)["within_limit"]
    assert facts(build, momentum)["within_limit"]


def test_rmsprop_starts_its_mean_square_at_1():
    method = reference.RMSProp(0.1, 0.9, eps=1e-7, epsilon="inside")
    found = counterpart(method)
    assert found.name == "mindspore.nn.RMSProp" and not found.same_formula
    assert found.differences == "its mean square starts at 1"
    measured = compare(found, method, *path(found.build))
    assert measured["within_limit"]
    assert measured["distance_to_method"] == about(0.86)
    assert not facts(found.build, method, computes=method)["within_limit"]


def test_rmsprop_has_epsilon_inside_the_root():
    method = reference.RMSProp(0.1, 0.9, eps=1e-7, initial_mean_square=1.0)
    assert counterpart(method).differences == "its epsilon stands inside the root"
    # the mean square, 0.9^50 = 0.005 at the end, is large against both: little to see
    build = counterpart(method).build
    assert facts(build, method)["within_limit"]
    # after 250 steps it is 4e-12, far below epsilon
    measured = facts(build, method, scale=1e-6, steps=250)
    assert measured["within_limit"]
    assert measured["distance_to_method"] > 100 * measured["distance"]


def test_adagrad_has_an_epsilon_of_its_own():
    """1e-8 inside the root: a first gradient of 1e-4 makes 0.707 of a step, not a whole one."""
    method = reference.AdaGrad(0.5, eps=1e-7)
    found = counterpart(method)
    assert found.name == "mindspore.nn.Adagrad"
    assert found.differences == "its epsilon is 1e-8, inside the root"
    points, gradients = walk(
        found.build, lambda w: np.array([1e-4, 0.0]), [0, 0], 1, lambda _: None
    )
    assert points[1].tolist() == [pytest.approx(-0.5 / np.sqrt(2), rel=4 * 2.0**-24), 0.0]
    assert replay(method, points[0], gradients)[1][0] == pytest.approx(-0.5, rel=2e-3)


def test_nn_adam_is_epsilon_hat():
    def build(parameters):
        return nn.Adam(parameters, learning_rate=0.2, beta1=0.9, beta2=0.99, eps=1e-7)

    paper, hat = (reference.Adam(0.2, 0.9, 0.99, 1e-7, epsilon) for epsilon in ("outside", "hat"))
    # Gradients of 1e-6 are ten epsilons. nn.Adam multiplies powers of beta in float32, and takes
    # 1 - 0.99 in float32: off by 1e-6 of itself, some roundings more than ours; hence not
    # `within_limit` but a thousandth of the distance to the paper's formula.
    measured = facts(build, paper, scale=1e-6)
    to_hat = facts(build, hat, scale=1e-6)
    assert not measured["within_limit"]
    assert measured["distance"] == about(0.78)
    assert to_hat["distance"] < 1e-3 * measured["distance"]


def test_adam_inside_the_root_is_said_not_to_be_ours():
    method = reference.Adam(0.2, 0.9, 0.99, 1e-7, "inside")
    found = counterpart(method)
    assert found.name == "ms_adam.Adam"
    assert found.differences == "its epsilon stands outside the root"
    measured = compare(found, method, *path(found.build))
    # sqrt(v + e) - sqrt(v) = e / 2 sqrt(v), and both are below a rounding of v of size 1
    assert measured["distance_to_method"] < 1e-6
    assert compare(found, method, *path(found.build, 1e-4))["distance_to_method"] > 0.1


@pytest.mark.parametrize(
    "method, word",
    [
        (reference.Momentum(form="ema"), "moving average"),
        (reference.Nesterov(form="sutskever"), "'torch'"),
        (reference.RMSProp(eps=0.0), "epsilon of 0"),
        (reference.RMSProp(centered=True), "variance"),
        (object(), "no method of ms_adam.reference"),
    ],
)
def test_no_counterpart_has_a_reason(method, word):
    found = counterpart(method)
    assert isinstance(found, NoCounterpart) and word in found.reason


def test_every_method_has_a_word_said_about_it():
    methods = [
        cls
        for cls in vars(reference).values()
        if isinstance(cls, type)
        and issubclass(cls, reference.Method)
        and cls is not reference.Method
    ]
    assert len(methods) == 7
    assert all(isinstance(counterpart(method()), Counterpart) for method in methods)


def test_a_path_out_of_float32_is_compared_while_it_is_finite():
    method = reference.SGD(1e6)
    found = counterpart(method)
    measured = compare(found, method, *path(found.build))
    assert 0 < measured["steps_compared"] < STEPS
    assert measured["within_limit"] and np.isfinite(measured["distance"])


def test_the_mode_of_the_process_is_put_back(mode):
    before = ms.get_context("mode")
    path(counterpart(reference.SGD(0.1)).build, steps=1)
    assert ms.get_context("mode") == before
