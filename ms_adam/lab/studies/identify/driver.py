"""One way to drive every optimizer: NumPy gradients in, NumPy places out."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from numbers import Real

import numpy as np

from ms_adam.lab.errors import UserError
from ms_adam.lab.loader import kind
from ms_adam.lab.studies.identify.forms import Numbers
from ms_adam.lab.studies.identify.target import FILLED


class Refused(Exception):
    """The optimizer does not take what it was given; the message is its own, on one line."""


class _Framework:
    """A framework whose optimizers derive from known classes."""

    @classmethod
    def makes(cls, thing):
        return isinstance(thing, cls.bases())


class _MindSpore(_Framework):
    """nn.Optimizer and experimental.optim.Optimizer: called with a tuple of gradients."""

    name = "mindspore"

    @staticmethod
    @contextlib.contextmanager
    def context(**values):
        """The values hold within; besides, PyNative waits for each operator.

        Reading the parameter after each step takes it ten times as long if it runs ahead.
        """
        import mindspore as ms

        values = {"pynative_synchronize": True, **values}
        before = {name: ms.get_context(name) for name in values}
        ms.set_context(**values)
        try:
            yield
        finally:
            ms.set_context(**before)

    @staticmethod
    def bases():
        from mindspore import nn
        from mindspore.experimental import optim

        return nn.Optimizer, optim.Optimizer

    @staticmethod
    def parameter(start, dtype):
        from mindspore import Parameter, Tensor
        from mindspore import dtype as kinds

        return Parameter(Tensor(start, getattr(kinds, dtype)), name="weight")

    @staticmethod
    def step(optimizer, parameter, gradient):
        from mindspore import Tensor

        optimizer((Tensor(gradient, parameter.dtype),))

    @staticmethod
    def value(parameter):
        return np.array(parameter.asnumpy(), np.float64)  # a copy: asnumpy() shares memory


class _Torch(_Framework):
    """torch.optim.Optimizer: reads .grad of its parameters."""

    name = "torch"
    context = contextlib.nullcontext

    @staticmethod
    def bases():
        import torch

        return (torch.optim.Optimizer,)

    @staticmethod
    def parameter(start, dtype):
        import torch

        return torch.nn.Parameter(torch.tensor(start, dtype=getattr(torch, dtype)))

    @staticmethod
    def step(optimizer, parameter, gradient):
        import torch

        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
        optimizer.step()

    @staticmethod
    def value(parameter):
        return np.array(parameter.detach().numpy(), np.float64)


class _Numpy:
    """Those of `ms_adam.reference`: init(parameter) and step(parameter, gradient, state)."""

    name = "numpy"
    context = contextlib.nullcontext

    class Place:
        """A parameter and the state that goes with it."""

        def __init__(self, value):
            self.value, self.state = np.array(value, np.float64), None

    @classmethod
    def parameter(cls, start, dtype):
        del dtype
        return cls.Place(start)

    @staticmethod
    def step(optimizer, parameter, gradient):
        if parameter.state is None:
            parameter.state = optimizer.init(parameter.value)
        with np.errstate(all="ignore"):
            parameter.value, parameter.state = optimizer.step(
                parameter.value, gradient, parameter.state
            )

    @staticmethod
    def value(parameter):
        return np.array(parameter.value, np.float64)

    @staticmethod
    def makes(thing):
        return not inspect.isclass(thing) and _is_method(thing)


def _is_method(thing):
    return callable(getattr(thing, "init", None)) and callable(getattr(thing, "step", None))


_OPTIMIZERS = (
    "an instance of mindspore.nn.Optimizer, mindspore.experimental.optim.Optimizer or "
    "torch.optim.Optimizer, or an object with init(parameter) and step(parameter, "
    "gradient, state), as those of ms_adam.reference"
)


class Driver:
    """Drives a target.

    Attributes:
        target: the `Target`.
        kind: "mindspore", "torch" or "numpy".
        values: its numbers, by role.
        assumed: those roles of `Numbers` that nothing tells: Adam's default stands for them.

    Raises:
        UserError: the target is not an optimizer, or can not be made with its options.
    """

    def __init__(self, target):
        self.target = target
        self._family = _family(target)
        self.kind = self._family.name
        target.check_complete()
        try:
            optimizer = target.make([self._family.parameter(np.zeros(1), "float32")])
        except Exception as error:
            raise UserError(
                f"{target} can not be made: {one_line(error)}\nits arguments: {target.arguments()}"
            ) from error
        if not self._family.makes(optimizer):
            raise UserError(
                f"{target} returned {kind(optimizer)}, not an optimizer; what is one: {_OPTIMIZERS}"
            )
        self.values = {**_read(optimizer), **target.values()}
        self.assumed = [
            role for role in Numbers._fields if role not in self.values and not target.takes(role)
        ]
        for role in Numbers._fields:
            self.values.setdefault(role, FILLED[role])

    def numbers(self, **roles):
        """The `Numbers` of a run; rate and decay in float32, as MindSpore keeps them."""
        values = {**self.values, **roles}
        if self.kind == "mindspore":
            for role in ("learning_rate", "weight_decay"):
                values[role] = float(np.float32(values[role]))
        return Numbers(*(values[role] for role in Numbers._fields))

    def run(self, probe, dtype="float32", **roles):
        """Where the optimizer takes a parameter: float64 of shape (steps, elements).

        Args:
            probe: a `Probe`.
            dtype: of the parameter and the gradients.
            **roles: values by role for this run, all of which the target takes.

        Raises:
            Refused: the optimizer raised an error.
        """
        family = self._family
        places = []
        try:
            with family.context():
                parameter = family.parameter(probe.start, dtype)
                optimizer = self.target.make([parameter], **roles)
                for gradient in probe.gradients:
                    family.step(optimizer, parameter, gradient)
                    places.append(family.value(parameter))
        except Exception as error:
            raise Refused(one_line(error)) from error
        return np.array(places)

    def run_rows(self, probe, present, **roles):
        """As `run`, with row-sparse gradients of the present rows, in graph mode. MindSpore only.

        PyNative has no row-sparse gradients.
        """
        import mindspore as ms

        from ms_adam.lab.studies.identify.rows import RowFeed

        start = np.repeat(probe.start[:, None], 2, axis=1)
        places = []
        try:
            with self._family.context(mode=ms.GRAPH_MODE):
                parameter = self._family.parameter(start, "float32")
                feed = RowFeed(self.target.make([parameter], **roles), start.shape)
                for gradient, rows in zip(probe.gradients, present):
                    values = np.repeat(gradient[rows][:, None], 2, axis=1)
                    feed(ms.Tensor(np.flatnonzero(rows), ms.int32), ms.Tensor(values, ms.float32))
                    places.append(self._family.value(parameter)[:, 0])
        except Exception as error:
            raise Refused(one_line(error)) from error
        return np.array(places)


def one_line(error):
    """An error's type and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -=")]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:160]}".rstrip(": ")


def _family(target):
    """Which family a target belongs to; UserError if to none.

    A class of optimizers says so itself. Of any other callable only what it returns tells, for
    which it has to be given the parameters that it expects.
    """
    factory = target.factory
    if inspect.isclass(factory):
        for family in _loaded():
            if issubclass(factory, family.bases()):
                return family
    if target.optimizes is None or (inspect.isclass(factory) and _is_method(factory)):
        return _Numpy
    importlib.import_module("mindspore")  # which a factory may import only when it is called
    if inspect.isclass(factory) and not _returns_another(factory):
        raise UserError(f"{target.name} is not an optimizer, which is {_OPTIMIZERS}")
    target.check_complete()
    attempts = []
    for family in _loaded():
        try:
            made = target.make([family.parameter(np.zeros(1), "float32")])
        except Exception as error:
            attempts.append(f"given parameters of {family.name} it raised {one_line(error)}")
        else:
            if family.makes(made):
                return family
            attempts.append(f"given parameters of {family.name} it returned {kind(made)}")
    raise UserError(
        f"{target} returns no optimizer: {'; '.join(attempts)}\nwhat is one: {_OPTIMIZERS}"
    )


def _loaded():
    return [family for family in (_MindSpore, _Torch) if family.name in sys.modules]


def _returns_another(factory):
    """Whether what a class returns may be no instance of it."""
    from mindspore import nn

    # nn.Cell's own __new__ returns an instance of the class.
    constructors = {type(factory).__call__, factory.__new__} - {nn.Cell.__new__}
    return any(map(inspect.isfunction, constructors))


def _read(optimizer):
    """The numbers that an optimizer itself tells, by role."""
    groups = getattr(optimizer, "param_groups", None)
    told = dict(groups[0]) if groups else {}
    for role in (*Numbers._fields, "momentum"):
        if hasattr(optimizer, role):
            told.setdefault(role, getattr(optimizer, role))
    told.setdefault("learning_rate", told.get("lr"))
    if isinstance(told.get("betas"), (tuple, list)):
        told["beta1"], told["beta2"] = told["betas"]
    numbers = {}
    for role in (*Numbers._fields, "momentum"):
        value = told.get(role)
        if hasattr(value, "asnumpy") and value.size == 1:
            value = value.asnumpy().item()
        if isinstance(value, Real) and not isinstance(value, bool):
            numbers[role] = float(value)
    return numbers
