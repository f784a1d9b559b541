"""What is read of runs, and how they are compared."""

import numpy as np
import pytest

from ms_adam.lab.run.trainings import REFERENCE, Result, compare_pairs, first_difference

ADAM = "ms_adam.Adam"


def result(optimizer=ADAM, mode="graph", seed=0, **changes):
    arrays = {
        "loss": np.array([4.0, 3.0, 2.0, 1.0]),
        "train_accuracy": np.array([0.5, 0.75]),
        "test_accuracy": np.array([0.4, 0.7]),
        "gradient_digest": np.array([1, 2, 3, 4], np.uint64),
        "parameter_digest": np.array([5, 6, 7, 8], np.uint64),
        "initial": np.array([0, 0], np.float32),
        "final": np.array([3, 4], np.float32),
    }
    if optimizer != REFERENCE:
        arrays.update(error_algorithm1=np.full(4, 1e-6), error_epsilon_hat=np.full(4, 1e-2))
    facts = {"file": "x.npz", "backend": None, "seconds": 1.5}
    return Result(optimizer, mode, seed, facts, {**arrays, **changes})


def test_pairs_tell_distance_and_equality():
    near = np.array([3, 4.5], np.float32)
    runs = [
        result(seed=0),
        result(mode="pynative", seed=0),
        result(seed=1),
        result(mode="pynative", seed=1, final=near, loss=np.array([4, 3, 2, 1.25])),
        result(REFERENCE, seed=0),
    ]
    pairs = {(pair["a"], pair["b"]): pair for pair in compare_pairs(runs)}
    modes = pairs["ms_adam.Adam, graph", "ms_adam.Adam, pynative"]
    assert modes["distance"] == pytest.approx(0.5 / np.hypot(3, 4.5))  # the worse of two seeds
    assert modes["loss"] == 0.25
    assert pairs["ms_adam.Adam, graph", REFERENCE]["distance"] == 0
    assert len(pairs) == 3


def test_the_first_difference_is_a_step():
    other = result(parameter_digest=np.array([5, 6, 0, 0], np.uint64))
    assert first_difference(result(), other, "parameter_digest") == 3
    assert first_difference(result(), other, "gradient_digest") is None
