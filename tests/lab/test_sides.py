"""Trainings of sides in a worker for each mode, and the claims that every such study makes."""

import os
import re
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from ms_adam.lab import sides
from ms_adam.lab.claims import Claim, Measured
from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.config import Data, InBatches, Section, Training
from ms_adam.lab.run.processes import WorkerError
from ms_adam.lab.run.study import Session


def rows(accuracies):
    return [
        {"label": "a side", "seed": seed, "test_accuracy": accuracy}
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    "accuracies, held", [((0.9, 0.89), True), ((0.9, 0.87), False), ((0.9, float("nan")), False)]
)
def test_one_run_that_does_not_train_is_enough(accuracies, held):
    found = sides.trains(rows(accuracies), 0.88, "on test images")
    assert found.held == held and found.limit == "at least 88.0%"
    worst = f"{accuracies[1]:.1%} on test images at worst (a side, seed 1)"
    assert found.measured == worst
    assert sides.trains([], 0.88, "on test images") is None


@pytest.mark.parametrize(
    "own, other, held",
    [
        ((0.90, 0.92), (0.91, 0.92), True),
        ((0.75, 0.76), (0.755, 0.765), True),  # half a point apart, a point of spread
        ((0.90, 0.92), (0.95, 0.96), False),
        ((0.95, 0.96), (0.90, 0.92), False),  # better is not the same either
        ((0.90, 0.92), (), None),
        ((0.90,), (0.90,), None),  # one seed has no spread
    ],
)
def test_accuracies_differ_by_more_than_their_spread(own, other, held):
    found = sides.same_accuracy(rows(own), rows(other), "test accuracy")
    assert (found.held if found else None) == held


def test_runs_of_one_seed_in_two_modes_have_no_spread():
    assert sides.same_accuracy(2 * rows([0.9]), 2 * rows([0.9]), "test accuracy") is None


# --- finished runs -------------------------------------------------------------------------------

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
    if optimizer != sides.REFERENCE:
        arrays.update(error_algorithm1=np.full(4, 1e-6), error_epsilon_hat=np.full(4, 1e-2))
    facts = {"file": "x.npz", "backend": None, "seconds": 1.5, "side": optimizer}
    return sides.Result(optimizer, mode, seed, facts, {**arrays, **changes})


def test_pairs_tell_distance_and_equality():
    near = np.array([3, 4.5], np.float32)
    runs = [
        result(seed=0),
        result(mode="pynative", seed=0),
        result(seed=1),
        result(mode="pynative", seed=1, final=near, loss=np.array([4, 3, 2, 1.25])),
        result(sides.REFERENCE, seed=0),
    ]
    pairs = {(pair["a"], pair["b"]): pair for pair in sides.compare_pairs(runs)}
    modes = pairs["ms_adam.Adam, graph", "ms_adam.Adam, pynative"]
    assert modes["distance"] == pytest.approx(0.5 / np.hypot(3, 4.5))  # the worse of two seeds
    assert modes["loss"] == 0.25
    assert pairs["ms_adam.Adam, graph", sides.REFERENCE]["distance"] == 0
    assert len(pairs) == 3


def test_a_run_that_is_not_finite_decides_the_distance():
    lost = {"final": np.array([3, np.nan], np.float32), "loss": np.full(4, np.nan)}
    runs = [result(seed=0), result(mode="pynative", seed=0)]
    runs += [result(seed=1), result(mode="pynative", seed=1, **lost)]
    (pair,) = sides.compare_pairs(runs)
    assert np.isnan(pair["distance"]) and np.isnan(pair["loss"])


def test_the_first_difference_is_a_step():
    other = result(parameter_digest=np.array([5, 6, 0, 0], np.uint64))
    assert sides.first_difference(result(), other, "parameter_digest") == 3
    assert sides.first_difference(result(), other, "gradient_digest") is None


# --- a worker for each mode ----------------------------------------------------------------------


class Compare(Section):
    seeds: list[int]


class Config(InBatches):
    """A config of 8 steps; `does` is what its worker does."""

    study: Literal["stand_in"] = "stand_in"
    name: str = "small"
    title: str = "A stand-in"
    does: str = "reports"
    training: Training = Training(epochs=8, batch_size=1)
    data: Data = Data(idx_directory=None, train=1, test=1, split_seed=0)
    compare: Compare = Compare(seeds=[0, 1])


class StandIn:
    """Of the second seed it does what the config says."""

    def __init__(self, config, data, side, seed):
        self.does = config.does if seed else "reports"
        self.known = {"optimizer": config.name, "seed": seed, "data": data}

    def epoch(self, progress):
        if self.does == "waits":
            Path("pid").write_text(str(os.getpid()))
            time.sleep(0.3)  # reports of progress are not told more often
            progress(None)
            time.sleep(600)
        if self.does == "fails":
            raise ValueError("no")
        progress(None)

    def arrays(self):
        return {name: np.arange(3.0) for name in ("loss", "initial", "final")}

    def facts(self):
        return {**self.known, "seconds": 0.5, "backend": None}


def load_data(config):
    if config.does == "lacks data":
        raise ExperimentError("there are no images")
    return f"data of {config.name}"


# Each config starts a process for each of its modes.
SIDES = {"a": {"b": ["pynative"], "a 1": ["graph", "pynative"]}, "b": {"b": ["pynative"]}}
TRAININGS = sides.Trainings(
    "lab.test_sides",
    Config,
    load_data,
    StandIn,
    lambda config: SIDES[config.name],
    lambda config, run: {"of": run.facts["data"]},
    lambda config, data, runs: {"data": data, "count": len(runs)},
    [Claim("There are runs", "", "", lambda entry: Measured(bool(entry["runs"]), ""))],
)


@pytest.fixture
def run(tmp_path, importable):
    """Runs configs; takes what they do."""

    def run(*does, progress=lambda *_: None):
        configs = [Config(name=name, does=what) for name, what in zip("ab", does)]
        return TRAININGS.run(configs, Session(tmp_path / "out", progress, print))

    run.out = tmp_path / "out"
    return run


def test_each_config_trains_in_each_mode(run):
    told = []
    content = run("reports", "reports", progress=lambda *now: told.append(now))
    assert [entry["data"] for entry in content["results"]] == ["data of a", "data of b"]
    first, second = content["results"]
    assert (first["experiment"], first["config"]["title"]) == ("a", "A stand-in")
    assert (first["parameters"], first["count"], len(first["pairs"])) == (3, 6, 2)
    files = [f"{side}_seed{seed}.npz" for side in ("b", "a-1") for seed in (0, 1)]
    assert [row["file"] for row in first["runs"]] == [*files[:2], *files[2:], *files[2:]]
    assert {row["of"] for row in first["runs"]} == {"data of a"}
    assert [row["of"] for row in second["runs"]] == ["data of b"] * 2
    assert [verdict["status"] for verdict in first["verdicts"]] == ["held"]
    assert content["environment"]["device_target"] == "CPU"
    assert (run.out / "results.json").exists()
    ends = [("a", "pynative", 0, 32), ("a", "pynative", 32, 32), ("a", "graph", 0, 16)]
    assert told[0] == ends[0] and list(dict.fromkeys(now for now in told if now in ends)) == ends
    facts = {"file": "b_seed0.npz", "optimizer": "a", "mode": "pynative", "seed": 0}
    saved = sides.read(run.out / "a", {**facts, "backend": None, "seconds": 1.5})
    assert set(saved.arrays) == {"loss", "initial", "final"} and saved.label == "a, pynative"
    assert saved.columns(Config())["seconds"] == 1.5 and saved.columns(Config())["final_loss"] == 2


def test_old_results_do_not_outlive_a_failure(run):
    (run.out / "a").mkdir(parents=True)
    old = [run.out / "results.json", run.out / "index.html", run.out / "a" / "a_seed9.npz"]
    for path in (*old, run.out / "notes.txt"):
        path.write_text("the user's own")
    with pytest.raises(WorkerError, match="the pynative worker failed: ValueError: no") as caught:
        run("fails")
    assert str(run.out / "a" / "worker_pynative.log") in str(caught.value)
    assert not any(path.exists() for path in old)
    assert (run.out / "notes.txt").exists()


def test_data_are_loaded_before_anything_runs(run):
    with pytest.raises(ExperimentError, match="there are no images"):
        run("reports", "lacks data")
    assert not run.out.exists()


def test_interrupt_ends_the_worker_and_says_what_was_kept(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def interrupt(_name, _mode, done, _total):
        if done > 16:
            seen.append(int(Path("pid").read_text()))
            raise KeyboardInterrupt

    started = time.monotonic()
    kept = re.escape(f"2 of 6 runs are kept as .npz files in {run.out / 'a'}")
    with pytest.raises(Interrupted, match=kept):
        run("waits", progress=interrupt)
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):  # it is gone
        os.kill(seen[0], 0)
