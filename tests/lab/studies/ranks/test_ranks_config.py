"""The config of data-parallel trainings: errors are refused by name."""

import functools
from pathlib import Path

import pytest
from lab.run.changed_configs import changed, refusal, write
from lab.studies.ranks.small_ranks import ranks_config

from ms_adam.lab.run.config import load
from ms_adam.lab.studies import find
from ms_adam.lab.studies.ranks.study import RanksConfig

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
