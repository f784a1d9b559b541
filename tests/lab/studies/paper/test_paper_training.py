"""A run is the paper's, and one compiled step serves all runs."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from lab.studies.paper.paper_figures import DROPOUT, SETTINGS, contender, figure

from ms_adam import reference
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.studies.paper.config import Contender, scale_of
from ms_adam.lab.studies.paper.data import Examples
from ms_adam.lab.studies.paper.training import Trainer

ROWS, INPUTS, CLASSES = 60, 5, 3


@pytest.fixture(autouse=True)
def graph():
    ms.set_context(mode=ms.GRAPH_MODE)


def examples():
    random = np.random.default_rng(7)
    inputs = random.standard_normal((ROWS, INPUTS)).astype(np.float32)
    labels = np.argmax(inputs[:, :CLASSES], axis=1).astype(np.int32)
    return Examples((inputs, labels), (1, 1, INPUTS), CLASSES, "made up")


def trainer(name="Adam", settings=(), **changes):
    small, of_name = figure(**changes), Contender.model_validate(contender(name, **dict(settings)))
    given = dataclasses.replace(examples(), held_out=small.held_out or 0)
    return small, Trainer(small, scale_of(small, "quick"), small.variants[0], of_name, given)


def costs(one, rate, seed):
    return one.run(rate, seed, lambda done: None).costs


def steps_in_float64(small, method, rate, seed, arrays, count):
    """Softmax regression with L2 and alpha / sqrt(t): the costs before steps, the weights after."""
    parameters = [np.zeros((CLASSES, INPUTS)), np.zeros(CLASSES)]
    states = [method.init(p) for p in parameters]
    batches = Batches(arrays, small.batch_size, seed)
    for t, (x, y) in enumerate(batches.steps(0, count), start=1):
        cost, gradients = softmax_cost(small, x, y, *parameters)
        scale = 1 / np.sqrt(t) if small.decay == "inverse sqrt" else 1.0
        for i, g in enumerate(gradients):
            parameters[i], states[i] = method.step(
                parameters[i], g, states[i], learning_rate=rate * scale
            )
        yield cost, list(parameters)


def in_float64(small, method, rate, seed):
    """The costs of a run."""
    steps = steps_in_float64(small, method, rate, seed, examples().arrays, 9)
    found = [cost for cost, _ in steps]
    return np.append(found[0], np.reshape(found, (3, -1)).mean(axis=1))


HELD_OUT = 20


@pytest.mark.parametrize(
    "name, debias", [("Adam", None), ("Adam averaged", 1), ("Adam averaged", 0)]
)
def test_costs_held_out_are_those_of_the_averages_in_float64(name, debias):
    """Section 7.2, from 0."""
    settings = {} if debias is None else {"ema_debias": debias}
    small, one = trainer(name, settings, held_out=HELD_OUT, decay="none")
    arrays = [array[:-HELD_OUT] for array in examples().arrays]
    x, y = (array[-HELD_OUT:] for array in examples().arrays)
    sums, wanted = (0.0, 0.0), [np.log(CLASSES)]  # all weights start at 0
    steps = steps_in_float64(small, reference.Adam(), 0.1, 3, arrays, 6)
    for t, (_, weights) in enumerate(steps, start=1):
        sums = [0.9 * before + 0.1 * weight for before, weight in zip(sums, weights)]
        averages = [average / (1 - 0.9**t) for average in sums] if debias else sums
        if t % 2 == 0:  # 40 examples in mini-batches of 20
            wanted.append(softmax_cost(small, x, y, *(weights if debias is None else averages))[0])
    assert np.allclose(costs(one, 0.1, 3), wanted, rtol=1e-5)  # see test_a_run_is_that_of_float64


def softmax_cost(small, x, y, w, b):
    """The cost with L2, and its gradients."""
    logits, l2 = x @ w.T + b, small.variants[0].l2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cost = -np.mean(np.log(p[np.arange(len(y)), y])) + l2 / 2 * np.sum(w**2)
    wrong = (p - np.eye(CLASSES)[y]) / len(y)
    return cost, (wrong.T @ x + l2 * w, wrong.sum(axis=0))


@pytest.mark.parametrize(
    "name, method, decay",
    [
        ("Adam", reference.Adam(), "inverse sqrt"),
        ("Adam", reference.Adam(), "none"),
        ("SGD Nesterov", reference.Nesterov(0.01, 0.9), "inverse sqrt"),
        ("AdaGrad", reference.AdaGrad(0.01, 1e-10), "inverse sqrt"),
        ("RMSProp", reference.RMSProp(0.01, 0.9, 1e-16, "inside"), "inverse sqrt"),
    ],
)
def test_a_run_is_that_of_float64(name, method, decay):
    small, one = trainer(name, decay=decay)
    # 9 steps of a convex problem with gradients of 0.1: each rounds some 20 times, and a relative
    # error of 2^-24 x 20 x 9 = 1e-5 of the weights moves the cost by less than that
    assert np.allclose(costs(one, 0.1, 3), in_float64(small, method, 0.1, 3), rtol=1e-5)


def test_the_decay_and_the_rate_count():
    small, one = trainer(decay="none")
    for other, rate in ((small, 0.11), (figure(), 0.1)):
        wrong = in_float64(other, reference.Adam(), rate, 3)
        assert not np.allclose(costs(one, 0.1, 3), wrong, rtol=1e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_of_a_run_stays_for_the_next_but_its_compilation(name, monkeypatch):
    _, one = trainer(name, **DROPOUT)
    first, other, again = (costs(one, *run) for run in ((0.1, 3), (0.3, 4), (0.1, 3)))
    # MindSpore's matrix products may differ in the last bit from one call to the next.
    assert np.allclose(again, first, rtol=1e-6)
    assert not np.allclose(other, first, rtol=1e-2)
    assert len(one._step.compile_cache) == 1
    monkeypatch.setattr(one.optimizer, "restore_state", lambda state: None)
    assert not np.allclose(costs(one, 0.1, 3), first, rtol=1e-5)  # AdaDelta starts slowly


def test_all_optimizers_start_at_the_same_cost():
    network = {"kind": "perceptron", "hidden": [4]}
    names = ("Adam", "AdaGrad", "SGD Nesterov")
    assert len({costs(trainer(name, network=network)[1], 0.01, 5)[0] for name in names}) == 1


def test_a_run_that_diverges_ends_there_and_says_so():
    _, one = trainer(
        "SGD Nesterov",
        network={"kind": "perceptron", "hidden": [4, 4]},
        variants=[{"label": "none"}],
    )
    reports = []
    found = one.run(1e25, 0, reports.append)
    assert found.diverged
    assert found.steps < 9
    assert reports == list(range(1, found.steps))
    assert np.isfinite(found.costs[0])
    assert np.isinf(found.costs[-1])
    found = one.run(0.01, 0, lambda done: None)  # it leaves nothing behind
    assert np.isfinite(found.costs).all()
    assert found.steps == 9
