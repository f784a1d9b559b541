"""The runner with workers that are stand-ins: what they report, how they die, and Ctrl-C."""

import contextlib
import json
import os
import re
import sys
import time

import pytest
import yaml
from lab.problems.idx_files import write_part
from lab.studies.images.small_config import small_config

from ms_adam.lab.problems.images import DataError
from ms_adam.lab.run import ExperimentError, processes, results
from ms_adam.lab.run import worker as worker_module
from ms_adam.lab.run.mode_runs import Interrupted
from ms_adam.lab.run.processes import Worker, WorkerError
from ms_adam.lab.studies.images.runner import run_workers
from ms_adam.lab.studies.kinds import load_experiment
from ms_adam.lab.studies.reproduce import reproduce


@pytest.fixture
def experiment(tmp_path):
    write_part(tmp_path, "train", 120)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config()))
    return load_experiment(path)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Lets a Python program stand in for the worker; it may use `job` and `send`."""

    def stand_in(program):
        script = tmp_path / "worker.py"
        script.write_text(
            "import json, os, sys, time\n"
            "job = json.load(sys.stdin)\n"
            "def send(**event): print(json.dumps(event), flush=True)\n" + program
        )
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
        python.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(python))

    return stand_in


def ignore(*_):
    pass


def test_job_and_progress(experiment, worker, tmp_path):
    worker(
        "print('noise of the framework', file=sys.stderr)\n"
        "send(event='progress', done=3)\n"
        "send(event='run', done=8, mode=job['mode'], reference=job['reference'])\n"
    )
    told = []
    facts = run_workers(experiment, tmp_path, lambda *now: told.append(now))
    assert [(run["mode"], run["reference"]) for run in facts] == [
        ("graph", True),  # the reference is run once, with graph mode
        ("pynative", False),
    ]
    steps, seeds = experiment.steps, len(experiment.compare.seeds)
    assert ("small", "graph", 3, 3 * seeds * steps) in told
    assert ("small", "pynative", 3, 2 * seeds * steps) in told
    assert "noise of the framework" in (tmp_path / "worker_graph.log").read_text()


@pytest.mark.parametrize(
    "program, part",
    [
        ("send(event='failed', message='ValueError: no'); sys.exit(1)", "failed: ValueError: no"),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9 (SIGKILL) before it was done"),
        ("sys.exit(3)", "ended with exit status 3 before it was done"),
    ],
)
def test_worker_that_dies_is_told_with_its_log(experiment, worker, tmp_path, program, part):
    worker(program)
    with pytest.raises(WorkerError) as caught:
        run_workers(experiment, tmp_path, ignore)
    assert f"the graph worker {part}" in str(caught.value)
    assert str(tmp_path / "worker_graph.log") in str(caught.value)


def test_interrupt_ends_the_worker_and_says_what_was_kept(experiment, worker, tmp_path):
    worker(
        "send(event='run', done=8, mode=job['mode'])\n"
        "send(event='progress', done=os.getpid())\n"
        "time.sleep(600)\n"
    )
    seen = []

    def interrupt(_name, _mode, done, _total):
        if done > 8:
            seen.append(done)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run_workers(experiment, tmp_path, interrupt)
    assert time.monotonic() - started < 30
    assert f"1 of 10 runs are kept as .npz files in {tmp_path}" in str(caught.value)
    with pytest.raises(ProcessLookupError):  # it is gone
        os.kill(seen[0], 0)


def test_old_results_do_not_outlive_a_failure(experiment, worker, tmp_path):
    out = tmp_path / "out"
    (out / "small").mkdir(parents=True)
    old = [out / "results.json", out / "index.html", out / "small" / "a_graph_seed0.npz"]
    for path in old:
        path.write_text("old")
    (out / "notes.txt").write_text("the user's own")
    worker("sys.exit(3)")
    with pytest.raises(WorkerError):
        reproduce([experiment], out, ignore)
    assert not any(path.exists() for path in old)
    assert (out / "notes.txt").exists()


def test_missing_images_are_found_before_anything_runs(experiment, tmp_path):
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError):
        reproduce([experiment], tmp_path / "out", ignore)
    assert not (tmp_path / "out").exists()


def test_two_experiments_of_one_name(experiment, tmp_path):
    with pytest.raises(ExperimentError, match="a name of its own; there are small, small"):
        reproduce([experiment, experiment], tmp_path / "out", ignore)


def test_json_without_nan(tmp_path):
    plain = results.plain({"a": [float("nan"), 1.5], "b": (float("-inf"), None)})
    results.write_json(tmp_path / "x.json", plain)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": ["nan", 1.5], "b": ["-inf", None]}


@pytest.mark.parametrize(
    "text, told",
    [
        ("wrong\n\n" + "-" * 20 + "\n- C++ Call Stack:\n" + "-" * 20 + "\nsomewhere", "wrong"),
        (
            "-" * 20
            + "\n- Description:\n"
            + "-" * 20
            + "\nwrong\n\n"
            + "-" * 20
            + "\n- Stack\n"
            + "-" * 20
            + "\nsomewhere",
            "wrong",
        ),
        ("wrong - and more", "wrong - and more"),
        ("", "ValueError"),
    ],
)
def test_errors_are_told_without_call_stacks(text, told):
    assert worker_module.told(ValueError(text)) == told


def test_events_of_workers_side_by_side_come_as_they_are_told(worker, tmp_path):
    worker(
        "while job['wait'] and not os.path.exists(job['wait']): time.sleep(0.01)\n"
        "send(event='run', of=job['name'])\n"
    )
    sign = tmp_path / "go"
    jobs = [{"name": "late", "wait": str(sign)}, {"name": "early", "wait": ""}]
    told = []
    for number, event in processes.work_side_by_side(
        [Worker("stand_in", job["name"], job, tmp_path / f"{job['name']}.log") for job in jobs]
    ):
        told.append((number, event["of"]))
        sign.touch()  # the first waits for what the second has told
    assert told == [(1, "early"), (0, "late")]


@pytest.mark.parametrize(
    "program, part",
    [
        ("send(event='failed', message='ValueError: no')", "failed: ValueError: no"),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9 (SIGKILL) before it was done"),
    ],
)
def test_one_that_fails_ends_those_beside_it(worker, tmp_path, program, part):
    worker(
        "if job['fails']:\n"
        f"    {program}\n"
        "    sys.exit(1)\n"
        "send(event='run', pid=os.getpid())\n"
        "time.sleep(600)\n"
    )
    started = time.monotonic()
    seen = []
    workers = [
        Worker("stand_in", name, {"fails": name == "bad"}, tmp_path / f"{name}.log")
        for name in ("good", "bad")
    ]
    with pytest.raises(WorkerError, match=re.escape(f"the bad worker {part}")):
        for _, event in processes.work_side_by_side(workers):
            seen.append(event["pid"])
    assert time.monotonic() - started < 30
    for pid in seen:
        with pytest.raises(ProcessLookupError):  # it is gone
            os.kill(pid, 0)


def test_who_stops_listening_ends_them_all(worker, tmp_path):
    worker("send(event='run', pid=os.getpid())\ntime.sleep(600)\n")
    workers = [Worker("stand_in", name, {}, tmp_path / f"{name}.log") for name in ("a", "b")]
    seen = []
    with contextlib.closing(processes.work_side_by_side(workers)) as events:
        for _, event in events:
            seen.append(event["pid"])
            if len(seen) == 2:
                break
    for pid in seen:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
