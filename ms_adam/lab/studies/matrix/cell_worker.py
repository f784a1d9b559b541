"""The process that runs cells of the matrix: a MindSpore mode and a device are of a whole process.

Its events:

    {"event": "ready", "device_target": ...}   the target has computed something
    {"event": "cell", "cell": [case, dtype, mode, backend], "results": [...]}

A cell has one or two results, each a dict of ``against``, ``status``, ``share`` and ``note``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import math
import sys
import tempfile
import traceback
from typing import Callable, Optional

from ms_adam.lab.errors import UserError
from ms_adam.lab.run.worker import Events, enter

HELD = "held"
FELL_SHORT = "fell short"
NN_ADAM_CANNOT = "nn.Adam cannot run this"
NN_ADAM_DIFFERS = "nn.Adam computes something else"
NOT_OFFERED = "not offered"
NOT_AVAILABLE = "not available on this device"
STATUSES = (HELD, FELL_SHORT, NN_ADAM_CANNOT, NN_ADAM_DIFFERS, NOT_OFFERED, NOT_AVAILABLE)

REFERENCE = "reference"
NN_ADAM = "nn.Adam"

_PATIENCE = 300  # seconds for one cell, which needs one


def work(job: dict, events: Events) -> None:
    """Judges the cells of one mode.

    Args:
        job: ``mode``, ``device_target``, and ``cells``, a list of [case, dtype, mode, backend] in
            which those of one case and dtype stand together.
        events: Where to report.
    """
    device_target = job["device_target"]
    with tempfile.TemporaryDirectory() as scratch:
        with _ends_if_stuck():
            enter(job["mode"], {"device_target": device_target, "save_graphs_path": scratch})
            events.send("ready", device_target=_compute_on(device_target))
        if job["cells"]:
            _judge_all(job["cells"], device_target, events)


@contextlib.contextmanager
def _ends_if_stuck():
    """Ends the process, with its stack on standard error, if this takes longer than `_PATIENCE`."""
    faulthandler.dump_traceback_later(_PATIENCE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _compute_on(device_target: str) -> str:
    """Computes something on a device; returns the device that MindSpore used."""
    import mindspore
    import numpy

    ones = mindspore.Tensor(numpy.ones(3), mindspore.float32)
    if not numpy.array_equal((ones + ones).asnumpy(), numpy.full(3, 2.0)):
        raise UserError(f"1 + 1 is not 2 on {device_target}")
    computed_on = mindspore.get_context("device_target")
    if computed_on != device_target:
        raise UserError(f"MindSpore computes on {computed_on} in place of {device_target}")
    return computed_on


def _judge_all(cells: list, device_target: str, events: Events) -> None:
    from ms_adam.lab.studies.matrix.cases import CASES, COLUMNS, SCHEMES
    from ms_adam.lab.studies.matrix.cells import run_nn_adam

    cases = {case.name: case for case in CASES + SCHEMES}
    columns = {column.name: column for column in COLUMNS}
    for (name, dtype), members in itertools.groupby(cells, key=lambda cell: cell[:2]):
        theirs = None
        for cell in members:
            backend = cell[-1]
            print(f"cell: {name}, {dtype}, {backend}", file=sys.stderr, flush=True)
            options = {**cases[name].options, **columns[backend].options}
            state_dtype = options.get("state_dtype", "float32")
            obstacle = _device_obstacle(options["backend"], dtype, state_dtype, device_target)
            if obstacle is not None:
                results = [result(REFERENCE, NOT_AVAILABLE, note=obstacle)]
            else:
                with _ends_if_stuck():
                    theirs = theirs or run_nn_adam(cases[name], dtype)
                    results = judge(cases[name], dtype, columns[backend], theirs)
            events.send("cell", cell=cell, results=results)


def judge(case, dtype: str, column, theirs) -> list[dict]:
    """The results of one cell: against the reference, and against `nn.Adam` where it ran.

    `theirs` is the `cells.TheirRun` of the case.
    """
    from ms_adam.lab.studies.matrix.cases import SCALES, is_refused
    from ms_adam.lab.studies.matrix.cells import distance_to_nn_adam, excess, shortened

    try:
        optimizer, note = _make(case, dtype, column)
    except Exception as error:  # the result of the cell
        traceback.print_exc()
        return [result(REFERENCE, FELL_SHORT, note=shortened(error))]
    if optimizer is None:
        fault = column.complete and not is_refused(case, dtype, column)
        return [result(REFERENCE, FELL_SHORT if fault else NOT_OFFERED, note=note)]

    def measured(against: str, note: str, measure: Callable[[], float]) -> dict:
        try:
            share = measure()
        except Exception as error:  # likewise
            traceback.print_exc()
            return result(against, FELL_SHORT, note=shortened(error))
        return result(against, HELD if share <= 1.0 else FELL_SHORT, share, note)

    own = measured(
        REFERENCE, note, lambda: excess(case, optimizer, compiled=column.compiled, scale=SCALES)
    )
    if theirs.error is not None:
        return [own, result(NN_ADAM, NN_ADAM_CANNOT, note=theirs.error)]
    note = _left_out(theirs.shapes)
    if theirs.unbounded:
        unbounded = f"no bound for {100 * theirs.unbounded:.2g}% of nn.Adam's numbers"
        note = "; ".join(filter(None, (note, unbounded)))
    if theirs.share > 1.0:  # of the bound on its own roundings: not the formula, then
        return [own, result(NN_ADAM, NN_ADAM_DIFFERS, theirs.share, note)]
    return [
        own,
        measured(NN_ADAM, note, lambda: distance_to_nn_adam(theirs, dtype, column.options)),
    ]


def _make(case, dtype, column):
    """The optimizer of a cell, for the largest set of shapes that it takes, and a note on them.

    If the backend refuses all, None and its reason.
    """
    from ms_adam.lab.studies.matrix.cells import SHAPE_SETS, make_optimizer, make_parameters

    for shapes in SHAPE_SETS:
        try:
            optimizer = make_optimizer(case, make_parameters(shapes, dtype), **column.options)
        except ValueError as error:
            said = f"backend='{column.options['backend']}' cannot run here: "
            if said not in str(error):
                raise
            reason = str(error).partition(said)[2].rstrip(".")
            continue
        return optimizer, _left_out(shapes)
    return None, reason


def _left_out(shapes) -> str:
    from ms_adam.lab.studies.matrix.cases import SHAPES

    missing = [str(shape) for shape in SHAPES if shape not in shapes]
    return f"without shape {' and '.join(missing)}" if missing else ""


@functools.cache
def _device_obstacle(
    backend: str, dtype: str, state_dtype: str, device_target: str
) -> Optional[str]:
    """Why a backend cannot run these dtypes on this machine, whatever the case; None if it can."""
    from ms_adam import Adam
    from ms_adam.backends import BACKENDS
    from ms_adam.backends.capabilities import missing_dtype
    from ms_adam.lab.studies.matrix.cells import make_parameters
    from ms_adam.state import weight_kinds

    plain = Adam(make_parameters([(1,)], "float32"), backend="composite")
    kinds = weight_kinds(make_parameters([(1,)], dtype), masters=False)
    obstacle = BACKENDS[backend].obstacle(plain.formula, plain.execution, [], device_target)
    return obstacle or missing_dtype(kinds, state_dtype, device_target)


def result(against: str, status: str, share: Optional[float] = None, note: str = "") -> dict:
    """One result of a cell."""
    if share is not None and not math.isfinite(share):
        share, note = None, "; ".join(filter(None, ("a value is NaN or infinite", note)))
    return {"against": against, "status": status, "share": share, "note": note}
