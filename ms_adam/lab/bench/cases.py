"""Lists of parameters to time a step on; only shapes, since nothing else matters to Adam."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ms_adam.lab.errors import UserError


class Case(NamedTuple):
    """A list of parameters."""

    name: str
    shapes: tuple[tuple[int, ...], ...]  # in the order of the model
    rows: int = 0  # of each parameter, that have a gradient; 0: the gradient is dense

    @property
    def elements(self) -> int:
        """Elements of all parameters."""
        return sum(math.prod(shape) for shape in self.shapes)


def uniform(count: int, size: int) -> Case:
    """`count` parameters of `size` elements."""
    return Case(f"{count:,} x {size:,}", ((size,),) * count)


def resnet50() -> Case:
    """He et al. 2016, "Deep residual learning", table 1, 1,000 classes: 161 parameters."""

    def convolution(out, into, kernel):  # and the scale and shift of its batch normalization
        return [(out, into, kernel, kernel), (out,), (out,)]

    shapes, channels = convolution(64, 3, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, channels, 1) + convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:  # the projection of the shortcut
                shapes += convolution(4 * width, channels, 1)
            channels = 4 * width
    return Case("ResNet-50", (*shapes, (1000, channels), (1000,)))


def bert_base() -> Case:
    """Devlin et al. 2019, 12 layers of 768, 30,522 words, with its pooler: 199 parameters."""
    hidden, inner = 768, 3072
    norm = [(hidden,), (hidden,)]
    square = [(hidden, hidden), (hidden,)]
    embeddings = [(30522, hidden), (512, hidden), (2, hidden)] + norm
    layer = 4 * square + norm + [(inner, hidden), (inner,), (hidden, inner), (hidden,)] + norm
    return Case("BERT-base", (*embeddings, *(12 * layer), *square))


CASES = {
    case.name: case
    for case in (
        uniform(400, 5_000),
        uniform(160, 156_250),
        uniform(2_000, 200),
        uniform(1, 25_000_000),
        resnet50(),
        bert_base(),
        Case("4,096 rows of 1,000,000 x 64", ((1_000_000, 64),), rows=4_096),
    )
}

# For optimizers that Python calls, where each tensor costs most.
EAGER = (uniform(56, 8_000), uniform(400, 5_000), uniform(2_000, 200), uniform(160, 156_250))

# For the tail of a step: many tensors, and many elements.
TAIL = (uniform(400, 5_000), uniform(160, 156_250))

# For narrow state.
NARROW = TAIL

# The cost of a step for each tensor, and for each element.
BY_NUMBER = tuple(uniform(count, 1_000) for count in (10, 30, 100, 300, 1_000))
BY_SIZE = tuple(uniform(100, size) for size in (10, 1_000, 10_000, 100_000, 300_000))


def find(name: str) -> Case:
    """A case of `CASES`, or one named COUNTxSIZE; raises UserError if there is none."""
    for case in (*CASES.values(), *EAGER):
        if case.name.lower() == name.lower():
            return case
    match = re.fullmatch(r"([\d,_]+) *x *([\d,_]+)", name.strip())
    numbers = [int(re.sub(r"\D", "", group) or 0) for group in match.groups()] if match else [0]
    if min(numbers) < 1:
        raise UserError(
            f"there is no case {name!r}; there are {', '.join(map(repr, CASES))}, and "
            f"COUNTxSIZE with two numbers of at least 1"
        )
    return uniform(*numbers)
