"""The acceptance matrix: what it calls held is right, and what is wrong it calls so."""

import dataclasses
import inspect
import json
import os
import subprocess
import time
import typing

import numpy as np
import pytest
from lab.studies.reproduced import COMMAND
from mindspore import nn
from running import make_optimizer, make_parameters

import ms_adam
from ms_adam import reference
from ms_adam.backends import BACKENDS, CHOICES
from ms_adam.lab.run.config import Backend
from ms_adam.lab.studies.matrix import cell_worker, validate
from ms_adam.lab.studies.matrix.cases import (
    CASES,
    COLUMNS,
    SCALES,
    SCHEMES,
    SHAPES,
    Column,
    PerStep,
    Scaler,
    reference_for,
)
from ms_adam.lab.studies.matrix.cell_worker import (
    FELL_SHORT,
    HELD,
    NN_ADAM,
    NN_ADAM_CANNOT,
    NN_ADAM_DIFFERS,
    NOT_AVAILABLE,
    NOT_OFFERED,
    REFERENCE,
)
from ms_adam.lab.studies.matrix.cells import (
    STEPS,
    distance_to_nn_adam,
    excess,
    put,
    run_nn_adam,
    snapshot,
)
from ms_adam.state import write

CASE = {case.name: case for case in CASES + SCHEMES}
COLUMN = {column.name: column for column in COLUMNS}


# --- the table ---------------------------------------------------------------------------------


def test_names_are_told_apart():
    assert len(CASE) == len(CASES + SCHEMES)
    assert len(validate.select()) == len(set(validate.select())) == len(CASE) * 4 * 2 * len(COLUMNS)


def test_every_backend_has_a_column_and_a_word_in_configs():
    assert {column.options["backend"] for column in COLUMNS} == set(BACKENDS)
    assert typing.get_args(Backend) == CHOICES


def test_every_option_of_nn_adam_has_a_case():
    init = inspect.getclosurevars(nn.Adam.__init__).nonlocals["fn"]  # beneath a decorator
    options = set(inspect.signature(init).parameters) - {"self", "params", "kwargs"}
    assert {"learning_rate", "use_amsgrad"} <= options
    used = {name for case in CASES + SCHEMES for name in case.options}
    assert options <= used
    groups = {name for case in SCHEMES for group in case.groups for name in group}
    assert {"lr", "weight_decay", "grad_centralization"} <= groups
    assert any(case.reordered for case in SCHEMES)


def test_every_option_of_ours_has_a_case_or_a_column():
    options = set(inspect.signature(ms_adam.Adam).parameters) - {"params", "unknown", "lr", "betas"}
    used = {name for it in (*CASES, *SCHEMES, *COLUMNS) for name in it.options}
    assert options - used == {"shard_state"}  # which needs ranks
    assert "ema_decay" in options


def test_schedules_are_as_long_as_runs():
    values = [
        value
        for case in SCHEMES
        for options in (case.options, *case.groups)
        for value in options.values()
        if isinstance(value, PerStep)
    ]
    assert values and all(len(value.values) >= STEPS for value in values)
    assert len(SCALES) == STEPS


@pytest.mark.parametrize(
    "only, number",
    [
        ("default float32 graph composite", 4),  # "AdamW default" too
        ("AMSGrad pynative flat float64", 4),
        ("float16", len(CASE) * 12),
        ("clipping bfloat16", 24),
    ],
)
def test_select(only, number):
    cells = validate.select(only)
    assert len(cells) == number
    assert all(set(only.lower().split()) <= set(" ".join(cell).lower().split()) for cell in cells)


# --- judging -----------------------------------------------------------------------------------


class WithoutMaximum(reference.Adam):
    """Forgets the second moments of earlier steps."""

    def update(self, w, g, state):
        return super().update(w, g, state._replace(vhat=np.zeros_like(state.vhat)))


def of_step_before(case, parameter, step):
    return reference_for(case, parameter, max(step - 1, 0))


def with_numbers(**change):
    """The case's reference with other numbers."""
    return lambda case, i, t: dataclasses.replace(reference_for(case, i, t), **change)


# The case, and the reference that is taken for it by mistake.
SCHEME_MUTANTS = {
    "maximum forgotten": (
        "amsgrad",
        lambda case, i, t: WithoutMaximum(**vars(reference_for(case, i, t))),
    ),
    "rate of the step before": ("learning rates in a list", of_step_before),
    "decay of the step before": ("weight decay schedule", of_step_before),
    "rate of the next step": ("both schedules", lambda case, i, t: reference_for(case, i, t + 1)),
    "group of the neighbour": ("groups", lambda case, i, t: reference_for(case, i + 1, t)),
    "order forgotten": ("groups", lambda case, i, t: reference_for(case, len(SHAPES) - 1 - i, t)),
    "decay of all groups": ("groups of AdamW", with_numbers(weight_decay=0.01)),
    "not centralized": ("gradient centralization", with_numbers(centralize=False)),
    "clipped too much": ("clipping", with_numbers(loss_scale=1.0001)),
    "clipped scaled": ("clipping and loss scale", with_numbers(loss_scale=1.0)),
    "beta2 of master weights": ("master weights", with_numbers(beta2=0.99901)),
}


@pytest.mark.parametrize("name", SCHEME_MUTANTS)
def test_the_bounds_catch_a_wrong_scheme(name):
    case_name, wrong = SCHEME_MUTANTS[name]
    case = CASE[case_name]
    optimizer = make_optimizer(case, make_parameters(SHAPES, "float32"), backend="fused")
    start = snapshot(optimizer)
    assert excess(case, optimizer, scale=SCALES) <= 1.0
    put(optimizer, start, 0)
    assert excess(case, optimizer, scale=SCALES, adam_of=wrong) > 2.0


TAIL_MUTANTS = {
    "decay of averages": ("averages", {"ema_decay": 0.9001}),
    "averages biased": ("averages", {"ema_debias": False}),
    "averages not biased": ("averages from the weights", {"ema_debias": True}),
    "scale of another factor": ("dynamic loss scale", {"loss_scale": Scaler(2.0**10, 4, 2)}),
    "scale that grows later": ("dynamic loss scale", {"loss_scale": Scaler(2.0**10, 2, 3)}),
    "calls of an update": ("accumulation", {"accumulate_steps": 2}),
    "steps not skipped": ("skipped steps", {"skip_nonfinite": False}),
}


@pytest.mark.parametrize("name", TAIL_MUTANTS)
def test_a_wrong_tail_is_caught(name):
    case_name, wrong = TAIL_MUTANTS[name]

    def share(**options):
        parameters = make_parameters(SHAPES, "float32")
        optimizer = make_optimizer(CASE[case_name], parameters, backend="fused", **options)
        try:
            return excess(CASE[case_name], optimizer, scale=SCALES)
        except AssertionError:  # of the scaler, or of what a skipped step changed
            return np.inf

    assert share() <= 1.0 and share(**wrong) > 2.0


@pytest.mark.parametrize("name, dtype", [("", "float32"), (" of master weights", "bfloat16")])
def test_the_whole_tail_holds_in_every_column(name, dtype, mode):
    case = CASE[f"whole tail{name}"]
    for column in COLUMNS:
        if column.complete:
            optimizer = make_optimizer(case, make_parameters(SHAPES, dtype), **column.options)
            assert excess(case, optimizer, compiled=column.compiled, scale=SCALES) <= 1.0
    assert judged_alone(case.name, dtype, COLUMN["primitive"])["status"] == NOT_OFFERED


def test_a_master_weight_that_is_not_rounded_into_its_parameter_is_seen():
    case = CASE["master weights"]
    optimizer = make_optimizer(case, make_parameters(SHAPES, "float16"), backend="composite")
    optimizer.update.masters.round = lambda: True
    assert excess(case, optimizer) == np.inf


def test_a_maximum_that_is_not_kept_is_seen():
    class Forgetting(ms_adam.Adam):
        def __call__(self, gradients):
            done = super().__call__(gradients)
            for largest in self.vhat:
                write(largest, np.zeros(largest.shape), host=False)
            return done

    case = CASE["amsgrad"]
    optimizer = Forgetting(make_parameters(SHAPES, "float32"), backend="fused", **case.options)
    assert excess(case, optimizer) > 2.0


def judged(case, dtype, column):
    return cell_worker.judge(CASE[case], dtype, COLUMN[column], run_nn_adam(CASE[case], dtype))


class TestNnAdam:
    """What nn.Adam computes is found out by running it."""

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_it_computes_epsilon_hat(self, dtype):
        theirs = run_nn_adam(CASE["large epsilon"], dtype)
        assert theirs.error is None and len(theirs.steps) == STEPS
        assert theirs.share <= 1.0 and theirs.unbounded == 0.0
        for column in COLUMNS[:2]:
            assert distance_to_nn_adam(theirs, dtype, column.options) <= 1.0
        wrong = {"backend": "composite", "epsilon_hat": False}
        plain = theirs._replace(case=theirs.case._replace(options={"eps": 1e-2, **wrong}))
        # epsilon is 1/32 of what it should be in the first step
        assert distance_to_nn_adam(plain, dtype, {}) > 2.0

    @pytest.mark.parametrize(
        "change",
        [
            {"beta1": 0.91},
            {"beta2": 0.9991},
            {"eps": 2e-2},
            {"learning_rate": 1.001e-3},
            {"use_nesterov": True},
        ],
    )
    def test_another_adam_is_told_apart(self, change):
        theirs = run_nn_adam(CASE["large epsilon"], "float32")
        assert distance_to_nn_adam(theirs, "float32", {"backend": "fused", **change}) > 2.0

    def test_parameter_groups_keep_their_order(self):
        for name in ("groups", "schedules in groups"):
            theirs = run_nn_adam(CASE[name], "float32")
            assert theirs.error is None and theirs.share <= 1.0

    def test_it_drops_nesterov_beside_amsgrad(self):
        results = judged("nesterov amsgrad", "float32", "composite")
        assert [result["status"] for result in results] == [HELD, NN_ADAM_DIFFERS]
        assert results[1]["share"] > 100

    @pytest.mark.parametrize(
        "case, dtype, error",
        [
            ("default", "bfloat16", "BFloat16"),
            ("beta1 = 0", "float32", "beta1"),
            ("AdamW", "float32", "decoupled"),
            ("clipping", "float32", "max_grad_norm"),
        ],
    )
    def test_what_it_cannot_run_is_said(self, case, dtype, error):
        results = judged(case, dtype, "fused")
        assert [result["status"] for result in results] == [HELD, NN_ADAM_CANNOT]
        assert error in results[1]["note"] and len(results[1]["note"]) <= 160


def judged_alone(case, dtype, column):
    return cell_worker.judge(CASE[case], dtype, column, run_nn_adam(CASE["AdamW"], dtype))[0]


def test_a_backend_may_refuse_by_design():
    result = judged_alone("default", "float64", COLUMN["primitive"])
    assert result["status"] == NOT_OFFERED and "float32" in result["note"]
    result = judged_alone("amsgrad", "float32", COLUMN["primitive"])
    assert result["status"] == HELD and result["note"] == "without shape ()"


def test_a_backend_that_must_run_everything_may_not_refuse():
    result = judged_alone("default", "float64", Column("x", {"backend": "primitive"}, True))
    assert result["status"] == FELL_SHORT and "float32" in result["note"]


def test_the_timer_of_a_cell_ends_with_it(monkeypatch):
    """Left running in a test, it ended the tests five minutes later."""
    running = []
    timer = cell_worker.faulthandler
    monkeypatch.setattr(timer, "dump_traceback_later", lambda after, exit: running.append(after))
    monkeypatch.setattr(timer, "cancel_dump_traceback_later", running.clear)
    with pytest.raises(ValueError), cell_worker._ends_if_stuck():
        assert running == [300]
        raise ValueError
    assert not running


def test_a_dtype_that_a_device_lacks_is_not_available_there():
    """Judged as on a GPU, where no cell of bfloat16 can run."""

    class Events:
        sent = []

        def send(self, event, cell, results):
            (result,) = results
            self.sent.append(((cell[1], cell[-1]), result["status"], result["note"]))

    cells = [
        ["default", "bfloat16", "graph", "composite"],
        ["default", "bfloat16", "graph", "primitive"],
        ["bfloat16 state", "float32", "graph", "composite"],
        ["default", "float16", "graph", "primitive"],
    ]
    cell_worker._judge_all(cells, "GPU", Events())
    statuses = {cell: status for cell, status, _ in Events.sent}
    assert statuses == {
        ("bfloat16", "composite"): NOT_AVAILABLE,
        ("bfloat16", "primitive"): NOT_AVAILABLE,
        ("float32", "composite"): NOT_AVAILABLE,  # its moments are bfloat16
        ("float16", "primitive"): NOT_OFFERED,
    }
    assert all("no BFloat16 kernels for GPU" in note for _, _, note in Events.sent[:3])
    for backend in ("primitive", "composite"):
        for dtype, device in (("bfloat16", "Ascend"), ("float16", "GPU")):
            assert cell_worker._device_obstacle(backend, dtype, "float32", device) is None


def test_any_other_error_is_the_cells_own():
    result = judged_alone("default", "float32", Column("x", {"backend": "no such"}, False))
    assert result["status"] == FELL_SHORT and "'no such'" in result["note"]
    assert result["against"] == REFERENCE and result["share"] is None


# --- the command, with its processes -----------------------------------------------------------

WRONG_BETA = """
import ms_adam.options
right = ms_adam.options.Formula
ms_adam.options.Formula = lambda **numbers: right(**{**numbers, "beta1": numbers["beta1"] + 1e-4})
"""

DIES = """
import os, signal
from ms_adam.reference.adam import Adam
right, calls = Adam.step, []
def step(*arguments, **numbers):
    calls.append(1)
    if len(calls) > 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return right(*arguments, **numbers)
Adam.step = step
"""


VALIDATE = [*COMMAND[:-1], "validate"]


def command(folder, *arguments, at_start=""):
    """Runs `ms-adam validate`; its exit status, output and results.

    Args:
        folder: where it writes.
        arguments: of the command.
        at_start: what each of its processes executes first.
    """
    (folder / "sitecustomize.py").write_text(at_start)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*VALIDATE, "--out", str(folder / "out"), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, json.loads((folder / "out/validate.json").read_text())


def test_what_is_right_passes(tmp_path):
    status, output, content = command(tmp_path, "--only", "locking float32 graph composite")
    assert status == 0, output
    assert content["schema"] == 1 and content["environment"]["device_target"] == "CPU"
    assert content["complete"] is True
    assert [(r["against"], r["status"]) for r in content["results"]] == [
        (REFERENCE, HELD),
        (NN_ADAM, HELD),
    ] * 2  # flat state too
    assert all(0.0 < r["share"] <= 1.0 for r in content["results"])
    assert output.startswith("4 held, 0 fell short")


def test_a_wrong_formula_falls_short(tmp_path):
    status, output, content = command(
        tmp_path, "--only", "locking float32 graph composite", at_start=WRONG_BETA
    )
    assert status == 1
    assert [r["status"] for r in content["results"]] == [FELL_SHORT] * 4
    assert all(r["share"] > 2.0 for r in content["results"])
    assert "fell short: locking, float32, graph, composite, against reference" in output


def test_no_cell_is_lost_with_its_process(tmp_path):
    status, output, content = command(tmp_path, "--only", "long float32 graph", at_start=DIES)
    assert status == 1
    cells = {(r["case"], r["backend"]): r for r in content["results"]}
    assert len(cells) == len(COLUMNS)
    assert all(r["status"] == FELL_SHORT and "SIGKILL" in r["note"] for r in cells.values())


def test_a_run_that_is_killed_loses_no_cell(tmp_path):
    """The file is there whole from the start, and after each cell."""
    (tmp_path / "validate.json").write_text('{"complete": true, "results": ["of an earlier run"]}')
    only = "float32 graph composite"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen([*VALIDATE, "--only", only, "--out", str(tmp_path)], **quiet)
    seen, limit = [], time.monotonic() + 120
    try:
        while len(seen) < 3 and time.monotonic() < limit:
            content = json.loads((tmp_path / "validate.json").read_text())
            number = len(
                {result["case"] for result in content["results"] if result != "of an earlier run"}
            )
            if number and number not in seen:
                seen.append(number)
            time.sleep(0.005)
        assert run.poll() is None
    finally:
        run.kill()
        run.wait()
    content = json.loads((tmp_path / "validate.json").read_text())
    assert content["complete"] is False and content["environment"]["device_target"] == "CPU"
    left = [result for result in content["results"] if result["against"] == REFERENCE]
    assert max(seen) <= len(left) < len(validate.select(only))
    assert {result["status"] for result in left} == {HELD}


def test_what_is_saved_grows_by_a_cell(tmp_path, monkeypatch):
    cells = validate.select("locking float32 graph")
    held = [{"against": REFERENCE, "status": HELD, "share": 0.5, "note": ""}]
    monkeypatch.setattr(validate, "obstacle", lambda device_target, out: None)
    monkeypatch.setattr(
        validate,
        "run_jobs",
        lambda jobs, workers, keep_going: (
            (number, {"event": "cell", "cell": cell, "results": held})
            for number, job in enumerate(jobs)
            for cell in job.content["cells"]
        ),
    )
    saved = []
    content = validate.validate(cells, "CPU", tmp_path, save=saved.append)
    assert [len(part["results"]) for part in saved] == list(range(len(cells) + 1))
    assert [part["complete"] for part in saved] == [False] * len(cells) + [True]
    assert content == saved[-1]


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
def test_a_device_that_is_not_there_never_passes(tmp_path, target):
    """The devices are hidden: MindSpore for the CPU has none, and others look at these names."""
    hide = "import os\nos.environ.update(CUDA_VISIBLE_DEVICES='', ASCEND_RT_VISIBLE_DEVICES='')\n"
    status, output, content = command(
        tmp_path, "--device-target", target, "--only", "locking", at_start=hide
    )
    assert status == 3
    assert {r["status"] for r in content["results"]} == {"not available on this device"}
    assert len(content["results"]) == len(validate.select("locking"))
    assert content["environment"]["device_target"] is None and content["complete"] is True
    assert "0 held" in output and target in content["results"][0]["note"]
