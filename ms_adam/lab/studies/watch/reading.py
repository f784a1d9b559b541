"""Reads an optimizer in its script: some elements of each tensor, rates, and the count of steps.

Reading changes nothing. It costs time, so that at most `ROOM` elements of an optimizer are read.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from ms_adam.lab import targets
from ms_adam.lab.studies.watch.step import Part
from ms_adam.reference import Adam

ROOM = 200_000
LEAST, MOST = 32, 4096  # elements of a tensor

# The number of updates: ours, mint's and experimental's, nn's.
_COUNTS = ("update_count", "state_step", "global_step")
_BETAS = ("beta1", "beta2")
_NONE = np.empty(0)


class Look(NamedTuple):
    """What an optimizer holds at a time."""

    count: Optional[int]
    # "parameter" and the quantities of targets.STATE; arrays of those that it lacks are empty
    arrays: dict[str, list[np.ndarray]]


def stride(size: int, room: int) -> int:
    """The least stride that reads at most `room` elements, of all places in a kernel alike.

    It has no factor in common with the size: every 36th element of a convolution is always the
    same one of its kernels of 3 x 3, which may have no gradient.
    """
    found = max(1, -(-size // room))
    while math.gcd(found, size) > 1:
        found += 1
    return found


class Reader:
    """Reads one optimizer, and does not keep it alive."""

    def __init__(self, cell: Any):
        self._cell = weakref.ref(cell)
        count = len(self.parameters)
        room = min(MOST, max(LEAST, ROOM // max(1, count)))
        self._strides = [stride(parameter.size, room) for parameter in self.parameters]
        dtypes = self.optimizer.state_dtypes()
        # Of sharded state each process has a part.
        known = all(len(of) == count for of in dtypes.values())
        self.quantities = list(dtypes) if known else ["parameter"]
        self.moment_dtypes = dtypes["moment2"] if "moment2" in self.quantities else [""] * count
        narrow = getattr(self._of_ours("execution"), "state_dtype", "float32")
        if known and narrow != "float32":
            self.moment_dtypes = [f"{narrow}, stochastic"] * count
        theirs = getattr(cell, "use_lazy", type(cell).__name__ == "LazyAdam")
        self.lazy = bool(getattr(self._of_ours("formula"), "lazy", theirs))
        self._uncounted = 0
        self._uncounted = min(0, self.count() or 0)  # mint.optim.AdamW counts from -1

    @property
    def cell(self) -> Any:
        """The optimizer, which the script keeps alive during its calls."""
        return self._cell()

    @property
    def optimizer(self) -> targets.Optimizer:
        """The optimizer behind the one interface of all."""
        return targets.wrap(self.cell)

    @property
    def parameters(self) -> list:
        """The parameters that it updates."""
        return self.optimizer.parameters

    def look(self) -> Look:
        """What it holds now."""
        optimizer = self.optimizer
        arrays = {"parameter": self.elements(optimizer.parameters)}
        for quantity in targets.STATE:
            known = quantity in self.quantities
            tensors = optimizer.buffers(quantity) if known else ()
            arrays[quantity] = self.elements(tensors) or [_NONE] * len(self._strides)
        return Look(self.count(), arrays)

    def elements(self, tensors: Sequence[Any]) -> list[np.ndarray]:
        """Copies of the elements of each tensor that are looked at, in float64."""
        return [self._of(tensor, stride) for tensor, stride in zip(tensors, self._strides)]

    def count(self) -> Optional[int]:
        """The number of updates so far, if the optimizer counts them."""
        for name in _COUNTS:
            counter = getattr(self.cell, name, None)
            if hasattr(counter, "asnumpy"):
                return int(counter.asnumpy().reshape(-1)[0]) - self._uncounted
        return None

    def wait(self) -> None:
        """Waits until the last parameter can be read: PyNative runs ahead."""
        self.parameters[-1].asnumpy()

    def gradients(self, given: Any) -> Optional[list[np.ndarray]]:
        """The elements of gradients; None unless each is dense, of its parameter's shape."""
        parameters = self.parameters
        if not isinstance(given, (tuple, list)) or len(given) != len(parameters):
            return None
        for gradient, parameter in zip(given, parameters):
            if getattr(gradient, "shape", None) != parameter.shape:
                return None
        return self.elements(given)

    def method(self) -> Adam:
        """Its numbers as those of Algorithm 1."""
        optimizer = self.optimizer
        numbers = optimizer.numbers()
        taken = {name: numbers[name] for name in ("beta1", "beta2", "eps") if name in numbers}
        groups = getattr(self.cell, "param_groups", None) or [{}]
        formula = getattr(self.cell, "formula", None)
        maximize = bool(getattr(formula, "maximize", groups[0].get("maximize", False)))
        return Adam(loss_scale=optimizer.loss_scale(), maximize=maximize, **taken)

    def own_numbers(self, method: Adam) -> list[dict[str, Any]]:
        """By parameter, the numbers in which its group differs from a method."""
        cell = self.cell
        groups = getattr(cell, "param_groups", None)
        if groups:
            given = [{**group, **dict(zip(_BETAS, group.get("betas", ())))} for group in groups]
            index = [i for i, group in enumerate(groups) for _ in group["params"]]
        elif hasattr(cell, "formula"):  # ours
            given, index = [it._asdict() for it in cell.groups.formulas], cell.groups.index
        else:
            return [{}] * len(self.parameters)
        own = []
        for numbers in given:
            names = [name for name in (*_BETAS, "eps", "maximize") if name in numbers]
            pairs = ((name, type(getattr(method, name))(numbers[name])) for name in names)
            own.append({name: value for name, value in pairs if value != getattr(method, name)})
        return [own[i] for i in index]

    def changes_gradients(self) -> bool:
        """Whether it clips, averages or leaves out gradients itself, as ours can."""
        execution = self._of_ours("execution")
        clips = getattr(execution, "max_grad_norm", None) is not None
        return clips or getattr(execution, "accumulates", False)

    def parts(
        self, before: Look, after: Look, settings: tuple, own: list, gradients: Optional[list]
    ) -> list[Part]:
        """What a step did, by parameter, with the rates, decays and `own_numbers` that it had."""
        seen = [
            look.arrays[quantity]
            for quantity in ("parameter", "moment1", "moment2")
            for look in (before, after)
        ]
        given = [_NONE] * len(self.parameters) if gradients is None else gradients
        columns = (self.moment_dtypes, *settings, *seen, before.arrays["vhat"], given, own)
        return [
            Part(parameter.name, parameter.size, targets.dtype_name(parameter), *of_parameter)
            for parameter, *of_parameter in zip(self.parameters, *columns)
        ]

    def _of_ours(self, name):
        """An attribute of one of ours, or of the core of one of `ms_adam.mint`; None of others."""
        cell = self.cell
        return getattr(getattr(cell, "core", cell), name, None)

    def _of(self, tensor, stride):
        if targets.dtype_name(tensor) == "bfloat16" or not hasattr(tensor, "asnumpy"):
            array = targets.to_numpy(tensor)
        else:
            array = tensor.asnumpy()  # shares memory; the elements are copied
        return array.reshape(-1)[::stride].astype(np.float64)
