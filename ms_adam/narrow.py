"""The formats of narrow state in NumPy, to read it and to write it.

The kernel has them for the step (backends/kernel/narrow.h, which says why they are these). Here
numbers are rounded to nearest: a checkpoint is read once, and no mean is to be kept.
"""

from typing import Tuple

import numpy as np

BLOCK = 256  # elements with one exponent
UNSIGNED = ("moment2", "vhat")  # the entries that are not negative
_DROPPED = 20  # bits of a float32


def encoded_size(size: int) -> int:
    """Returns the bytes of `size` elements: their codes, then the exponents of the blocks."""
    return size + -(-size // BLOCK)


def from_bytes(encoded: np.ndarray, size: int, is_signed: bool) -> np.ndarray:
    """Returns the `size` float32 numbers, of one axis, that bytes stand for.

    Args:
        encoded: uint8 of shape (encoded_size(size),).
        size: the number of elements.
        is_signed: whether the numbers may be negative, as first moments are.
    """
    codes, exponents = encoded[:size].astype(np.uint32), encoded[size:].astype(np.uint32)
    before_first = np.repeat((exponents << 23) - (1 << _DROPPED), BLOCK)[:size]
    magnitudes = codes & _largest(is_signed)
    bits = np.where(magnitudes > 0, (magnitudes << _DROPPED) + before_first, 0)
    if is_signed:
        bits |= (codes & 0x80) << 24
    return bits.astype(np.uint32).view(np.float32)


def to_bytes(values: np.ndarray, is_signed: bool) -> np.ndarray:
    """Returns the bytes that are nearest to numbers; exactly theirs if they came from bytes.

    NaN and Inf become the largest number of their block. A positive number becomes no 0
    unless `is_signed`: the step divides by its root.
    """
    flat = np.array(values, np.float32).reshape(-1)
    blocks, largest = -(-flat.size // BLOCK), _largest(is_signed)
    bits = np.zeros(blocks * BLOCK, np.int64)
    bits[: flat.size] = flat.view(np.uint32)
    magnitudes = bits & 0x7FFFFFFF
    finite = np.where(magnitudes < 0x7F800000, magnitudes, 0).reshape(blocks, BLOCK)
    most = finite.max(axis=1, initial=0)
    # The kernel leaves room for rounding up from the largest code; so it comes back as it is.
    exponents = np.maximum(1, ((most + (3 << (_DROPPED - 1))) >> 23) - ((largest + 1) // 8 - 1))
    smallest = np.repeat(exponents << 23, BLOCK)
    codes = (magnitudes - smallest + (3 << (_DROPPED - 1))) >> _DROPPED
    # Half of the smallest has an exponent that is less by 1.
    some = magnitudes >= smallest - (1 << 23) if is_signed else magnitudes > 0
    codes = np.minimum(np.where(magnitudes < smallest, some, codes), largest)
    if is_signed:
        codes |= bits >> 24 & 0x80
    return np.concatenate([codes[: flat.size], exponents]).astype(np.uint8)


def whole_from(parameter: np.ndarray, trailing: np.ndarray) -> np.ndarray:
    """Returns the float32 masters of a bfloat16 parameter, given as float32, and trailing bits."""
    bits = np.array(parameter, np.float32).reshape(trailing.shape).view(np.int32)
    return np.array(bits + trailing.astype(np.int32)).view(np.float32)


def halves_of(master: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Returns the parameter, a bfloat16 given as float32, and the trailing bits, int16."""
    bits = np.array(master, np.float32).view(np.uint32)
    bits[np.isnan(master)] = 0x7FC00000
    parameter = np.array(bits + np.uint32(0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
    return parameter, np.array(bits & 0xFFFF, np.uint16).view(np.int16)


def _largest(is_signed):
    return 127 if is_signed else 255
