"""Which MindSpore optimizer has the same formula as the reference, and which does not: measured.

Each optimizer follows its own float32 path, the reference is given the same gradients, and what is
between them must lie within what roundings alone explain (`measure.path_bounds`).
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from ms_adam import reference
from ms_adam.lab.problems.functions import Function
from ms_adam.lab.studies.trajectories.config import Place
from ms_adam.lab.studies.trajectories.counterparts import Counterpart, counterpart
from ms_adam.lab.studies.trajectories.following import Walk, compare, replay
from ms_adam.lab.studies.trajectories.methods import METHODS

STEPS = 50
RMSPROP = reference.RMSProp(0.1, 0.9, 1e-7, "inside", initial_mean_square=1.0)
ADAGRAD = reference.AdaGrad(0.5, 1e-8, "inside")
ADAM = reference.Adam(0.2, 0.9, 0.99, 1e-7)
SAME = [
    reference.SGD(0.2),
    reference.Momentum(0.01, 0.9),
    reference.Momentum(0.01, 0.9, form="scaled"),
    reference.Nesterov(0.01, 0.9),
    reference.Nesterov(0.01, 0.0),
    ADAGRAD,
    dataclasses.replace(ADAGRAD, initial_accumulator=0.1),
    RMSPROP,
    dataclasses.replace(RMSPROP, beta=0.99, eps=1e-10),
    ADAM,
    reference.Adam(0.3, eps=1e-7, epsilon="hat"),
    reference.Adam(0.1, bias_correction=False),
    reference.Adam(0.1, amsgrad=True),
    reference.Adam(0.1, nesterov=True),
    reference.Adam(0.1, weight_decay=0.1, loss_scale=8.0),
    reference.Adam(0.1, weight_decay=0.1, decoupled=True, centralize=True),
    reference.AdaMax(0.1, 0.9, 0.99, 1e-7),
    reference.AdaMax(0.1, eps=0.0, weight_decay=0.1, centralize=True),
]


def path(build, scale=1.0, steps=STEPS, slopes=lambda x, y: (0.4 * x, 4 * y)):
    """Points and gradients of an optimizer on 0.2 x^2 + 2 y^2, its gradients times `scale`."""
    place = Place(function="sphere", start=[3, 4], x=[-5, 5], y=[-5, 5])
    function = Function("", np.add, lambda x, y: scale * np.array(slopes(x, y)))
    points, _, gradients = Walk(place, function, steps).mindspore(build, lambda _: None)
    return points, gradients


def facts(method, scale=1.0, computes=None, steps=STEPS, build=None):
    """`compare` of a method's counterpart, or another one, with what it is said to compute."""
    found = counterpart(method)
    one = dataclasses.replace(found, computes=computes or found.computes)
    return compare(one, method, *path(build or found.build, scale, steps))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("method", SAME, ids=str)
def test_same_formula(method, scale):
    measured = facts(method, scale)
    assert measured["same_formula"] and measured["within_limit"], measured
    assert measured["steps_compared"] == STEPS
    # the methods differ by `centralize` at most, which does nothing to a vector
    assert measured["distance"] == measured["distance_to_method"]
    # float32 was at work: equal digits would say that the reference was compared with itself
    assert measured["distance"] > 0


@pytest.mark.parametrize("method", SAME, ids=str)
def test_a_wrong_formula_is_seen(method):
    """A learning rate that is off by one part in a hundred is out of the limit."""
    wrong = dataclasses.replace(method, learning_rate=1.01 * method.learning_rate)
    measured = facts(method, computes=wrong)
    assert not measured["within_limit"] and measured["share_of_limit"] > 1


@pytest.mark.parametrize(
    "method, changes",
    [
        (reference.Momentum(0.01, 0.9), {"rho": 0.901}),
        (reference.Nesterov(0.01, 0.9), {"rho": 0.901}),
        (ADAGRAD, {"epsilon": "outside"}),
        (ADAGRAD, {"eps": 2e-8}),
        (RMSPROP, {"beta": 0.901}),
        (RMSPROP, {"initial_mean_square": 0.99}),
        (ADAM, {"epsilon": "hat"}),
        (ADAM, {"epsilon": "inside"}),
        (ADAM, {"beta2": 0.991}),
    ],
    ids=str,
)
def test_every_number_of_a_formula_is_seen(method, changes):
    """With gradients down to 1e-6, where epsilon weighs."""
    wrong = dataclasses.replace(method, **changes)
    measured = (facts(method, scale, wrong) for scale in (1.0, 1e-4, 1e-6))
    assert not all(it["within_limit"] for it in measured)


# Where MindSpore lacks the formula. "about" is within a tenth of the distance that was measured
# with MindSpore 2.10 on the CPU: a release that changes it must change what is said of it.


def about(distance):
    return pytest.approx(distance, rel=0.1)


def test_momentum_ignores_use_nesterov():
    def build(parameters):
        return nn.Momentum(parameters, 0.01, 0.9, use_nesterov=True)

    nesterov, momentum = reference.Nesterov(0.01, 0.9), reference.Momentum(0.01, 0.9)
    measured = facts(nesterov, build=build)
    assert measured["distance_to_method"] == about(0.52) and not measured["within_limit"]
    assert facts(momentum, build=build)["within_limit"]


STARTS_AT_1, INSIDE = "its mean square starts at 1", "its epsilon stands inside the root"
FROM_0, OUTSIDE = (
    dataclasses.replace(RMSPROP, **changes)
    for changes in ({"initial_mean_square": 0.0}, {"epsilon": "outside"})
)
OWN_EPSILON = reference.AdaGrad(0.5, eps=1e-7)
ADAM_INSIDE = dataclasses.replace(ADAM, epsilon="inside")


@pytest.mark.parametrize(
    "method, name, differences",
    [
        (FROM_0, "mindspore.nn.RMSProp", STARTS_AT_1),
        (OUTSIDE, "mindspore.nn.RMSProp", INSIDE),
        (reference.RMSProp(0.1, 0.9, 1e-7), "mindspore.nn.RMSProp", f"{STARTS_AT_1}, {INSIDE}"),
        (OWN_EPSILON, "mindspore.nn.Adagrad", "its epsilon is 1e-8, inside the root"),
        (ADAM_INSIDE, "ms_adam.Adam", "its epsilon stands outside the root"),
    ],
)
def test_differences_are_said(method, name, differences):
    found = counterpart(method)
    assert (found.name, found.differences) == (name, differences)
    measured = facts(method)
    assert measured["within_limit"] and not measured["same_formula"]


def test_rmsprop_starts_its_mean_square_at_1():
    assert facts(FROM_0)["distance_to_method"] == about(0.86)
    assert not facts(FROM_0, computes=FROM_0)["within_limit"]


def test_rmsprop_has_epsilon_inside_the_root():
    # The mean square, 0.9^50 = 0.005 at the end, is large against both epsilons at first: little to
    # see. After 250 steps it is 4e-12, far below epsilon.
    measured = facts(OUTSIDE, scale=1e-6, steps=250)
    assert measured["within_limit"]
    assert measured["distance_to_method"] > 100 * measured["distance"]


def test_adagrad_has_an_epsilon_of_its_own():
    """1e-8 inside the root: a first gradient of 1e-4 makes 0.707 of a step, not a whole one."""
    build = counterpart(OWN_EPSILON).build
    points, gradients = path(build, steps=1, slopes=lambda x, y: (1e-4, 0 * y))
    # the weight is 3, whose roundings are those of a number in [2, 4)
    assert points[1].tolist() == [pytest.approx(3 - 0.5 / np.sqrt(2), abs=4 * 2.0**-23), 4.0]
    assert replay(OWN_EPSILON, points[0], gradients)[1][0] == pytest.approx(2.5, abs=1e-3)


def test_nn_adam_is_epsilon_hat():
    def build(parameters):
        return nn.Adam(parameters, learning_rate=0.2, beta1=0.9, beta2=0.99, eps=1e-7)

    paper, hat = (reference.Adam(0.2, 0.9, 0.99, 1e-7, epsilon) for epsilon in ("outside", "hat"))
    # Gradients of 1e-6 are ten epsilons. nn.Adam multiplies powers of beta in float32, and takes
    # 1 - 0.99 in float32: off by 1e-6 of itself, some roundings more than ours; hence not
    # `within_limit` but a thousandth of the distance to the paper's formula.
    measured, to_hat = (facts(method, scale=1e-6, build=build) for method in (paper, hat))
    assert not measured["within_limit"]
    assert measured["distance"] == about(0.78)
    assert to_hat["distance"] < 1e-3 * measured["distance"]


def test_adam_inside_the_root_is_said_not_to_be_ours():
    # sqrt(v + e) - sqrt(v) = e / 2 sqrt(v), and both are below a rounding of v of size 1
    assert facts(ADAM_INSIDE)["distance_to_method"] < 1e-6
    assert facts(ADAM_INSIDE, 1e-4)["distance_to_method"] > 0.1


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
    assert word in counterpart(method)


def test_every_method_has_a_word_said_about_it():
    assert len(METHODS) == 7
    assert all(isinstance(counterpart(method()), Counterpart) for method in METHODS.values())


def test_a_path_out_of_float32_is_compared_while_it_is_finite():
    measured = facts(reference.SGD(1e6))
    assert 0 < measured["steps_compared"] < STEPS
    assert measured["within_limit"] and np.isfinite(measured["distance"])


def test_the_mode_of_the_process_is_put_back(mode):
    before = ms.get_context("mode")
    path(counterpart(reference.SGD(0.1)).build, steps=1)
    assert ms.get_context("mode") == before
