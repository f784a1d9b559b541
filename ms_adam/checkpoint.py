"""Reads the state of an Adam from a checkpoint into an optimizer of ours, or refuses it whole."""

import math
import os

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_adam.state import FLAT_LAYOUT, FlatLayout

_STATE = ("moment1.", "moment2.", "vhat.", "master_weight.")
_WIDENINGS = {"float32": ("float16", "bfloat16", "float32"), "float64": ("float32", "float64")}


def load_state(optimizer, checkpoint):
    """Set the moments and the step count of an optimizer from a checkpoint.

    Args:
        optimizer: an `Adam` or `AdamW` of ours, of any backend and layout.
        checkpoint: a path, or a dict of names to Parameters, Tensors or arrays: of `nn.Adam` or of
            an optimizer of ours with any backend and layout, its parameters in any order. Entries
            of the network itself, and learning rates, are left alone.

    Raises:
        TypeError: If `checkpoint` is neither a path nor a dict.
        ValueError: If an entry is missing, too much, or of another shape or dtype; the message
            lists them all, and the optimizer is unchanged.

    Example:
        >>> import ms_adam
        >>> from mindspore import nn
        >>> params = nn.Dense(4, 2).trainable_params()
        >>> old, new = nn.Adam(params), ms_adam.Adam(params, flat_state=True)
        >>> ms_adam.load_state(new, old.parameters_dict())
    """
    entries = _read(checkpoint)
    step = _step(entries, optimizer.formula)
    given, wanted = _per_parameter(entries), _wanted(optimizer)
    for name, target in wanted.items():
        if 0 in target.shape:  # files of MindSpore lack empty tensors
            given.setdefault(name, np.zeros(target.shape, target.buffer.dtype))
    _refuse_differences(type(optimizer).__name__, given, wanted)
    for name, target in wanted.items():
        target.fill(given[name])
    for target in {id(target.buffer): target for target in wanted.values()}.values():
        target.write()  # once for each buffer, which may be that of many parameters
    formula = optimizer.formula
    optimizer.global_step.set_data(Tensor([step], ms.int32))
    optimizer.beta1_power.set_data(Tensor(formula.beta1**step, ms.float32))
    optimizer.beta2_power.set_data(Tensor(formula.beta2**step, ms.float32))


class _Target:
    """One parameter's slice of a buffer of the optimizer; written when the buffer is."""

    def __init__(self, parameter, array, offset, shape):
        self.parameter, self.buffer, self.shape = parameter, array, tuple(shape)
        self.slice = slice(offset, offset + int(np.prod(shape)))

    def fill(self, value):
        self.buffer.reshape(-1)[self.slice] = value.astype(self.buffer.dtype).reshape(-1)

    def write(self):
        self.parameter.set_data(Tensor(self.buffer, self.parameter.dtype))


def _read(checkpoint):
    """The entries of a checkpoint as {name: array}."""
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = ms.load_checkpoint(os.fspath(checkpoint))
    if not isinstance(checkpoint, dict):
        raise TypeError(f"'checkpoint' must be a path or a dict, but got "
                        f"{type(checkpoint).__name__}.")
    return {name: np.array(value.asnumpy() if hasattr(value, "asnumpy") else value)
            for name, value in checkpoint.items()}


def _step(entries, formula):
    """The number of steps made.

    In MindSpore 2.0 `nn.Adam` leaves global_step at 0 while the learning rate is fixed: then
    beta2_power tells, as beta2^t, or beta1_power, whichever has not reached 0.
    """
    step = int(entries["global_step"].reshape(-1)[0]) if "global_step" in entries else 0
    if step == 0:
        for name, beta in (("beta2_power", formula.beta2), ("beta1_power", formula.beta1)):
            power = float(entries.get(name, np.array(1.0)).reshape(-1)[0])
            if 0.0 < power < 1.0 and beta > 0.0:
                return round(math.log(power) / math.log(beta))
    return step


def _per_parameter(entries):
    """State entries with one array for each parameter, whatever the layout was."""
    given = {name: value for name, value in entries.items() if name.startswith(_STATE)}
    if FLAT_LAYOUT in entries:
        layout = FlatLayout.from_bytes(entries[FLAT_LAYOUT])
        for prefix in ("moment1", "moment2", "vhat"):
            buffers = {dtype: entries[f"flat_{prefix}.{dtype}"] for dtype in layout.sizes()
                       if f"flat_{prefix}.{dtype}" in entries}
            if buffers:
                given.update(layout.split(prefix, buffers))
    return given


def _wanted(optimizer):
    """{name of the state entry: where it goes} of an optimizer."""
    wanted = {}
    for prefix in ("moment1", "moment2", "vhat"):
        buffers = getattr(optimizer, prefix, None)
        if buffers is None:
            continue
        arrays = [np.array(buffer.asnumpy()) for buffer in buffers]
        if hasattr(optimizer, "layout"):
            by_dtype = {str(buffer.dtype).lower(): (buffer, array)
                        for buffer, array in zip(buffers, arrays)}
            for name, shape, dtype, offset in zip(*optimizer.layout):
                wanted[f"{prefix}.{name}"] = _Target(*by_dtype[dtype], offset, shape)
        else:
            for parameter, buffer, array in zip(optimizer.parameters, buffers, arrays):
                wanted[f"{prefix}.{parameter.name}"] = _Target(buffer, array, 0, buffer.shape)
    for weight in getattr(optimizer, "master_weights", ()):
        if weight.name.startswith("master_weight."):
            wanted[weight.name] = _Target(weight, np.array(weight.asnumpy()), 0, weight.shape)
    return wanted


def _refuse_differences(owner, given, wanted):
    problems = [f"missing: {name}" for name in sorted(set(wanted) - set(given))]
    problems += [f"not expected: {name}" for name in sorted(set(given) - set(wanted))]
    for name in sorted(set(given) & set(wanted)):
        value, target = given[name], wanted[name]
        if value.shape != target.shape:
            problems.append(f"{name} has shape {value.shape}, must be {target.shape}")
        elif str(value.dtype) not in _WIDENINGS[str(target.buffer.dtype)]:
            problems.append(f"{name} is {value.dtype}, must be {target.buffer.dtype}")
    if problems:
        raise ValueError(f"For '{owner}', the checkpoint does not fit:\n  " + "\n  ".join(problems))
