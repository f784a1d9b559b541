"""Data-parallel trainings: a wrong config is refused by name, and each claim can fail."""

import functools
from pathlib import Path

import numpy as np
import pytest
from lab.run.changed_configs import changed, refusal, write
from lab.studies.ranks.small_ranks import ranks_config

from ms_adam.lab.run.config import load
from ms_adam.lab.studies import find
from ms_adam.lab.studies.ranks.study import RanksConfig, _distance, verdicts

IMAGES = {"name": "images", "train": 300, "hidden": [16]}
load_ranks = functools.partial(load, form=RanksConfig)
ADAM = {"name": "Adam", "learning_rate": 0.001, "weight_decay": 0.0}


@pytest.mark.parametrize(
    "name, modes, problems, optimizers",
    [
        ("ranks", ["graph", "pynative"], ["images", "words"], ["Adam", "AdamW"]),
        ("scaling", ["graph"], ["images"], ["Adam"]),
    ],
)
def test_the_shipped_configs(name, modes, problems, optimizers):
    study, config = find(Path(__file__).parents[4] / "configs" / f"{name}.yaml")
    assert (study.name, config.workers, config.modes) == ("ranks", [2, 4], modes)
    assert [problem.name for problem in config.problems] == problems
    assert [optimizer.name for optimizer in config.optimizers] == optimizers


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("workers", [], "workers"),
        ("workers", [1], "workers"),  # one process is always run
        ("workers", [2, 2], "workers"),
        ("workers", [True], "workers"),
        ("workers", [3], "batch_size = 20 cannot be divided among 3 workers"),
        ("modes", [], "modes"),
        ("modes", ["eager"], "modes"),
        ("modes", ["graph", "graph"], "modes"),
        ("problems", [], "problems"),
        ("problems", [{**IMAGES, "name": "sounds"}], "problems"),
        ("problems", [{**IMAGES, "words": 3}], "words"),
        ("problems", [IMAGES, IMAGES], "problems: each name may stand only once"),
        ("problems", [{**IMAGES, "train": 10}], "batch_size = 20 is more than the 10 examples of"),
        ("optimizers", [], "optimizers"),
        ("optimizers", [ADAM, ADAM], "optimizers: each name may stand only once"),
        ("optimizers", [{**ADAM, "name": "SGD"}], "optimizers"),
        ("optimizers", [{**ADAM, "learning_rate": 0.0}], "learning_rate"),
        ("optimizers", [{**ADAM, "learning_rate": float("nan")}], "learning_rate"),
        ("optimizers", [{**ADAM, "weight_decay": -0.1}], "weight_decay"),
        ("optimizers", [{**ADAM, "beta1": 0.9}], "beta1"),
        ("steps", 0, "steps"),
        ("batch_size", 2.5, "batch_size"),
        ("seed", -1, "seed"),
        ("checkpoints.every_steps", 0, "every_steps"),
        ("checkpoints.keep", 1, "keep"),
        ("message_sizes", [0], "message_sizes"),
        ("name", "a/b", "name"),
        ("title", "", "title"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, key, value, message):
    content = ranks_config()
    load_ranks(write(tmp_path, content))
    assert message in refusal(tmp_path, changed(content, key, value), load_ranks)


@pytest.mark.parametrize("key", sorted(ranks_config()))
def test_no_key_may_be_missing(tmp_path, key):
    content = ranks_config()
    del content[key]
    assert f"'{key}'" in refusal(tmp_path, content, load_ranks)


CONFIG = RanksConfig.model_validate(ranks_config())
CLAIMS = ["all ranks end", "those of one process", "sharded state gives", "divide the state"]


def rows():
    """Rows of two ranks for which all claims hold."""
    return [
        {
            "mode": "graph",
            "workers": 2,
            "problem": problem,
            "optimizer": "AdamW",
            "state": state,
            "digests": [problem, problem],
            "from_one_process": 1e-7,
            "undivided_bytes": 100,
            "state_bytes": [800, 800] if state == "whole" else [500, 300],
        }
        for problem in ("images", "words")
        for state in ("whole", "sharded")
    ]


def failed(changed):
    """The claims that do not hold."""
    found = verdicts(CONFIG, changed)
    assert len(found) == len(CLAIMS)
    assert all(claim in verdict.claim for claim, verdict in zip(CLAIMS, found))
    return [claim for claim, verdict in zip(CLAIMS, found) if verdict.status == "not held"]


def test_all_can_hold():
    assert failed(rows()) == []


@pytest.mark.parametrize(
    "row, values, claims",
    [
        (0, {"digests": ["images", "other"]}, ["all ranks end"]),
        (3, {"digests": ["words", "other"]}, ["all ranks end"]),
        (1, {"digests": ["other", "other"]}, ["sharded state gives"]),
        (2, {"from_one_process": 2e-6}, ["those of one process"]),
        (2, {"from_one_process": float("nan")}, ["those of one process"]),
        (3, {"from_one_process": float("inf")}, ["those of one process"]),
        (1, {"state_bytes": [500, 299]}, ["divide the state"]),  # a part is kept nowhere
        (1, {"state_bytes": [500, 500]}, ["divide the state"]),  # a part is kept twice
        (3, {"state_bytes": [800, 0]}, ["divide the state"]),  # nothing is divided
        (3, {"state_bytes": [501, 299]}, ["divide the state"]),  # more than half and a row
    ],
)
def test_each_can_fail(row, values, claims):
    changed = rows()
    changed[row].update(values)
    assert failed(changed) == claims


def test_no_trainings_hold_no_claim():
    assert failed([]) == CLAIMS


def test_distance_is_the_largest_and_keeps_nan(tmp_path):
    def file(name, *values):
        np.savez(tmp_path / name, a=np.float32([1.0, 2.0]), b=np.float32(values))
        return tmp_path / name

    one = file("one.npz", 3.0)
    assert _distance(one, one) == 0.0
    assert _distance(file("two.npz", 3.5), one) == 0.5
    assert np.isnan(_distance(file("three.npz", np.nan), one))
