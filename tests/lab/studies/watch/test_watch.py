"""Watched scripts: what they print and compute stays as it is, and what is found about them."""

import compileall
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import ms_adam
from ms_adam.lab.studies.watch import parting, study, traces, verdict
from ms_adam.lab.studies.watch.schedule import Schedule

SCRIPT = Path(__file__).with_name("training.py")
CRASHING = Path(__file__).with_name("crashing.py")
COMMAND = "from ms_adam.lab.cli import main; main()"


def command(*trainings, ending=0):
    """A run of the script."""
    return [sys.executable, str(SCRIPT), *map(str, trainings), str(ending)]


def accounts(folder):
    """The accounts of the optimizers of a watched run."""
    found = [verdict.summed_up(record) for record in study.records(folder)]
    faults = [fault["traceback"] for account in found for fault in account["faults"]]
    assert not faults, faults[0]
    return found


def watched(folder, *training, ending=0, **options):
    """Runs a training under watch; returns its exit status and the account of its optimizer."""
    status = study.run(command(*training, ending=ending), folder, **{"every": 1, **options})
    (account,) = accounts(folder)
    return status, account


def lines(text):
    """The losses and weights that trainings printed."""
    return [line for line in text.splitlines() if "WARNING" not in line]


def place(text):
    """Where the script has a text: its file, from here if it is below, and its line."""
    near = os.path.relpath(SCRIPT)
    file = SCRIPT if near.startswith(os.pardir) else near
    numbered = enumerate(SCRIPT.read_text().splitlines(), 1)
    return next(f"{file}:{number}" for number, line in numbered if text in line)


FORMULAS = {
    "called": "epsilon-hat",
    "called graph": "epsilon-hat",
    "cell": "epsilon-hat",
    "jit": "epsilon-hat",
    "model": "no bias correction, decoupled decay",
    "own": "epsilon inside the root",
}


STEPS = {
    **dict.fromkeys(FORMULAS, 6),
    "given": 1,
    "half": 3,
    "accumulated": 12,
    "bytes": 6,
    "groups": 6,
    "mint": 6,
    "lazy": 6,
    "new data": 12,
}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """One script with all trainings of `STEPS`, without watch and under it.

    Returns: The exit status and the output of both, and by way the account of its optimizer.
    """
    folder = tmp_path_factory.mktemp("together")
    trainings = command(*itertools.chain(*STEPS.items()), ending=3)
    plain = subprocess.run(trainings, check=False, stdout=subprocess.PIPE, text=True)
    with open(folder / "printed", "w") as file:
        status = study.run(trainings, folder, every=1, stdout=file.fileno())
    both = (plain.returncode, plain.stdout), (status, (folder / "printed").read_text())
    return *both, dict(zip(STEPS, accounts(folder)))


def test_scripts_compute_the_same_bits(together):
    (plain, unwatched), (status, printed), found = together
    assert status == plain == 3 and len(found) == len(STEPS)
    assert lines(printed) == lines(unwatched)
    weights = {"given": 1, "half": 1, "lazy": 1}
    assert len(lines(printed)) == sum(n + weights.get(way, 2) for way, n in STEPS.items())


@pytest.mark.parametrize("way", FORMULAS)
def test_the_formula_of_a_script_is_found(way, together):
    account = together[-1][way]
    assert account["formula"] == FORMULAS[way]
    assert account["looks"] == account["calls"] == 6
    assert account["gradients"] == ("given" if way.startswith(("called", "own")) else "moments")
    # Of each update float32 rounds some 20 times: 1e-6. The powers of nn.Adam drift.
    assert account["own"]["most"] < 1e-5
    assert account["skipped"]["without"] == 0 and account["lost"] is None


def test_epsilon_and_the_distance_to_the_paper_are_those_of_known_gradients(together):
    account = together[-1]["given"]
    gradients, eps, rate = np.array([1e-9, 5e-9, 1e-7, 1e-6]), 1e-8, 0.01
    # In the first step mhat is g and vhat is g^2; sqrt(v) is g sqrt(0.001).
    paper = rate * gradients / (gradients + eps)
    own = rate * gradients / (gradients + eps / np.sqrt(0.001))
    expected = np.linalg.norm(own - paper) / np.linalg.norm(paper)
    assert account["paper"]["median"] == pytest.approx(expected, rel=1e-4)
    assert account["epsilon"]["median"] == 3 / 4  # g sqrt(0.001) <= 1e-8
    assert account["epsilon_of_paper"]["median"] == 2 / 4
    assert account["formula"] == "epsilon-hat"
    assert "epsilon decides 75% of the elements" in account["verdict"]
    assert f"{100 * expected:.2g}% off" in account["verdict"]
    where, script_line, *changed = account["lines"]
    assert where == f"# {place('= nn.Adam(')}"
    assert script_line == "- optimizer = nn.Adam(parameters, 0.01)"
    assert changed[1].startswith("+ optimizer = ms_adam.Adam(parameters, 0.01)  #")
    assert changed[2].startswith("+ optimizer = ms_adam.Adam(parameters, 0.01, epsilon_hat=True)")


def test_float16_moments_that_underflow_are_counted(together):
    account = together[-1]["half"]
    assert account["moments"] == ["float16"]
    # 0.001 (1e-3)^2 is below float16's range, 0.001 is in it; the third gradient is 0.
    assert account["underflowed"]["median"] == 1 / 2
    assert "underflow" in account["verdict"] and "50%" in account["verdict"]


def test_calls_that_accumulate_are_looked_at_too(together):
    account = together[-1]["accumulated"]
    assert account["looks"] == account["calls"] == 12
    assert account["skipped"] == {"calls": 11, "without": 8}  # of those after the first
    assert account["formula"] == "Algorithm 1" and account["own"]["most"] < 1e-5


def test_groups_are_held_to_their_own_numbers(together):
    account = together[-1]["groups"]
    assert account["formula"] == "Algorithm 1" and account["own"]["most"] < 1e-5
    assert account["gradients"] == "given"


def test_an_optimizer_with_a_core_is_one(together):
    account = together[-1]["mint"]
    assert account["name"] == "ms_adam.mint.Adam" and account["looks"] == 6
    assert account["formula"] == "Algorithm 1" and account["gradients"] == "moments"
    assert account["moments"] == ["bfloat16, stochastic"] and account["stalled"] is None


def test_rows_that_are_left_are_not_lost(together):
    account = together[-1]["lazy"]
    assert account["lost"] is None
    assert "epsilon-hat" in (account["formula"], *account["alike"])
    assert account["own"]["most"] < 1e-5 and account["stalled"]["most"] == 0


def test_bytes_are_held_to_the_formula_and_do_not_stall(together):
    account = together[-1]["bytes"]
    assert account["moments"] == ["int8, stochastic"] and account["stalled"] is None
    assert account["verdict"].startswith("ms_adam.Adam computes Algorithm 1: its updates are")
    assert account["own"]["most"] < 1e-5


def test_steps_lost_after_new_data_are_found_with_the_line(together):
    (_, printed), account = together[1], together[-1]["new data"]
    losses = lines(printed)[-14:-2]
    assert len(set(losses[6:])) == 1  # MindSpore 2.10 goes on with the old memory
    lost = account["lost"]
    assert (lost["steps"], lost["of"], lost["first"]) == (6, 12, 7)
    assert lost["parameters"] == ["weight", "bias"]
    assert lost["after"][0] == place("0.5 * parameter")
    assert "loses its steps: 6 of 12" in account["verdict"]
    assert account["own"]["most"] < 1e-5  # of the steps before


@pytest.mark.parametrize("ending, status", [("crash", 1), ("killed", 137)])
def test_a_run_that_breaks_off_is_told_of(ending, status, tmp_path, capfd):
    found, account = watched(tmp_path, "called", 3, ending=ending)
    assert found == status
    assert (account["looks"], account["calls"]) == (3, 3)
    assert ("the user's own error" in capfd.readouterr().err) == (ending == "crash")


def test_an_error_of_the_script_is_printed_as_without(tmp_path, capfd, monkeypatch):
    """Of all kinds of wrapped calls, in the script's hook, in a thread, as a cause, at the end."""
    monkeypatch.chdir(tmp_path)  # MindSpore writes files

    def traces():
        printed = capfd.readouterr().err.splitlines()
        # Lines of MindSpore's log have their time.
        return [line for line in printed if not line.startswith(("[WARNING]", "[ERROR]"))]

    crash = [sys.executable, str(CRASHING)]
    assert subprocess.run(crash, check=False).returncode == 1
    expected = traces()
    assert study.run(crash, tmp_path / "out", every=1) == 1
    assert traces() == expected
    assert expected.count("the user's own hook") == 9
    assert sum(line.startswith("Traceback") for line in expected) == 11
    (broken, *_) = study.records(tmp_path / "out")
    assert not broken["faults"]


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(AttributeError) as caught:
        Schedule(None).due()
    assert [entry.name for entry in caught.traceback][-1] == "allowed"
    assert traces.without_ours(caught.tb) is caught.tb
    assert [entry.name for entry in traceback.extract_tb(caught.tb)][-2:] == ["due", "allowed"]


def interrupted(*arguments):
    """The exit status and errors of a program that gets Ctrl-C once its script waits for it."""
    process = subprocess.Popen(
        [*arguments, *command("called", 3, ending="wait")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    next(line for line in process.stdout if line.startswith("bias"))
    time.sleep(0.5)  # until it waits
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=60)[1], process.returncode


def test_ctrl_c_ends_the_script_as_ever_and_the_report_is_written(tmp_path):
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    options = ["--every", "1", "--no-identify", "--no-cost", "--out", str(out), "--json", str(copy)]
    errors, status = interrupted(sys.executable, "-c", COMMAND, "watch", *options, "--")
    _, plain = interrupted()
    assert plain == -signal.SIGTERM  # MindSpore's own answer to Ctrl-C
    assert status == 128 + signal.SIGTERM
    assert "ms-adam watch: mindspore.nn.Adam computes epsilon-hat" in errors
    content = json.loads(copy.read_text())
    assert content == json.loads((out / "watch.json").read_text())
    (entry,) = content["results"]
    words = verdict.watching(entry["run"])
    assert words in errors and words in (out / "index.html").read_text()
    assert entry["status"] == status and entry["optimizers"][0]["calls"] == 3
    assert entry["verdict"] in (out / "index.html").read_text().replace("\u2011", "-")


def test_replacing_gives_algorithm_1_and_the_runs_part_in_the_first_step(tmp_path):
    """The gradients of the first step are equal, its weights are not."""
    watched(tmp_path / "theirs", "given", 4)
    earlier = study.earlier(tmp_path / "theirs", tmp_path / "ours")
    calls = study.calls_looked_at(earlier)
    assert calls == [1, 2, 3, 4]
    options = {"every": None, "calls": calls}
    _, ours = watched(tmp_path / "ours", "given", 4, replace="paper", **options)
    assert ours["name"] == "ms_adam.Adam" and ours["formula"] == "Algorithm 1"
    assert ours["paper"]["most"] < 1e-5
    assert ours["numbers"]["eps"] == 1e-8 and ours["numbers"]["beta2"] == 0.999
    found = parting.all_parted(earlier, study.records(tmp_path / "ours"))
    (pair,) = found["optimizers"]
    assert pair["calls"] == 4
    assert pair["bits"]["call"] == pair["beyond"]["call"] == 1
    assert pair["beyond"]["quantity"] == "weight" and pair["beyond"]["parameter"] == "given"
    assert found["sentence"].startswith("The two runs part at call 1, the weight of given")
    # The same with the formula of nn.Adam: within rounding.
    watched(tmp_path / "same", "given", 4, replace="epsilon_hat", **options)
    found = parting.all_parted(earlier, study.records(tmp_path / "same"))
    assert found["optimizers"][0]["beyond"] is None


def test_without_looks_calls_from_python_are_counted(tmp_path):
    """Those of a compiled step are not: nothing is wrapped for them."""
    assert study.run(command("called", 5, "cell", 5), tmp_path, every=0) == 0
    found = accounts(tmp_path)
    assert [(account["calls"], account["looks"]) for account in found] == [(5, 0), (0, 0)]
    assert {account["verdict"] for account in found} == {"mindspore.nn.Adam was not looked at."}
    run = study.whole(study.records(tmp_path), 0)
    assert run["share"] > 0
    assert study.whole(study.records(tmp_path), 3)["promised"] is None
    words = verdict.watching({**run, "share": 0.02, "once": 0.3, "seconds": 15.0})
    assert "too short: starting and first looks took 0.30 s, which is 1% of 30 s" in words


LOCAL = """
import gc
import weakref
import mindspore as ms
from mindspore import Parameter, Tensor, nn


def main():
    optimizer = nn.Adam([Parameter(Tensor([0.0], ms.float32), name="weight")])
    for _ in range(3):
        optimizer((Tensor([1.0], ms.float32),))
    return weakref.ref(optimizer)


let_go = main()
gc.collect()
assert let_go() is None
"""


@pytest.mark.parametrize("every, looks", [(0, 0), (1, 3)])
def test_an_optimizer_that_the_script_lets_go_is_counted_and_not_kept(every, looks, tmp_path):
    script = tmp_path / "local.py"
    script.write_text(LOCAL)
    assert study.run([sys.executable, str(script)], tmp_path / "out", every=every) == 0
    (account,) = accounts(tmp_path / "out")
    assert (account["calls"], account["looks"]) == (3, looks)


def test_a_script_that_clears_the_folder_is_not_disturbed(tmp_path):
    script, out = tmp_path / "local.py", tmp_path / "out"
    script.write_text(f"import shutil\nshutil.rmtree({str(out)!r})\n{LOCAL}")
    assert study.run([sys.executable, str(script)], out, every=1) == 0
    assert study.records(out) == []


def test_ctrl_c_after_the_end_of_the_script_loses_no_report(invoke, tmp_path, monkeypatch):
    def stop(accounts):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["ms_adam.lab.cli.watch"], "_identify", stop)
    done = invoke("watch", "--out", tmp_path, "--", sys.executable, "-c", "pass")
    assert done.exit_code == 0 and "No optimizer of MindSpore was seen" in done.output
    assert (tmp_path / "index.html").exists() and (tmp_path / "watch.json").exists()


@pytest.mark.parametrize("every, promised", [(None, 0.10), (0, 0.01)])
def test_watching_takes_at_most_the_promised_share_of_a_run(every, promised, tmp_path):
    """By our own clocks: whole runs differ by more from time to time. Its steps take 1 ms.

    What happens once (imports, first looks) is left out: on a busy machine it takes more than 1% of
    so short a run. The report then says how long a run has to be.
    """
    compileall.compile_dir(Path(ms_adam.__file__).parent, quiet=1)  # as an installation does
    _, account = watched(tmp_path, "called", "8s", every=every)
    run = study.whole(study.records(tmp_path), every)
    assert run["promised"] == promised
    own = run["seconds"] - run["watching"]
    assert 0 < run["watching"] - run["once"] <= promised * own, run
    assert run["seconds"] > 8 and account["calls"] > 20
    assert account["looks"] > 5 if every is None else account["looks"] == 0
    assert run["once"] > 0 and run["looking"] < run["watching"]
    kept = run["watching"] <= promised * own
    assert ("too short" in verdict.watching(run)) is not kept
