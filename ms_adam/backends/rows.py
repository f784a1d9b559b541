"""Rows: tensors end to end, so that an operator of the step runs once for all of them.

Tensors stand in the order of `state.in_row`. A Stack joins those of one shape, and an Unstack takes
them apart. Shapes with few tensors are joined by Reshape, which MindSpore does not launch, and
taken apart by Slice.
"""

from typing import Any, Sequence

import numpy as np
from mindspore import Parameter, ParameterTuple, nn, ops
from mindspore.ops import operations as P

from ms_adam.compat import NO_FLOAT, bfloat16
from ms_adam.state import compute_dtype, stacked

_cast, _reshape, _slice, _concat = P.Cast(), P.Reshape(), P.Slice(), P.Concat(0)
_stack, _sum, _square = P.Stack(0), P.ReduceSum(), P.Square()


class Row(nn.Cell):
    """A row of Parameters of one dtype.

    Args:
        parameters: none of them empty, in the order of `state.in_row`.
        store: the operator that sets one of them.
    """

    def __init__(self, parameters: Sequence[Parameter], store: ops.Primitive):
        super().__init__(auto_prefix=False)
        self.parameters, self.store = ParameterTuple(tuple(parameters)), store
        self.stored_dtype = parameters[0].dtype
        self.dtype = compute_dtype(self.stored_dtype)
        # Neither Stack nor Reshape has bfloat16 on the CPU.
        self.is_cast = self.stored_dtype == bfloat16
        self.row_dtype = self.dtype if self.is_cast else self.stored_dtype
        shapes = stacked([parameter.shape for parameter in parameters])
        sizes = [count * int(np.prod(shape)) for shape, count in shapes]
        ends = np.cumsum([0, *(count for _, count in shapes)]).tolist()
        self.first = ends[-1]
        self.others = ParameterTuple(self.parameters[self.first :])
        sizes += [parameter.size for parameter in self.others]
        begins = np.cumsum([0, *sizes]).tolist()
        self.stacks = tuple(zip(ends, ends[1:], begins, sizes))
        self.shapes = tuple((count, *shape) for shape, count in shapes)
        self.unstack = tuple(P.Unstack(0) for _ in shapes)
        self.begins = tuple(begins[len(shapes) : -1])
        self.is_stack = len(shapes) == 1 and self.first == len(parameters)
        self.map_ = ops.HyperMap()

    def join(self, tensors):
        """Returns the row of tensors of one dtype, not bfloat16, and of the parameters' shapes."""
        if self.is_stack:
            return _reshape(_stack(tensors), (-1,))
        parts = ()
        for first, end, _, _ in self.stacks:
            parts += (_reshape(_stack(tensors[first:end]), (-1,)),)
        if len(self.others) > 0:
            parts += self.map_(_flat, tensors[self.first :])
        return _concat(parts) if len(parts) > 1 else parts[0]

    def parts(self, row):
        """Returns the stacks of a row, and its other tensors, all of one axis."""
        if self.is_stack:
            return (row,)
        parts = ()
        for _, _, begin, size in self.stacks:
            parts += (_slice(row, (begin,), (size,)),)
        if len(self.others) > 0:
            parts += self.map_(ops.partial(_part, row), self.others, self.begins)
        return parts

    def split(self, row):
        """Returns the tensors of a row."""
        if self.is_stack:
            return self.unstack[0](_reshape(row, self.shapes[0]))
        parts, tensors = self.parts(row), ()
        for i in range(len(self.shapes)):
            tensors += self.unstack[i](_reshape(parts[i], self.shapes[i]))
        if len(self.others) > 0:
            tensors += self.map_(_shaped_like, self.others, parts[len(self.shapes) :])
        return tensors

    def sums(self, row):
        """Returns the sum of each tensor of a row, with the bits of its own ReduceSum."""
        parts, sums = self.parts(row), ()
        for i in range(len(self.shapes)):
            sums += self.unstack[i](_sum(_reshape(parts[i], (self.shapes[i][0], -1)), 1))
        if len(self.others) > 0:
            sums += self.map_(_sum, parts[len(self.shapes) :])
        return sums

    def read(self):
        """Returns the row of the parameters, in the dtype of the step."""
        tensors = self.parameters
        if self.is_cast:
            tensors = self.map_(self.widen, tensors)
        return _cast(self.join(tensors), self.dtype)

    def write(self, row):
        """Sets the parameters."""
        tensors = self.split(_cast(row, self.row_dtype))
        if self.is_cast:
            tensors = self.map_(self.narrow, tensors)
        return self.map_(self.store, self.parameters, tensors)

    def widen(self, tensor):
        return _cast(tensor, self.dtype)

    def narrow(self, tensor):
        return _cast(tensor, self.stored_dtype)


class Rows(nn.Cell):
    """Rows of tensors of all weights.

    Args:
        parameters: of the tensors' shapes.
        members: for each row, the places of its parameters.
        dtype: the widest one; of rows of tensors of several dtypes.

    Inputs:
        gradients: of all weights.
        gradient_dtype: the dtype of all, or NO_FLOAT if they differ.

    Outputs:
        The rows.
    """

    def __init__(self, parameters: Sequence[Parameter], members: Sequence[Any], dtype: Any):
        super().__init__(auto_prefix=False)
        rows = [Row([parameters[i] for i in of_one], P.Assign()) for of_one in members]
        self.rows, self.count = nn.CellList(rows, auto_prefix=False), len(rows)
        order = [i for of_one in members for i in of_one]
        self.members = tuple(map(tuple, members))
        self.back = tuple(order.index(i) for i in sorted(order))
        self.is_all = self.count == 1 and order == list(range(len(parameters)))
        self.dtype, self.map_ = dtype, ops.HyperMap()

    def construct(self, gradients, gradient_dtype):
        if gradient_dtype in (NO_FLOAT, bfloat16):
            gradients = self.map_(self.widen, gradients)
        joined = ()
        for i in range(self.count):
            joined += (self.rows[i].join(self.pick(gradients, self.members[i])),)
        return joined

    def widen(self, gradient):
        return _cast(gradient, self.dtype)

    def pick(self, tensors, places):
        return tensors if self.is_all else self.map_(ops.partial(_pick, tensors), places)

    def squares(self, zero, rows):
        """Returns the sum of squares of each tensor of rows, in the order of the weights."""
        sums = ()
        for i in range(self.count):
            sums += self.rows[i].sums(_square(_cast(rows[i], zero.dtype)))
        return self.pick(sums, self.back)

    def read(self):
        rows = ()
        for row in self.rows:
            rows += (row.read(),)
        return rows

    def write(self, rows):
        for i in range(self.count):
            self.rows[i].write(rows[i])
        return True


def _flat(tensor):
    return _reshape(tensor, (-1,))


def _part(row, parameter, begin):
    return _slice(row, (begin,), (parameter.size,))


def _shaped_like(parameter, part):
    return _reshape(part, parameter.shape)


def _pick(tensors, i):
    return tensors[i]
