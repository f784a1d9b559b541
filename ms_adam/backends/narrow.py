"""Narrow state in operators, with the bits of the kernel (kernel/narrow.h, kernel/numbers.h).

No operator of a graph reads the bits of a float32. A number is taken apart by arithmetic that is
exact instead: `unit` is the largest power of 2 in it (Rump, Ogita & Oishi 2008, "Accurate
floating-point summation part I", algorithm 3.5), and a bfloat16 has 7 more binary places.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.ops import operations as P

from ms_adam.compat import bfloat16
from ms_adam.narrow import BLOCK

_add, _sub, _mul, _div, _cast = P.Add(), P.Sub(), P.Mul(), P.RealDiv(), P.Cast()
_abs, _neg, _select, _equal, _reshape = P.Abs(), P.Neg(), P.Select(), P.Equal(), P.Reshape()
_less, _greater, _slice = P.Less(), P.Greater(), P.Slice()
_ones_like, _zeros_like = P.OnesLike(), P.ZerosLike()
_xor, _and, _floor_div = P.BitwiseXor(), P.BitwiseAnd(), P.FloorDiv()
_GOLDEN, _MIX1, _MIX2 = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


def _int32(value: int) -> Tensor:
    """Returns the int32 tensor with the bits of a whole number, modulo 2^32."""
    return Tensor(np.array(value % 2**32, np.uint32).view(np.int32))


def _mixed(x: int, key: int) -> int:
    """Returns what `Mix` makes of a number, in Python."""
    x = (((x ^ x >> 16) * _MIX1) ^ key) % 2**32
    x = ((x ^ x >> 15) * _MIX2) % 2**32
    return x ^ x >> 16


def counters(place: int, size: int, moments: int) -> Tensor:
    """Returns the counters of a weight: int32 of shape (blocks, moments)."""
    blocks = -(-size // BLOCK)
    first = _mixed((place + 1) * _GOLDEN % 2**32, 0)
    steps = np.arange(blocks, dtype=np.uint64)[:, None] * 4 + np.arange(moments, dtype=np.uint64)
    counts = (first + steps * _GOLDEN) % 2**32
    return Tensor(counts.astype(np.uint32).view(np.int32))


class Mix(nn.Cell):
    """Mixes all bits of int32 tensors, with a key."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.by_15, self.by_16 = _int32(1 << 15), _int32(1 << 16)
        self.low_17, self.low_16 = _int32((1 << 17) - 1), _int32((1 << 16) - 1)
        self.factor1, self.factor2 = _int32(_MIX1), _int32(_MIX2)

    def construct(self, x, key):
        x = _xor(_mul(_xor(x, self.upper_half(x)), self.factor1), key)
        x = _mul(_xor(x, _and(_floor_div(x, self.by_15), self.low_17)), self.factor2)
        return _xor(x, self.upper_half(x))

    def upper_half(self, x):
        """Returns the upper 16 bits, as a number from 0 to 65535."""
        return _and(_floor_div(x, self.by_16), self.low_16)


class Keys(nn.Cell):
    """What an update's random numbers are made from, for all weights; see `Keys` of the kernel.

    Inputs:
        t: the number of the update, a tensor of shape ().

    Outputs:
        Two keys of shape (), and the numbers of the places in a block, of shape (1, BLOCK).
    """

    def __init__(self, seed: int):
        super().__init__(auto_prefix=False)
        self.seed, self.golden, self.mix = _int32(seed), _int32(_GOLDEN), Mix()
        steps = np.arange(BLOCK, dtype=np.uint64)[None] * _GOLDEN % 2**32
        self.steps = Tensor(steps.astype(np.uint32).view(np.int32))

    def construct(self, t):
        first = self.mix(_mul(_cast(t, ms.int32), self.golden), self.seed)
        second = self.mix(_add(first, self.golden), self.seed)
        third = self.mix(_add(second, self.golden), self.seed)
        return first, second, self.mix(_add(self.steps, first), third)


class Draw(nn.Cell):
    """The random numbers of a weight's moments, from 0 to 65535; see `Draw` of the kernel."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.mix = Mix()

    def construct(self, counters, first, second):
        """Returns what `of_moment` draws from, given the counters of a weight."""
        return self.mix(_add(counters, first), second)

    def of_moment(self, drawn, places, moment, like):
        """Returns the numbers of a moment, float32, in the shape of a tensor."""
        own = _slice(drawn, (0, moment), (drawn.shape[0], 1))
        numbers = _reshape(_xor(places, own), (-1,))
        numbers = _reshape(_slice(numbers, (0,), (like.size,)), like.shape)
        return _cast(self.mix.upper_half(numbers), ms.float32)


class Halves(nn.Cell):
    """Takes float32 numbers apart at the end of a bfloat16, and puts them together again."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        # Numbers are moved to where neither a unit nor a product leaves the range of float32.
        self.small, self.large = Tensor(2.0**-30, ms.float32), Tensor(2.0**60, ms.float32)
        self.up, self.down = Tensor(2.0**90, ms.float32), Tensor(2.0**-60, ms.float32)
        self.zero, self.half = Tensor(0.0, ms.float32), Tensor(0.5, ms.float32)
        self.spread = Tensor(2.0**23 + 1, ms.float32)
        self.places7, self.places8 = Tensor(2.0**-7, ms.float32), Tensor(2.0**-8, ms.float32)
        self.places23, self.places24 = Tensor(2.0**-23, ms.float32), Tensor(2.0**-24, ms.float32)

    def moved(self, size):
        """Returns sizes, moved, the factors of that, and the unit of each."""
        ones = _ones_like(size)
        factor = _select(_greater(size, self.large), _mul(ones, self.down), ones)
        factor = _select(_less(size, self.small), _mul(ones, self.up), factor)
        size = _mul(size, factor)
        # The last sum but one rounds. MindSpore makes one product of two with constants, which may.
        spread = _mul(size, self.spread)
        below = _sub(spread, _mul(spread, self.places24))
        return size, factor, _abs(_sub(spread, below))

    def cut(self, size, unit):
        """Returns sizes without what is below a bfloat16."""
        nearest = _cast(_cast(size, bfloat16), ms.float32)
        return _select(_greater(nearest, size), _sub(nearest, _mul(unit, self.places7)), nearest)

    def signed(self, x, size, factor):
        """Returns sizes, moved back, with the signs of x; x itself where it is not finite."""
        size = _div(size, factor)
        value = _select(_less(x, self.zero), _neg(size), size)
        return _select(_equal(_sub(x, x), self.zero), value, x)

    def dithered(self, x, random):
        """Returns x cut to bfloat16, in float32, after random bits were added below its unit.

        Args:
            x: float32.
            random: float32 whole numbers from 0 to 65535, of the same shape.
        """
        size, factor, unit = self.moved(_abs(x))
        more = _add(size, _mul(_mul(random, self.places23), unit))
        return self.signed(x, self.cut(more, unit), factor)

    def parted(self, x):
        """Returns the bfloat16 nearest to x, in float32, and how far x is above it in size.

        The second is in last places of x: a whole number, float32.
        """
        size, factor, unit = self.moved(_abs(x))
        first = self.cut(_add(size, _mul(unit, self.places8)), unit)
        places = _div(_sub(size, first), _mul(unit, self.places23))
        places = _select(_equal(_sub(places, places), self.zero), places, _zeros_like(places))
        return self.signed(x, first, factor), places

    def joined(self, first, places):
        """Returns what `parted` took apart."""
        size, factor, unit = self.moved(_abs(first))
        place = _mul(unit, self.places23)
        # Below a power of 2, places are half as wide.
        narrower = _select(_less(places, self.zero), _mul(place, self.half), place)
        place = _select(_equal(size, unit), narrower, place)
        whole = self.signed(first, _add(size, _mul(places, place)), factor)
        return _select(_equal(places, self.zero), first, whole)
