"""Trainings in a worker for each mode: what is kept, and how runs are compared."""

import os
import re
import time
from typing import Literal

import numpy as np
import pytest

from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.config import Data, InBatches, Training
from ms_adam.lab.run.processes import WorkerError
from ms_adam.lab.run.study import Session
from ms_adam.lab.run.trainings import (
    REFERENCE,
    Result,
    Share,
    Trainings,
    compare_pairs,
    first_difference,
    read,
    report_run,
)

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
    if optimizer != REFERENCE:
        arrays.update(error_algorithm1=np.full(4, 1e-6), error_epsilon_hat=np.full(4, 1e-2))
    facts = {"file": "x.npz", "backend": None, "seconds": 1.5}
    return Result(optimizer, mode, seed, facts, {**arrays, **changes})


def test_pairs_tell_distance_and_equality():
    near = np.array([3, 4.5], np.float32)
    runs = [
        result(seed=0),
        result(mode="pynative", seed=0),
        result(seed=1),
        result(mode="pynative", seed=1, final=near, loss=np.array([4, 3, 2, 1.25])),
        result(REFERENCE, seed=0),
    ]
    pairs = {(pair["a"], pair["b"]): pair for pair in compare_pairs(runs)}
    modes = pairs["ms_adam.Adam, graph", "ms_adam.Adam, pynative"]
    assert modes["distance"] == pytest.approx(0.5 / np.hypot(3, 4.5))  # the worse of two seeds
    assert modes["loss"] == 0.25
    assert pairs["ms_adam.Adam, graph", REFERENCE]["distance"] == 0
    assert len(pairs) == 3


def test_the_first_difference_is_a_step():
    other = result(parameter_digest=np.array([5, 6, 0, 0], np.uint64))
    assert first_difference(result(), other, "parameter_digest") == 3
    assert first_difference(result(), other, "gradient_digest") is None


class Config(InBatches):
    """A config of 8 steps; `does` is what its worker does."""

    study: Literal["stand_in"] = "stand_in"
    name: str = "small"
    title: str = "A stand-in"
    does: str = "reports"
    training: Training = Training(epochs=8, batch_size=1)
    data: Data = Data(idx_directory=None, train=1, test=1, split_seed=0)


def worker(job, events):
    """Reports a run, then does what the config says."""
    arrays = {name: np.arange(3.0) for name in ("loss", "initial", "final")}
    facts = {"optimizer": job["config"]["name"], "seed": 0, "seconds": 0.5, "backend": None}
    report_run(events, job, 8, f"{job['mode']}_seed0", arrays, **facts, told=job["told"])
    if job["config"]["does"] == "waits":
        events.send("progress", done=os.getpid())
        time.sleep(600)
    if job["config"]["does"] == "fails":
        raise ValueError("no")


def prepare(config):
    if config.does == "lacks data":
        raise ExperimentError("there are no images")
    return f"data of {config.name}"


def evaluate(config, data, results):
    return {"data": data, "modes": [run.mode for run in results], "pairs": compare_pairs(results)}


TRAININGS = Trainings(
    "lab.run.test_trainings:worker",
    prepare,
    lambda config: [Share("graph", 1, {"told": "a"}), Share("pynative", 1, {"told": "b"})],
    evaluate,
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
    assert content["results"][0]["modes"] == ["graph", "pynative"]
    assert content["results"][0]["pairs"][0]["distance"] == 0
    assert content["environment"]["device_target"] == "CPU"
    assert (run.out / "results.json").exists()
    assert told[:3] == [("a", "graph", 0, 8), ("a", "graph", 8, 8), ("a", "pynative", 0, 8)]
    facts = {"file": "graph_seed0.npz", "optimizer": "a", "mode": "graph", "seed": 0}
    saved = read(run.out / "a", {**result().facts, **facts})
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
