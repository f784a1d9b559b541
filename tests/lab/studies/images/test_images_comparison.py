"""The rows of small runs on images, against the same by hand."""

import numpy as np
from lab.run.test_experiment_comparison import result

from ms_adam.lab.run.comparison import REFERENCE
from ms_adam.lab.studies.images.comparison import compare_modes, summarize_run


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
