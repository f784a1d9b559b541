"""The numbers of small runs, against the same by hand."""

import numpy as np
import pytest

from ms_adam.experiments.comparison import (
    Result,
    compare_modes,
    compare_pairs,
    read_result,
    summarize_run,
)
from ms_adam.experiments.config import REFERENCE

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


def test_row_of_a_run():
    row = summarize_run(result())
    assert row["final_loss"] == 1.5  # the mean of the last epoch's two steps
    assert (row["train_accuracy"], row["test_accuracy"]) == (0.75, 0.7)
    assert (row["error_algorithm1"], row["error_epsilon_hat"]) == (1e-6, 1e-2)
    assert row["label"] == "ms_adam.Adam, graph"


def test_row_of_the_reference():
    row = summarize_run(result(REFERENCE))
    assert row["label"] == REFERENCE
    assert row["error_algorithm1"] is row["error_epsilon_hat"] is row["rounding_bound"] is None


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


def test_modes_part_where_bits_do():
    parted = np.array([5, 6, 0, 0], np.uint64)
    rows = compare_modes(
        [
            result(seed=0),
            result(mode="pynative", seed=0),
            result(seed=1),
            result(mode="pynative", seed=1, parameter_digest=parted),
            result(seed=2),  # has no partner
            result(REFERENCE, seed=0),
        ]
    )
    found = [(row["seed"], row["gradients_part"], row["parameters_part"]) for row in rows]
    assert found == [(0, None, None), (1, None, 3)]


def test_arrays_survive_the_disk(tmp_path):
    saved = result()
    np.savez(tmp_path / "x.npz", **saved.arrays)
    facts = {"optimizer": ADAM, "mode": "graph", "seed": 0, **saved.facts}
    loaded = read_result(tmp_path, facts)
    assert loaded.arrays.keys() == saved.arrays.keys()
    np.testing.assert_array_equal(loaded.arrays["final"], saved.arrays["final"])
