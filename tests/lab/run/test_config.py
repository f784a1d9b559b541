"""Every wrong config is refused with the key, its value, and what is allowed."""

from pathlib import Path

import pytest
import yaml
from lab.run.changed_configs import changed, refusal, write

from ms_adam.lab.run.config import AdamSettings, ConfigError, load
from ms_adam.lab.studies import find

QUICK = Path(__file__).parents[3] / "configs" / "quick.yaml"


def quick():
    return yaml.safe_load(QUICK.read_text())


def load_experiment(path):
    return find(path)[1]


def test_quick_config_is_sound():
    quick = load_experiment(QUICK)
    assert quick.name == "quick"
    assert quick.steps == 40 * 20
    assert quick.compare.modes == ["graph", "pynative"]


@pytest.mark.parametrize(
    "key, value, parts",
    [
        ("optimizer", "SGD", ["unknown key 'optimizer'", "study, name, title, data, model"]),
        ("adam.lr", 0.1, ["unknown key 'adam.lr'", "learning_rate, beta1, beta2, eps"]),
        ("training.epochs", 0, ["training.epochs = 0", "greater than or equal to 1"]),
        ("training.epochs", 2.5, ["training.epochs = 2.5", "integer"]),
        ("training.epochs", True, ["training.epochs = True", "not true or false"]),
        ("training.batch_size", 5000, ["training.batch_size = 5000", "data.train = 4000"]),
        ("adam.beta1", 1.0, ["adam.beta1 = 1.0", "less than 1"]),
        ("adam.beta2", -0.1, ["adam.beta2 = -0.1", "greater than 0"]),
        ("adam.eps", 0, ["adam.eps = 0", "greater than 0"]),
        ("adam.learning_rate", "fast", ["adam.learning_rate = 'fast'", "number"]),
        ("adam.learning_rate", float("inf"), ["adam.learning_rate = inf", "finite"]),
        ("adam", 3, ["adam = 3", "mapping with the keys learning_rate, beta1"]),
        ("model.hidden", [16, 0], ["model.hidden.1 = 0", "greater than or equal to 1"]),
        ("compare.modes", ["eager"], ["compare.modes.0 = 'eager'", "'graph' or 'pynative'"]),
        ("compare.modes", [], ["compare.modes = []", "at least 1 item"]),
        ("compare.seeds", [1, 1], ["compare.seeds = [1, 1]", "stand only once"]),
        ("compare.seeds", [-1], ["compare.seeds.0 = -1", "greater than or equal to 0"]),
        ("compare.optimizers", ["torch.Adam"], ["'torch.Adam'", "'ms_adam.Adam' or"]),
        ("compare.least_accuracy", 88, ["compare.least_accuracy = 88", "less than or equal to 1"]),
        ("name", "../elsewhere", ["name = '../elsewhere'", "pattern"]),
    ],
)
def test_wrong_value_is_named(tmp_path, key, value, parts):
    said = refusal(tmp_path, changed(quick(), key, value), load_experiment)
    assert [part for part in parts if part not in said] == []


def test_all_mistakes_are_told_at_once(tmp_path):
    content = changed(changed(quick(), "adam.beta1", 2), "training.epochs", -1)
    missing = ["title", "data.split_seed", "compare.least_accuracy"]
    del content["title"], content["data"]["split_seed"], content["compare"]["least_accuracy"]
    said = refusal(tmp_path, content, load_experiment)
    mistakes = [f"the key '{key}' is missing" for key in missing]
    for mistake in (*mistakes, "adam.beta1 = 2", "training.epochs = -1"):
        assert mistake in said


@pytest.mark.parametrize(
    "content, part",
    [
        ("a: [1", "not valid YAML"),
        ("name: {{ name }}", "not valid YAML: .*unhashable key"),
        ("", "the key 'study'"),
        (QUICK.read_text() + "\nname: again\n", "the key 'name' stands twice"),
    ],
)
def test_not_a_config(tmp_path, content, part):
    with pytest.raises(ConfigError, match=part):
        load_experiment(write(tmp_path, content))


@pytest.mark.parametrize("name, part", [("no.yaml", "there is no such file"), ("", "is a folder")])
def test_not_a_file(tmp_path, name, part):
    with pytest.raises(ConfigError, match=part):
        load_experiment(tmp_path / name)


def test_number_in_short_form(tmp_path):
    # PyYAML reads 1e-8, without a point, as text.
    text = QUICK.read_text().replace("eps: 1.0e-8", "eps: 1e-8")
    assert load_experiment(write(tmp_path, text)).adam.eps == 1e-8


def test_relative_folder_is_taken_from_the_config(tmp_path):
    content = changed(quick(), "data.idx_directory", "images")
    config = load_experiment(write(tmp_path, content))
    assert config.data.idx_directory == (tmp_path / "images").resolve()
    assert config.folder == tmp_path
    # A worker that is given the config as plain values finds the same folder.
    again = type(config).model_validate(config.model_dump(mode="json"))
    assert again.data.idx_directory == config.data.idx_directory
    # Results tell only its name.
    assert config.public() == content and load_experiment(QUICK).public() == quick()


def test_a_config_that_is_no_mapping(tmp_path):
    with pytest.raises(ConfigError, match="must be a mapping with the keys learning_rate, beta1"):
        load(write(tmp_path, "- 1"), AdamSettings)
