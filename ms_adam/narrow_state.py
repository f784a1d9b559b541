"""Narrow state in checkpoints: each entry is exchanged as the float32 numbers that it stands for.

So a checkpoint of any `state_dtype` goes into an optimizer of any other one, rounded to nearest
where that one is narrower. Masters go into masters of either kind, and begin at the weights where
the checkpoint has none; an optimizer without masters refuses them. An optimizer's own entries, as
`mindspore.save_checkpoint` saves them, come back with the same bits.
"""

from typing import Any, Dict, Iterable, Iterator, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter

from ms_adam import narrow
from ms_adam.checkpoint_forms import array, share_of
from ms_adam.compat import bfloat16
from ms_adam.state import SHARD_LAYOUT, shape_of_rows

_TIE = np.int16(-(2**15))
MOMENTS = ("moment1", "moment2", "vhat")
_NARROW = ("trailing_bits", *MOMENTS)  # averages never are


def copied(buffer: Parameter, entry: str = "", optimizer: Any = None, i: int = 0) -> np.ndarray:
    """Returns a copy of a buffer of the state, in the dtype of the step.

    Args:
        buffer: a Parameter of the state.
        entry: the name of its entry, if it is of one parameter.
        optimizer: its optimizer, likewise.
        i: the parameter's place, likewise.
    """
    if buffer.dtype == bfloat16:
        return in_float32(buffer)
    copy = np.array(buffer.asnumpy())
    if buffer.dtype == ms.uint8:
        size = optimizer.shares.owned[i][1]
        numbers = narrow.from_bytes(copy, size, entry not in narrow.UNSIGNED)
        return numbers.reshape(shape_of_rows(optimizer.parameters[i].shape, size))
    if buffer.dtype == ms.int16:
        return narrow.whole_from(_own(optimizer, i, in_float32(optimizer.parameters[i])), copy)
    return copy


def as_stored(
    optimizer: Any, values: Iterable[Tuple[Parameter, np.ndarray]], weights: Sequence[Any]
) -> Iterator[tuple]:
    """Yields (Parameter, array) of entries as they are kept, given those that `copied` returned.

    Args:
        weights: those that the parameters will have beside these entries, one for each.
    """
    halves = {}
    if optimizer.execution.halves:
        halves = {id(half): i for i, half in enumerate(optimizer.state.weights)}
    codes = {
        id(buffer): entry
        for entry, buffers in optimizer.state.moments.items()
        for buffer in buffers
        if buffer is not None and buffer.dtype == ms.uint8
    }
    for buffer, value in values:
        if id(buffer) in codes:
            yield buffer, narrow.to_bytes(value, codes[id(buffer)] not in narrow.UNSIGNED)
        elif buffer.dtype == ms.int16:
            i = halves[id(buffer)]
            yield from _halves(optimizer, i, buffer, value, in_float32(weights[i]))
        else:
            yield buffer, value


def widened(checkpoint: Dict[str, Any], optimizer: Any) -> Dict[str, Any]:
    """Returns a checkpoint with float32 numbers in the place of codes and trailing bits.

    Raises:
        ValueError: If codes, or trailing bits, are not as many as their parameter has elements.
    """
    parameters = dict(zip(optimizer.check.names, optimizer.parameters))
    divided = _divided(checkpoint)
    wide = {}
    for name, value in checkpoint.items():
        before, entry, parameter = _parted(name)
        there = checkpoint.get(parameter, parameters.get(parameter))
        there = checkpoint.get(before + parameter, there)
        dtype = str(getattr(value, "dtype", "")).lower()
        if entry == "trailing_bits" and there is not None:
            trailing = array(value, name)
            first = in_float32(there).reshape(-1)[divided.get(before + parameter, slice(None))]
            if first.size != trailing.size:
                raise ValueError(
                    f"'{name}' has {trailing.size} elements, and '{parameter}' has {first.size}."
                )
            wide[f"{before}master_weight.{parameter}"] = narrow.whole_from(first, trailing)
        elif entry in MOMENTS and dtype == "uint8" and there is not None:
            codes = array(value, name)
            if codes.shape != (narrow.encoded_size(there.size),):
                raise ValueError(
                    f"'{name}' has shape {codes.shape}, and codes of '{parameter}' must have shape "
                    f"({narrow.encoded_size(there.size)},)."
                )
            numbers = narrow.from_bytes(codes, there.size, entry not in narrow.UNSIGNED)
            wide[name] = numbers.reshape(tuple(there.shape))
        elif entry in MOMENTS and dtype == "bfloat16":
            wide[name] = in_float32(value)
        else:
            wide[name] = value
    return wide


def _divided(checkpoint):
    """Returns {prefix and name of a parameter: the slice of it that a share holds}."""
    prefixes = [
        name[: -len(SHARD_LAYOUT)]
        for name in checkpoint
        if isinstance(name, str) and name.endswith(SHARD_LAYOUT)
    ]
    return {
        prefix + name: slice(begin, begin + size)
        for prefix in prefixes
        for name, _, begin, size in zip(*share_of(checkpoint, prefix))
    }


def in_float32(value: Any) -> np.ndarray:
    """Returns a copy of a Parameter, Tensor or array in float32."""
    if isinstance(value, ms.Tensor):
        value = value.astype(ms.float32).asnumpy()
    return np.array(value, np.float32)


def _parted(name):
    """Returns what precedes the name of an entry, that name, and its parameter's."""
    for entry in _NARROW if isinstance(name, str) else ():  # else refused later
        before, dot, parameter = name.partition(f"{entry}.")
        if dot and not before.endswith("flat_"):
            return before, entry, parameter
    return "", "", ""


def _own(optimizer, i, array):
    begin, size = optimizer.shares.owned[i]
    shape = shape_of_rows(optimizer.parameters[i].shape, size)
    return array.reshape(-1)[begin : begin + size].reshape(shape)


def _halves(optimizer, i, trailing_bits, master, weight):
    """Yields a master's trailing bits, and its parameter if that is the other of two as near."""
    first, trailing = narrow.halves_of(master)
    yield trailing_bits, trailing
    own = _own(optimizer, i, weight)
    apart = np.abs(first.view(np.int32).astype(np.int64) - own.view(np.int32))
    other = (trailing == _TIE) & (apart == 1 << 16)
    if np.any(other):
        own[...] = np.where(other, first, own)
        yield optimizer.parameters[i], weight
