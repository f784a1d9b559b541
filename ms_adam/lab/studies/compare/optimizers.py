"""One face for every optimizer: MindSpore's, ours, and those of NumPy in `ms_adam.reference`.

An optimizer's state and scalars lie under different names in each family; the tables below say
where. What a family does not have is left out, not invented.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any, Callable, Optional

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn

from ms_adam import reference
from ms_adam.lab.errors import UserError
from ms_adam.lab.loader import kind, load_callable
from ms_adam.lab.run.worker import told
from ms_adam.lab.studies.compare.config import REFERENCE, Side
from ms_adam.lab.studies.compare.factories import refuse_arguments
from ms_adam.reference.correction import bias_correction

# quantity: the attributes that hold it, one buffer for each parameter
_STATE = {
    "moment1": ("moment1", "moments1", "exp_avg"),  # nn.Adam and ours, nn.AdamWeightDecay, optim
    "moment2": ("moment2", "moments2", "exp_avg_sq"),
    "vhat": ("vhat", "max_exp_avg_sq"),
}


def make_optimizer(name: str, side: Side, parameters: Sequence[Parameter]):
    """Makes the optimizer of a side.

    Args:
        name: The side's name, for messages.
        side: What it is to be.
        parameters: What it is to optimize.

    Returns:
        A `FrameworkOptimizer` or a `ReferenceOptimizer`.

    Raises:
        UserError: There is no such class or function, it does not take the options, or it
            returns something else.
    """
    dotted = "ms_adam.reference.Adam" if side.optimizer == REFERENCE else side.optimizer
    factory = load_callable(dotted)
    where = f"side '{name}': {dotted}"
    options = dict(side.options)
    if isinstance(factory, type) and issubclass(factory, reference.Method):
        if side.backend is not None:
            raise UserError(f"{where} has no backend, but backend = {side.backend!r} is given")
        return ReferenceOptimizer(where, factory, options, parameters)
    if side.backend is not None:
        if not _takes_backend(factory):
            raise UserError(f"{where} has no backend, but backend = {side.backend!r} is given")
        options["backend"] = side.backend
    refuse_arguments(factory, where, options, list(parameters))
    try:
        optimizer = factory(list(parameters), **options)
    except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        # A KeyError's text is the representation of its message.
        message = str(error.args[0]) if isinstance(error, KeyError) else told(error)
        raise UserError(
            f"{where} refused its options {options}: {message.rstrip('. ')}. Its arguments: "
            f"{inspect.signature(factory)}"
        ) from error
    if not isinstance(optimizer, nn.Cell) or not hasattr(optimizer, "parameters"):
        raise UserError(
            f"{where} must return an optimizer (a Cell with 'parameters' that is called with the "
            f"gradients), but returned {kind(optimizer)}"
        )
    return FrameworkOptimizer(optimizer)


def _takes_backend(factory: Callable) -> bool:
    from ms_adam import Adam

    while isinstance(factory, functools.partial):
        factory = factory.func
    if isinstance(factory, type) and issubclass(factory, Adam):
        return True  # AdamW takes it among its keywords
    return "backend" in inspect.signature(factory).parameters


class FrameworkOptimizer:
    """An optimizer that MindSpore runs.

    Attributes:
        cell: The optimizer itself.
        parameters: What it optimizes, in its own order, which is that of the gradients.
        backend: Which backend runs, if it has several.
    """

    def __init__(self, cell: nn.Cell):
        self.cell = cell
        self.parameters = list(cell.parameters)
        self.backend = getattr(cell, "backend", None)

    def settings(self) -> tuple[list[float], list[float]]:
        """Learning rate and weight decay of each parameter in the step that comes now."""
        groups = getattr(self.cell, "param_groups", None)
        if groups is not None:
            pairs = [
                (_number(group["lr"]), _number(group["weight_decay"]))
                for group in groups
                for _ in group["params"]
            ]
            return [rate for rate, _ in pairs], [decay for _, decay in pairs]
        count = len(self.parameters)
        rates = _of_each(self.cell.get_lr(), count)
        # nn.Optimizer hands out the decay times the loss scale, which its gradients carry too; ours
        # gives it a loss scale of 1.
        scale = 1.0 if hasattr(self.cell, "formula") else float(self.cell.loss_scale)
        decays = [decay / scale for decay in _of_each(self.cell.get_weight_decay(), count)]
        acts = (flag and self.cell.exec_weight_decay for flag in self.cell.decay_flags)
        return rates, [decay if act else 0.0 for decay, act in zip(decays, acts)]

    def corrections(self) -> Optional[tuple[float, float]]:
        """c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t) of the last step, as the optimizer has them.

        None if it is not known to have any.
        """
        cell = self.cell
        formula = getattr(cell, "formula", None)
        if formula is not None:  # ours: from the count of steps
            if not formula.bias_correction:
                return 1.0, 1.0
            t = int(cell.global_step.asnumpy()[0])
            return _corrections(formula.beta1, formula.beta2, t)
        if hasattr(cell, "beta1_power"):  # nn.Adam: float32 powers, multiplied up step by step
            return (
                1.0 - _number(cell.beta1_power),
                math.sqrt(max(0.0, 1.0 - _number(cell.beta2_power))),
            )
        if hasattr(cell, "state_step") and "betas" in cell.param_groups[0]:
            betas = map(_number, cell.param_groups[0]["betas"])
            return _corrections(*betas, int(_number(cell.state_step)))
        if isinstance(cell, nn.AdamWeightDecay):
            return 1.0, 1.0
        return None

    def state(self) -> dict[str, list[np.ndarray]]:
        """{quantity: an array for each parameter}, with "parameter" itself as the last."""
        found = {}
        for quantity, names in _STATE.items():
            buffers = next((getattr(self.cell, n) for n in names if hasattr(self.cell, n)), None)
            if buffers is not None:
                found[quantity] = self._per_parameter(buffers)
        found["parameter"] = [to_numpy(parameter) for parameter in self.parameters]
        return found

    def _per_parameter(self, buffers) -> list[np.ndarray]:
        layout = getattr(self.cell, "layout", None)
        if layout is None:
            return [to_numpy(buffer) for buffer in buffers]
        flat = {str(buffer.dtype).lower(): to_numpy(buffer) for buffer in buffers}
        arrays = {
            name: flat[dtype][offset : offset + math.prod(shape)].reshape(shape)
            for name, shape, dtype, offset in zip(*layout)
        }
        return list(arrays.values())  # the layout has the order of the parameters

    def state_dtypes(self) -> dict[str, list[str]]:
        """The dtype in which each quantity of each parameter is kept."""
        dtypes = {"parameter": [dtype_name(parameter) for parameter in self.parameters]}
        for quantity, names in _STATE.items():
            buffers = next((getattr(self.cell, n) for n in names if hasattr(self.cell, n)), None)
            if buffers is not None:
                layout = getattr(self.cell, "layout", None)
                dtypes[quantity] = (
                    list(layout.dtypes) if layout else [dtype_name(buffer) for buffer in buffers]
                )
        return dtypes

    def update(self, gradients: Sequence[np.ndarray]) -> None:
        """One step with given gradients, without the network."""
        self.cell(
            tuple(
                Tensor(gradient, parameter.dtype)
                for gradient, parameter in zip(gradients, self.parameters)
            )
        )


class ReferenceOptimizer:
    """A method of `ms_adam.reference`: parameters and state are float64 and never rounded.

    As in `nn.Optimizer`, weight decay acts on parameters without 'beta' or 'gamma' in their names.
    """

    backend = None

    def __init__(self, where: str, method: type, options: dict[str, Any], parameters):
        self.parameters = list(parameters)
        rates = options.pop("learning_rate", None)
        self._rates = [float(rate) for rate in rates] if isinstance(rates, list) else None
        if rates is not None and self._rates is None:
            options["learning_rate"] = rates
        self._max_norm = options.pop("max_grad_norm", None)
        refuse_arguments(method, f"{where} (or max_grad_norm)", options)
        try:
            self._method = method(**options)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} refused its options: {error}") from error
        undecayed = self._method
        if getattr(self._method, "weight_decay", 0.0):
            undecayed = dataclasses.replace(self._method, weight_decay=0.0)
        self._methods = [
            undecayed if "beta" in parameter.name or "gamma" in parameter.name else self._method
            for parameter in self.parameters
        ]
        self._positions = [to_numpy(parameter).astype(np.float64) for parameter in self.parameters]
        self._states = [m.init(w) for m, w in zip(self._methods, self._positions)]
        self._steps = 0

    def settings(self) -> tuple[list[float], list[float]]:
        rate = self._rate(self._steps)
        decays = [float(getattr(method, "weight_decay", 0.0)) for method in self._methods]
        return [rate] * len(decays), decays

    def corrections(self) -> Optional[tuple[float, float]]:
        method = self._method
        if not isinstance(method, reference.Adam):
            return None
        if not method.bias_correction:
            return 1.0, 1.0
        return _corrections(method.beta1, method.beta2, self._steps)

    def state(self) -> dict[str, list[np.ndarray]]:
        found = {
            quantity: [getattr(state, quantity) for state in self._states]
            for quantity in _STATE
            if getattr(self._states[0], quantity, None) is not None
        }
        return {**found, "parameter": [position.copy() for position in self._positions]}

    def state_dtypes(self) -> dict[str, list[str]]:
        return {quantity: ["float64"] * len(arrays) for quantity, arrays in self.state().items()}

    def update(self, gradients: Sequence[np.ndarray]) -> None:
        gradients = [np.asarray(gradient, np.float64) for gradient in gradients]
        if self._max_norm is not None:
            # The limit is for gradients without their loss scale, which the method takes out.
            scale = getattr(self._method, "loss_scale", 1.0)
            gradients = reference.clip_by_global_norm(gradients, self._max_norm * scale)
        rate = self._rate(self._steps)
        self._steps += 1
        for i, (method, gradient) in enumerate(zip(self._methods, gradients)):
            self._positions[i], self._states[i] = method.step(
                self._positions[i], gradient, self._states[i], learning_rate=rate
            )

    def _rate(self, done: int) -> float:
        """A list's last entry stays, as in `nn.Optimizer`."""
        if self._rates is None:
            return float(self._method.learning_rate)
        return self._rates[min(done, len(self._rates) - 1)]


def to_numpy(tensor) -> np.ndarray:
    """A copy of a tensor's values (asnumpy() may share memory); bfloat16 as float32, exactly."""
    if tensor.dtype == mindspore.bfloat16:
        tensor = tensor.astype(mindspore.float32)
    return np.array(tensor.asnumpy())


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array rounded to the named dtype; bfloat16 is handed out as float32."""
    return to_numpy(Tensor(array, getattr(mindspore, dtype)))


def dtype_name(tensor) -> str:
    return str(tensor.dtype).lower()  # "Float32"


def _corrections(beta1: float, beta2: float, t: int) -> tuple[float, float]:
    return bias_correction(beta1, t), math.sqrt(bias_correction(beta2, t))


def _number(value: Any) -> float:
    return float(value.asnumpy().reshape(-1)[0]) if isinstance(value, Tensor) else float(value)


def _of_each(value: Any, count: int) -> list[float]:
    """One number for each parameter, from one for all or a sequence."""
    if isinstance(value, (tuple, list)):
        return [_number(entry) for entry in value]
    return [_number(value)] * count
