"""A config's study decides its keys; wrong ones are refused with what is allowed."""

from pathlib import Path

import pytest
from lab.run.changed_configs import changed, refusal
from lab.studies.text.small_text import text_config

from ms_adam.lab.studies import find
from ms_adam.lab.studies.text.sides import SIDES
from ms_adam.lab.studies.text.study import STUDY, TextExperiment, sides

CONFIGS = Path(__file__).parents[4] / "configs"


def test_published_config_is_sound():
    study, experiment = find(CONFIGS / "text.yaml")
    assert study is STUDY and isinstance(experiment, TextExperiment)
    assert experiment.compare.sides == list(SIDES)  # all of them
    assert experiment.steps == 1200
    modes = sides(experiment)
    assert list(modes) == list(SIDES) and modes["lazy_pynative"] == ["pynative"]


@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("study", "images", ["unknown key 'data.words'; allowed here: idx_directory"]),
        ("optimizer", "SGD", ["unknown key 'optimizer'", "study, name, title, data"]),
        ("model.hidden", [3], ["unknown key 'model.hidden'", "allowed here: width"]),
        ("data.words", 0, ["data.words = 0", "greater than or equal to 1"]),
        ("training.batch_size", 201, ["training.batch_size = 201", "data.train = 200"]),
        ("compare.sides", ["lazier"], ["compare.sides.0 = 'lazier'", "'exact_rows'", "'nn_lazy'"]),
        ("compare.sides", ["lazy", "lazy"], ["stand only once"]),
        ("compare.sides", [], ["compare.sides = []", "at least 1 item"]),
    ],
)
def test_wrong_value_is_named(tmp_path, key, value, parts):
    said = refusal(tmp_path, changed(text_config(), key, value), find)
    assert [part for part in parts if part not in said] == []


def test_row_sparse_gradients_are_for_graph_mode_only():
    assert all(side.mode == "graph" for side in SIDES.values() if side.gradients == "rows")
