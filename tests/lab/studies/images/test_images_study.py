"""The rows of small runs on images, against the same by hand."""

import numpy as np
import pytest
from lab.test_sides import result

from ms_adam.lab.sides import REFERENCE
from ms_adam.lab.studies.images.study import Experiment, compare_modes, row, sides


def small_config():
    """An experiment of a few steps on the images of idx_files."""
    return {
        "study": "images",
        "name": "small",
        "title": "Four quarters",
        "data": {"idx_directory": ".", "train": 80, "test": 40, "split_seed": 0},
        "model": {"hidden": [8]},
        "training": {"epochs": 2, "batch_size": 20},
        # A large eps, so that a few steps show where it stands.
        "adam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4},
        "compare": {
            "optimizers": ["ms_adam.Adam", "mindspore.nn.Adam"],
            "modes": ["graph", "pynative"],
            "seeds": [0, 1],
            "least_accuracy": 0.25,
        },
    }


EXPERIMENT = Experiment.model_validate(
    {
        **small_config(),
        "data": {"idx_directory": None, "train": 2, "test": 1, "split_seed": 0},
        "training": {"epochs": 2, "batch_size": 1},
    }
)


def test_row_of_a_run():
    columns = result().columns(EXPERIMENT)
    assert columns["final_loss"] == 1.5  # the mean of the last epoch's two steps
    assert columns["label"] == "ms_adam.Adam, graph"
    found = row(EXPERIMENT, result())
    assert (found["train_accuracy"], found["test_accuracy"]) == (0.75, 0.7)
    assert (found["error_algorithm1"], found["error_epsilon_hat"]) == (1e-6, 1e-2)
    # 2^-24 * 4 * (4 + 0.01 * (4 / 0.1 + 2 / 0.001 + 8)) / 4
    assert found["rounding_bound"] == pytest.approx(2**-24 * 24.48)

    assert result(REFERENCE).label == REFERENCE
    found = row(EXPERIMENT, result(REFERENCE))
    assert (
        found["error_algorithm1"] is found["error_epsilon_hat"] is found["rounding_bound"] is None
    )


@pytest.mark.parametrize(
    "modes, reference_mode", [(["pynative", "graph"], "graph"), (["pynative"], "pynative")]
)
def test_the_reference_is_run_once(modes, reference_mode):
    compare = EXPERIMENT.compare.model_copy(update={"modes": modes})
    found = sides(EXPERIMENT.model_copy(update={"compare": compare}))
    both = ["ms_adam.Adam", "mindspore.nn.Adam"]
    assert found == {**dict.fromkeys(both, modes), REFERENCE: [reference_mode]}


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
