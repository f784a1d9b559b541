"""Packs pieces of parameters into one row that is sent to other ranks, and unpacks such rows.

Two ways with the same interface. A piece is (place of its parameter, begin, size, begin in the
row), with `begin` and `size` in elements of the parameter, and the last in elements of the row.

    length(parameter, size)            the length of a piece in elements of a row
    pack(parameters, pieces, length)   a Cell: from a tensor of shape (1,), with which the row is
                                       padded, to the row
    unpack(parameters, pieces)         a Cell: sets the pieces from concatenated rows
"""

from typing import Any, Dict, List, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops import operations as P

from ms_adam.backends.fused import kernel_library
from ms_adam.backends.launch import AVAILABLE, Launcher, settle
from ms_adam.backends.operators import store_operator
from ms_adam.compat import bfloat16

Place = Tuple[int, int, int, int]  # a piece, see above
_cast, _reshape, _slice = P.Cast(), P.Reshape(), P.Slice()


class OperatorPacking:
    """By operators, on any device; a piece is a whole parameter.

    Args:
        masters: for each parameter, its master weight, or the parameter itself. It is sent in the
            place of the parameter, which is its rounding, and which was read already.
    """

    def __init__(self, dtype, device_target, masters):
        self.dtype, self.device_target, self.masters = dtype, device_target, masters

    @staticmethod
    def sent_as(dtype: Any) -> Any:
        """Returns the dtype of the row for parameters of a dtype.

        Messages on the CPU have no bfloat16 (MindSpore 2.10); float32 holds it without rounding.
        """
        return ms.float32 if dtype == bfloat16 else dtype

    @staticmethod
    def cannot_read(dtype: Any, has_masters: bool, device_target: str) -> bool:
        """Returns whether a parameter cannot be read exactly after the step that has updated it.

        A graph that reads a parameter, sets it and reads it again copies the first value, by
        TensorMove. On the CPU (MindSpore 2.10) that fails for bfloat16, and silently rounds float64
        to float32. With master weights no bfloat16 is read after it is set.
        """
        return device_target == "CPU" and (
            dtype == ms.float64 or dtype == bfloat16 and not has_masters
        )

    @staticmethod
    def length(parameter: Parameter, size: int) -> int:
        return size

    def pack(self, parameters: List[Parameter], pieces: List[Place], length: int) -> nn.Cell:
        return _PackByOperators([self.masters[i] for i, *_ in pieces], length, self.dtype)

    def unpack(self, parameters: List[Parameter], pieces: List[Place]) -> nn.Cell:
        alike: Dict[Any, list] = {}
        for i, _, _, at in pieces:
            alike.setdefault(parameters[i].dtype, []).append((parameters[i], at))
        return _Each(
            [
                _UnpackByOperators(dtype, members, self.device_target)
                for dtype, members in alike.items()
            ]
        )


class _PackByOperators(nn.Cell):
    def __init__(self, parameters, length, dtype):
        super().__init__(auto_prefix=False)
        self.parameters, self.dtype = ParameterTuple(tuple(parameters)), dtype
        missing = length - sum(parameter.size for parameter in parameters)
        self.fill = P.BroadcastTo((missing,)) if missing else None
        self.concat, self.map_ = P.Concat(0), ops.HyperMap()

    def construct(self, filler):
        rows = ()
        if len(self.parameters) > 0:
            rows = self.map_(self.row_of, self.parameters)
        if self.fill is not None:
            rows += (self.fill(_cast(filler, self.dtype)),)
        return self.concat(rows) if len(rows) > 1 else rows[0]

    def row_of(self, parameter):
        return _reshape(_cast(parameter, self.dtype), (-1,))


class _Each(nn.Cell):
    """Calls cells one after the other."""

    def __init__(self, cells):
        super().__init__(auto_prefix=False)
        self.parts = nn.CellList(cells, auto_prefix=False)

    def construct(self, rows):
        for cell in self.parts:
            cell(rows)
        return True


class _UnpackByOperators(nn.Cell):
    """Sets parameters of one dtype."""

    def __init__(self, dtype, members, device_target):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(tuple(parameter for parameter, _ in members))
        self.begins = tuple(begin for _, begin in members)
        self.dtype, self.store = dtype, store_operator(dtype, device_target)
        self.map_ = ops.HyperMap()

    def construct(self, rows):
        return self.map_(ops.partial(self.take, rows), self.parameters, self.begins)

    def take(self, rows, parameter, begin):
        piece = _slice(rows, (begin,), (parameter.size,))
        return self.store(parameter, _cast(_reshape(piece, parameter.shape), self.dtype))


class _ByKernel(nn.Cell):
    """A launch of a copying kernel over the parameters that have pieces.

    Args:
        function: of the kernel's library.
        length: of the launch's output, int32.
    """

    def __init__(self, function, parameters, pieces, length):
        super().__init__(auto_prefix=False)
        members = sorted({i for i, *_ in pieces})
        self.parameters = ParameterTuple(tuple(parameters[i] for i in members))
        plan = []  # `struct Piece` of the kernel for each piece
        for i, begin, size, at in pieces:
            width = parameters[i].itemsize
            plan += [members.index(i), begin * width, 4 * at, size * width]
        self.plan = Tensor(plan, ms.int64)
        library, _ = kernel_library()
        self.launch = ops.Custom(f"{library}:{function}", [length], ms.int32, "aot")
        self.launcher = Launcher(library, function) if AVAILABLE else None

    def launch_now(self, *tensors):
        """Launches by address, with the plan before the tensors."""
        tensors = (self.plan, *tensors)
        self.launcher.describe(tensors)
        settle()
        if self.launcher(tensors):
            raise RuntimeError(f"{self.launcher.name} refuses the parameters that it was made for")


class _PackByKernel(_ByKernel):
    def __init__(self, parameters, pieces, length):
        super().__init__("MsAdamPack", parameters, pieces, length)
        self.length, self.fill = length, P.BroadcastTo((length,))

    def construct(self, filler):
        if len(self.parameters) == 0:
            return self.fill(_cast(filler, ms.int32))
        return self.launch(self.plan, *self.parameters)

    def now(self):
        """Packs the row by address."""
        row = Tensor(np.zeros(self.length, np.int32))
        if len(self.parameters) > 0:
            self.launch_now(*self.parameters, row)
        return row


class _UnpackByKernel(_ByKernel):
    def __init__(self, parameters, pieces):
        super().__init__("MsAdamUnpack", parameters, pieces, 1)
        self.launch.add_prim_attr("side_effect_mem", True)
        self.output = Tensor([0], ms.int32)  # of a launch by address

    def construct(self, rows):
        if len(self.parameters) > 0:
            self.launch(self.plan, rows, *self.parameters)
        return True

    def now(self, rows):
        """Unpacks the rows by address."""
        if len(self.parameters) > 0:
            self.launch_now(rows, *self.parameters, self.output)


class KernelPacking:
    """By one launch of a copying kernel on the CPU; parameters of all dtypes share a row of int32.

    At 400 parameters of 5,000 the operators take 22 ms to unpack and 10 s to compile, this 1 ms.
    """

    pack, unpack = _PackByKernel, _UnpackByKernel

    @staticmethod
    def length(parameter: Parameter, size: int) -> int:
        return -(-size * parameter.itemsize // 4)
