"""A config's kind decides its keys; wrong ones are refused with what is allowed."""

from pathlib import Path

import pytest
from lab.run.changed_configs import changed, write
from lab.studies.text.text_example import text_config

from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.studies.images.config import Experiment
from ms_adam.lab.studies.kinds import KINDS, kind_of, load_experiment
from ms_adam.lab.studies.text.config import SIDES, TextExperiment

CONFIGS = Path(__file__).parents[4] / "configs"


def test_published_config_is_sound():
    experiment = load_experiment(CONFIGS / "sparse_text.yaml")
    assert isinstance(experiment, TextExperiment)
    assert experiment.compare.sides == list(SIDES)  # all of them
    assert experiment.steps == 1200
    assert experiment.sides_of("pynative") == ["exact_pynative", "lazy_pynative"]


def test_each_kind_has_its_form():
    quick = load_experiment(CONFIGS / "quick.yaml")
    assert isinstance(quick, Experiment) and kind_of(quick) is KINDS["images"]
    text = load_experiment(CONFIGS / "sparse_text.yaml")
    assert kind_of(text) is KINDS["sparse_text"]


@pytest.mark.parametrize("kind", ["sound", "", None, 3, ["images"]])
def test_unknown_kind(tmp_path, kind):
    with pytest.raises(ConfigError, match="kind = .*: must be one of images, sparse_text"):
        load_experiment(write(tmp_path, changed(text_config(), "kind", kind)))


def test_keys_are_those_of_the_kind(tmp_path):
    content = text_config()
    content["kind"] = "images"
    with pytest.raises(ConfigError, match="unknown key 'data.words'; allowed here: idx_directory"):
        load_experiment(write(tmp_path, content))


@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("optimizer", "SGD", ["unknown key 'optimizer'", "name, title, kind, data"]),
        ("model.hidden", [3], ["unknown key 'model.hidden'", "allowed here: width"]),
        ("data.words", 0, ["data.words = 0", "greater than or equal to 1"]),
        ("training.batch_size", 201, ["training.batch_size = 201", "data.train = 200"]),
        ("compare.sides", ["lazier"], ["compare.sides.0 = 'lazier'", "'exact_rows'", "'nn_lazy'"]),
        ("compare.sides", ["lazy", "lazy"], ["stand only once"]),
        ("compare.sides", [], ["compare.sides = []", "at least 1 item"]),
    ],
)
def test_wrong_value_is_named(tmp_path, key, value, parts):
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, changed(text_config(), key, value)))
    for part in [str(tmp_path / "experiment.yaml"), *parts]:
        assert part in str(caught.value)


def test_row_sparse_gradients_are_for_graph_mode_alone():
    assert all(side.mode == "graph" for side in SIDES.values() if side.gradients == "rows")
