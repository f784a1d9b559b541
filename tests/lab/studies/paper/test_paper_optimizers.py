"""Each optimizer of the figures against float64, on the same gradients."""

import mindspore as ms
import numpy as np
import pytest
from lab.studies.paper.paper_figures import SETTINGS
from mindspore import Parameter, Tensor

from ms_adam import reference
from ms_adam.lab.studies.paper import optimizers
from ms_adam.state import write

STEPS = 30
RATE = 0.05


@pytest.fixture(autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE, pynative_synchronize=True)


class AdaDelta:
    """Zeiler 2012, Algorithm 1, times a learning rate."""

    def __init__(self, rate, rho, epsilon):
        self.rate, self.rho, self.epsilon = rate, rho, epsilon

    def init(self, w):
        return np.zeros_like(w), np.zeros_like(w)

    def step(self, w, g, state):
        squares, updates = state
        squares = self.rho * squares + (1 - self.rho) * g**2
        update = np.sqrt(updates + self.epsilon) / np.sqrt(squares + self.epsilon) * g
        updates = self.rho * updates + (1 - self.rho) * update**2
        return w - self.rate * update, (squares, updates)


# The published formula, and another one.
METHODS = {
    "Adam": (reference.Adam(RATE), reference.Adam(RATE, epsilon="hat")),
    "SGD Nesterov": (reference.Nesterov(RATE, 0.9), reference.Momentum(RATE, 0.9)),
    # The other one is nn.Adagrad's.
    "AdaGrad": (reference.AdaGrad(RATE, 1e-10), reference.AdaGrad(RATE, 1e-8, "inside")),
    "RMSProp": (
        reference.RMSProp(RATE, 0.9, 1e-16, "inside"),
        reference.RMSProp(RATE, 0.9, 1e-16, "inside", initial_mean_square=1.0),
    ),
    "AdaDelta": (AdaDelta(RATE, 0.95, 1e-6), AdaDelta(RATE, 0.9, 1e-6)),
    "nn.Adam": (reference.Adam(RATE, epsilon="hat"), reference.Adam(RATE)),
    "AdaMax": (reference.AdaMax(RATE, 0.9, 0.999, 1e-8), reference.AdaMax(RATE, 0.9, 0.99, 1e-8)),
}


def gradients():
    """Of sizes 1 to 1e-6, as those of networks have, with zeros among them."""
    random = np.random.default_rng(0)
    sizes = 10.0 ** -np.arange(7)
    found = random.standard_normal((STEPS, 7)) * sizes
    found[:, 3] *= random.random(STEPS) < 0.3
    found[:5, 4] = 0
    return found.astype(np.float32)


def through_mindspore(name, decay="none"):
    weights = Parameter(Tensor(np.zeros(7, np.float32)), name="w")
    optimizer = optimizers.build(name, [weights], SETTINGS[name], decay)
    optimizer.set_learning_rate(RATE)
    for gradient in gradients():
        optimizer.step([gradient])
    return optimizer.weights()[0].astype(np.float64)


def in_float64(method, decay="none"):
    w = np.zeros(7)
    state, way = method.init(w), np.zeros(7)
    for number, gradient in enumerate(gradients().astype(np.float64), 1):
        after, state = method.step(w, gradient, state)
        change = (after - w) / (np.sqrt(number) if decay == "inverse sqrt" else 1)
        w = w + change
        way += np.abs(change)
    return w, way


def tolerance(name, way):
    """A bound on the effect of roundings, too large by a small factor.

    In step t each change is off by 2^-24 times the number of roundings before it: at most about
    16 + 1 / (1 - beta) x 5 for a moving average, since beta 0.999 in float32 is off by
    2^-24 / 0.001 of 1 - beta. The weight is rounded once more, to at most 2^-24 of its movement.
    """
    adam = 1000 * (1 - 0.999**STEPS)
    averages = {"Adam": adam, "nn.Adam": adam, "AdaMax": STEPS, "AdaGrad": STEPS}
    steps = {**averages, "SGD Nesterov": 10, "RMSProp": 10, "AdaDelta": 2 * 20}[name]
    return 2.0**-24 * (16 + 5 * steps + STEPS) * way


@pytest.mark.parametrize("decay", ["none", "inverse sqrt"])
@pytest.mark.parametrize("name", METHODS)
def test_computes_the_published_formula_and_no_other(name, decay):
    found = through_mindspore(name, decay)
    for method, explains in zip(METHODS[name], (True, False)):
        wanted, way = in_float64(method, decay)
        assert np.all(np.abs(found - wanted) <= tolerance(name, way)) == explains


@pytest.mark.parametrize("name", METHODS)
def test_a_schedule_counts_from_the_first_step_again(name):
    weights = Parameter(Tensor(np.zeros(7, np.float32)), name="w")
    optimizer = optimizers.build(name, [weights], SETTINGS[name], "inverse sqrt")
    first = optimizer.save_state()
    found = []
    for rate in (RATE, RATE, 2 * RATE):
        write(weights, np.zeros(7, np.float32), host=False)
        optimizer.restore_state(first)
        optimizer.set_learning_rate(rate)
        for gradient in gradients()[:3]:
            optimizer.step([gradient])
        found.append(optimizer.weights()[0].copy())
    assert np.array_equal(found[0], found[1]) and np.any(found[0])
    np.testing.assert_allclose(found[2], 2 * found[0], rtol=1e-5)  # 3 steps, each of 3 roundings
