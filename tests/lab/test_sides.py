"""Trainings of sides in a worker for each mode, and the claims that every such study makes."""

import os
import re
import time
from typing import Literal

import numpy as np
import pytest

from ms_adam.lab.claims import Claim, Measured
from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.config import Data, InBatches, Section, Training
from ms_adam.lab.run.processes import WorkerError
from ms_adam.lab.run.study import Session
from ms_adam.lab.run.trainings import read, report_run
from ms_adam.lab.sides import Trainings, same_accuracy, trains


def rows(accuracies):
    return [
        {"label": "a side", "seed": seed, "test_accuracy": accuracy}
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    "accuracies, held", [((0.9, 0.89), True), ((0.9, 0.87), False), ((0.9, float("nan")), False)]
)
def test_one_run_that_does_not_train_is_enough(accuracies, held):
    found = trains(rows(accuracies), 0.88, "on test images")
    assert found.held == held and found.limit == "at least 88.0%"
    if accuracies[1] == 0.87:
        assert found.measured == "87.0% on test images at worst (a side, seed 1)"
    assert trains([], 0.88, "on test images") is None


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
    found = same_accuracy(rows(own), rows(other), "test accuracy")
    assert (found.held if found else None) == held


def test_runs_of_one_seed_in_two_modes_have_no_spread():
    assert same_accuracy(2 * rows([0.9]), 2 * rows([0.9]), "test accuracy") is None


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
    compare: Compare = Compare(seeds=[0])


def worker(job, events):
    """Reports a run, then does what the config says."""
    arrays = {name: np.arange(3.0) for name in ("loss", "initial", "final")}
    facts = {"optimizer": job["config"]["name"], "seed": 0, "seconds": 0.5, "backend": None}
    report_run(events, job, 8, f"{job['mode']}_seed0", arrays, **facts, sides=job["sides"])
    if job["config"]["does"] == "waits":
        events.send("progress", done=os.getpid())
        time.sleep(600)
    if job["config"]["does"] == "fails":
        raise ValueError("no")


def load_data(config):
    if config.does == "lacks data":
        raise ExperimentError("there are no images")
    return f"data of {config.name}"


def evaluate(config, data, results):
    return {"data": data, "runs": [(run.mode, run.facts["sides"]) for run in results]}


TRAININGS = Trainings(
    "lab.test_sides:worker",
    load_data,
    lambda config: {"graph": ["a"], "pynative": ["b"]},
    evaluate,
    [Claim("There are runs", "", "", lambda entry: Measured(bool(entry["runs"]), ""))],
)


@pytest.fixture
def run(tmp_path, importable):
    """Runs configs; takes what they do."""

    def run(*does, names="abc", progress=lambda *_: None):
        configs = [Config(name=name, does=what) for name, what in zip(names, does)]
        return TRAININGS.run(configs, Session(tmp_path / "out", progress, print))

    run.out = tmp_path / "out"
    return run


def test_each_config_trains_in_each_mode(run):
    told = []
    content = run("reports", "reports", progress=lambda *now: told.append(now))
    assert [entry["data"] for entry in content["results"]] == ["data of a", "data of b"]
    first = content["results"][0]
    assert (first["experiment"], first["config"]["title"]) == ("a", "A stand-in")
    assert first["runs"] == [["graph", ["a"]], ["pynative", ["b"]]]
    assert [verdict["status"] for verdict in first["verdicts"]] == ["held"]
    assert content["environment"]["device_target"] == "CPU"
    assert (run.out / "results.json").exists()
    assert told[:3] == [("a", "graph", 0, 8), ("a", "graph", 8, 8), ("a", "pynative", 0, 8)]
    facts = {"file": "graph_seed0.npz", "optimizer": "a", "mode": "graph", "seed": 0}
    saved = read(run.out / "a", {**facts, "backend": None, "seconds": 1.5})
    assert set(saved.arrays) == {"loss", "initial", "final"} and saved.label == "a, graph"
    assert saved.columns["seconds"] == 1.5


def test_old_results_do_not_outlive_a_failure(run):
    (run.out / "a").mkdir(parents=True)
    old = [run.out / "results.json", run.out / "index.html", run.out / "a" / "a_seed9.npz"]
    for path in (*old, run.out / "notes.txt"):
        path.write_text("the user's own")
    with pytest.raises(WorkerError, match="the graph worker failed: ValueError: no") as caught:
        run("fails")
    assert str(run.out / "a" / "worker_graph.log") in str(caught.value)
    assert not any(path.exists() for path in old)
    assert (run.out / "notes.txt").exists()


@pytest.mark.parametrize(
    "does, names, part",
    [
        (["reports", "lacks data"], "ab", "there are no images"),
        (["reports", "reports"], "aa", "a name of its own; there are a, a"),
    ],
)
def test_faults_of_configs_are_found_before_anything_runs(run, does, names, part):
    with pytest.raises(ExperimentError, match=part):
        run(*does, names=names)
    assert not run.out.exists()


def test_interrupt_ends_the_worker_and_says_what_was_kept(run):
    seen = []

    def interrupt(_name, _mode, done, _total):
        if done > 8:
            seen.append(done)
            raise KeyboardInterrupt

    started = time.monotonic()
    kept = re.escape(f"1 of 2 runs are kept as .npz files in {run.out / 'a'}")
    with pytest.raises(Interrupted, match=kept):
        run("waits", progress=interrupt)
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):  # it is gone
        os.kill(seen[0], 0)
