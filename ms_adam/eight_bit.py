"""State in the 8-bit layout of bitsandbytes, decoded and encoded.

A moment is kept as one byte for each element and one float32 for each block of 256 elements, the
largest magnitude of the block. A byte is a place in a table of 256 numbers from -1 (or 0) to 1,
`dynamic_map`; times the magnitude, that number is the element (Dettmers, Lewis, Shleifer &
Zettlemoyer 2021, "8-bit optimizers via block-wise quantization", arXiv 2110.02861).

bitsandbytes keeps parameters of fewer than 4,096 elements in float32, under the same names.
"""

from typing import Any, Dict, Sequence

import numpy as np

from ms_adam.checkpoint_forms import array

BLOCK, LEAST_SIZE = 256, 4096
_WRAPPED = "__bnb_optimizer_quant_state__"  # newer releases nest the arrays under it
_MOMENTS = {"1": ("moment1", "exp_avg"), "2": ("moment2", "exp_avg_sq")}


def dynamic_map(is_signed: bool) -> np.ndarray:
    """Returns the table of bitsandbytes: 256 float32 numbers, in order.

    0 and 1, and for each power of ten from 1e-6 to 1 the middles of equal parts of [0.1, 1] times
    it. Each power has twice as many parts as the one below it, the least has 1, or 2 without signs.
    """
    numbers = [np.array([0.0, 1.0])]
    for i in range(7):
        ends = np.linspace(0.1, 1, 2 ** (i + (not is_signed)) + 1)
        middles = (ends[:-1] + ends[1:]) / 2 * 10.0 ** (i - 6)
        numbers += [middles, -middles] if is_signed else [middles]
    return np.sort(np.concatenate(numbers).astype(np.float32))


def widened(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Returns the state_dict of an optimizer of torch with float32 arrays in the place of bytes.

    Raises:
        ValueError: If bytes come without their table, or with one or magnitudes of another size.
    """
    state = checkpoint["state"]
    if not isinstance(state, dict):
        return checkpoint
    wide = {i: _one_widened(one, i) if isinstance(one, dict) else one for i, one in state.items()}
    return {**checkpoint, "state": wide}


def narrowed(
    names: Sequence[str], entries: Dict[str, Any], step: int, least_size: int
) -> Dict[str, Any]:
    """Returns the state_dict that `widened` reads, given {"moment1.<parameter>" and so on}."""
    return {
        "state": {
            i: {"step": step, **_one_narrowed(name, entries, least_size)}
            for i, name in enumerate(names)
        },
        "param_groups": [{"params": list(range(len(names)))}],
    }


def _one_widened(state, index):
    state = {**state, **state.get(_WRAPPED, {})}
    state.pop(_WRAPPED, None)
    for k, (_, theirs) in _MOMENTS.items():
        names = [name + k for name in ("state", "qmap", "absmax")]
        found = [
            None if name not in state else array(state.pop(name), f"{name} of {index}")
            for name in names
        ]
        if found[0] is not None and found[0].dtype == np.uint8:
            state[theirs] = _decoded(found, names, index)
        elif found[0] is not None:
            state[theirs] = found[0]
    return state


def _decoded(found, names, index):
    codes, numbers, largest = found
    blocks = -(-codes.size // BLOCK)
    for name, values, size in ((names[1], numbers, 256), (names[2], largest, blocks)):
        if values is None or values.shape != (size,):
            there = "missing" if values is None else f"of shape {values.shape}"
            raise ValueError(
                f"{names[0]} of {index} has {codes.size} bytes, for which {name} must have shape "
                f"({size},), but it is {there}."
            )
    sizes = np.repeat(largest, BLOCK)[: codes.size].reshape(codes.shape)
    return np.array(numbers[codes] * sizes, np.float32)


def _one_narrowed(name, entries, least_size):
    state = {}
    for k, (ours, _) in _MOMENTS.items():
        values = np.array(array(entries[f"{ours}.{name}"], name), np.float32)
        state[f"state{k}"] = values
        if values.size >= least_size:
            numbers = dynamic_map(is_signed=k == "1")
            state[f"state{k}"], state[f"absmax{k}"] = _encoded(values, numbers)
            state[f"qmap{k}"] = numbers
    return state


def _encoded(values, numbers):
    """Returns the places of the nearest numbers, and the largest magnitudes.

    A positive number becomes no 0 in a table without signs: a step divides by its root.
    """
    blocks = np.zeros((-(-values.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: values.size] = values.reshape(-1)
    largest = np.abs(blocks).max(axis=1, initial=0)
    shares = blocks / np.where(largest == 0, np.float32(1), largest)[:, None]
    codes = np.searchsorted((numbers[:-1] + numbers[1:]) / 2, shares)
    if numbers[0] == 0:
        codes = np.maximum(codes, blocks > 0)
    codes = codes.reshape(-1)[: values.size].reshape(values.shape)
    return codes.astype(np.uint8), largest
