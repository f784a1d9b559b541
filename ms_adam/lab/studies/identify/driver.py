"""Drives every optimizer in one way: NumPy gradients in, the places of its parameter out."""

from __future__ import annotations

import contextlib

import numpy as np

from ms_adam.lab.studies.identify.forms import Numbers
from ms_adam.lab.studies.identify.probes import Probe
from ms_adam.lab.targets import DEFAULTS, Target, mindspore_context, one_line


class Refused(Exception):
    """The optimizer raised an error; the message is its own, on one line."""


class Driver:
    """Drives a target.

    Attributes:
        target: The `Target`, with Adam's defaults for arguments that nothing gives a value.
        kind: "mindspore", "torch" or "numpy".
        values: Its numbers, by role.
        assumed: The roles of `Numbers` that nothing tells: Adam's defaults stand for them.
        quiet: The roles that runs have unless they are given others: no weight decay, if it can be
            set.

    Raises:
        UserError: The target is not an optimizer, or cannot be made with its options.
    """

    def __init__(self, target: Target):
        self.target = target = target.filled()
        made = target.trial()
        self.kind, self._parameter = made.name, made.parameter
        self.values = {**made.numbers(), **target.values()}
        self.assumed = [
            role for role in Numbers._fields if role not in self.values and not target.takes(role)
        ]
        for role in Numbers._fields:
            self.values.setdefault(role, DEFAULTS[role])
        self.quiet = {"weight_decay": 0.0} if target.takes("weight_decay") else {}

    def numbers(self, **roles: float) -> Numbers:
        """The `Numbers` of a run; rate and decay in float32, as MindSpore keeps them."""
        values = {**self.values, "weight_decay": 0.0, **roles}
        if self.kind == "mindspore":
            for role in ("learning_rate", "weight_decay"):
                values[role] = float(np.float32(values[role]))
        return Numbers(*(values[role] for role in Numbers._fields))

    def run(self, probe: Probe, dtype: str = "float32", **roles) -> np.ndarray:
        """The places of a parameter after each step: float64 of shape (steps, elements).

        The dtype is that of parameter and gradients; the roles have values for this run, and the
        target takes them all. Raises Refused if the optimizer raised an error.
        """
        places = self._each_step(probe, dtype, roles, lambda optimizer: optimizer.weights()[0])
        return np.array(places, np.float64)

    def states(self, probe: Probe, **roles) -> list[dict]:
        """The state after each step of a float32 parameter, as `targets.Optimizer.state` has it."""
        return self._each_step(probe, "float32", roles, lambda optimizer: optimizer.state())

    def _each_step(self, probe, dtype, roles, read):
        with self._refusing():
            optimizer = self._build(probe.start, dtype, roles)
            found = []
            for gradient in probe.gradients:
                for _ in range(optimizer.calls_per_update()):
                    optimizer.step([optimizer.loss_scale() * gradient])
                found.append(read(optimizer))
            return found

    def _build(self, start, dtype, roles):
        return self.target.build([self._parameter(start, dtype)], **{**self.quiet, **roles})

    def run_rows(self, probe: Probe, present: np.ndarray) -> np.ndarray:
        """As `run`, with row-sparse gradients of the present rows, in graph mode. MindSpore only.

        PyNative has no row-sparse gradients.
        """
        import mindspore as ms

        from ms_adam.lab.studies.identify.rows import RowFeed

        start = np.repeat(probe.start[:, None], 2, axis=1)
        with self._refusing(mode=ms.GRAPH_MODE):
            optimizer = self._build(start, "float32", {})
            feed, places = RowFeed(optimizer.optimizer, start.shape), []
            for gradient, rows in zip(probe.gradients, present):
                values = np.repeat(gradient[rows][:, None], 2, axis=1)
                indices = ms.Tensor(np.flatnonzero(rows), ms.int32)
                for _ in range(optimizer.calls_per_update()):
                    feed(indices, ms.Tensor(optimizer.loss_scale() * values, ms.float32))
                places.append(optimizer.weights()[0][:, 0])
            return np.array(places, np.float64)

    @contextlib.contextmanager
    def _refusing(self, **context):
        """Turns any error into `Refused`, within MindSpore's settings for a run.

        PyNative waits for each operator: reading the parameter after each step takes it ten times
        as long if it runs ahead.
        """
        try:
            with contextlib.ExitStack() as stack:
                if self.kind == "mindspore":
                    stack.enter_context(mindspore_context(pynative_synchronize=True, **context))
                yield
        except Exception as error:
            raise Refused(one_line(error)) from error
