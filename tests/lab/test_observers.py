"""Observers of a training; above all, that a shadow tells Algorithm 1 from its neighbours."""

from types import SimpleNamespace

import numpy as np
import pytest

from ms_adam import reference
from ms_adam.lab import observers
from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.config import AdamSettings
from ms_adam.lab.studies.images.claims import rounding_bound
from ms_adam.lab.train import Step

SETTINGS = AdamSettings(learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)
STEPS = 300


def float32_adam(gradients, initial, epsilon="outside", bias_correction=True):
    """Adam as one writes it down in float32, yielding the parameters after each step."""
    f = np.float32
    lr, beta1, beta2, eps = f(1e-3), f(0.9), f(0.999), f(1e-8)
    p, m, v = initial.copy(), np.zeros_like(initial), np.zeros_like(initial)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (f(1) - beta1) * g
        v = beta2 * v + (f(1) - beta2) * g * g
        c1, c2 = f(1 - 0.9**t), f(np.sqrt(1 - 0.999**t))
        if not bias_correction:
            c1 = c2 = f(1)
        hat = eps if epsilon == "hat" else eps * c2
        p = p - lr * (c2 / c1) * m / (np.sqrt(v) + hat)
        assert p.dtype == np.float32
        yield p


def trajectory(scale):
    random = np.random.default_rng(7)
    initial = random.normal(0, 0.3, 2000).astype(np.float32)
    # Each element has a size of its own, as weights of a network do.
    sizes = scale * 10 ** random.uniform(-2, 0, 2000)
    gradients = (random.normal(0.3, 1, (STEPS, 2000)) * sizes).astype(np.float32)
    return initial, gradients


def last_error(epsilon, initial, gradients, positions):
    adam = reference.Adam(**SETTINGS.model_dump(), epsilon=epsilon)
    shadow = observers.Shadow(adam, initial)
    for gradient, position in zip(gradients, positions):
        error = shadow.follow(gradient, position)
    return error, rounding_bound(SETTINGS, STEPS, initial, position)


@pytest.mark.parametrize("scale", [1, 1e-4, 1e-6])
@pytest.mark.parametrize("epsilon", ["outside", "hat"])
def test_float32_arithmetic_stays_within_the_bound(scale, epsilon):
    initial, gradients = trajectory(scale)
    positions = float32_adam(gradients, initial, epsilon)
    error, bound = last_error(epsilon, initial, gradients, positions)
    assert 0 < error <= bound


@pytest.mark.parametrize(
    "change", [{"epsilon": "hat"}, {"bias_correction": False}], ids=["epsilon-hat", "no correction"]
)
def test_another_formula_is_beyond_the_bound(change):
    initial, gradients = trajectory(1e-6)
    positions = float32_adam(gradients, initial, **change)
    error, bound = last_error("outside", initial, gradients, positions)
    assert error > 10 * bound


def test_bound_by_hand():
    # 2^-24 * 100 * (0.5 + 1e-3 * (4 / 0.1 + 2 / 0.001 + 8)) / 0.1
    bound = rounding_bound(SETTINGS, 100, np.array([0.5]), np.array([0.4]))
    assert bound == pytest.approx(2**-24 * 100 * 2.548 / 0.1)


def step(number, loss=0.5, seconds=0.25):
    return Step(number, (), np.float32(loss), None, seconds)


def test_a_record_keeps_what_is_measured():
    every, third = (
        observers.Record(lambda now: {**observers.loss(now), **observers.step_ms(now)}),
        observers.Record(observers.loss, every=3),
    )
    for number in range(1, 8):
        every(step(number, loss=number))
        third(step(number, loss=number))
    np.testing.assert_array_equal(every.arrays()["loss"], np.arange(1.0, 8))
    assert every.arrays()["step_ms"].tolist() == [250.0] * 7
    assert third.arrays()["loss"].tolist() == [3.0, 6.0]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_is_refused(value):
    observers.refuse_infinite_loss(step(3))
    with pytest.raises(ExperimentError, match=f"the loss of step 3 is {value}"):
        observers.refuse_infinite_loss(step(3, float(value)))


def test_a_digest_is_of_bits():
    assert observers.digest(np.array([0.0])) != observers.digest(np.array([-0.0]))
    assert observers.digest(np.array([1.5, 2])) == observers.digest(np.array([1.5, 2]))


def test_checkpoints_come_every_few_steps_and_at_the_end_after_the_logs():
    made, state = [], {"w": 1}
    files = SimpleNamespace(save=lambda *given: made.append(given))
    log = SimpleNamespace(sync=lambda: made.append("synced"))
    save = observers.SaveCheckpoints(files, 3, 7, lambda: state, {"mode": "graph"}, [log])
    for number in range(1, 8):
        save(step(number))
    saved = [(number, state, {"mode": "graph"}) for number in (3, 6, 7)]
    assert made == [one for saving in saved for one in ("synced", saving)]
    state = None  # of a rank that does not save
    save(step(9))
    assert made[-1] == "synced"
