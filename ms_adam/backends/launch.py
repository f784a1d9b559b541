"""Calls a function of the kernel's library from Python, with the addresses of tensors.

MindSpore takes 45 to 500 us to hand a tensor over to a compiled graph, and a step has three or
four tensors for each parameter. On the CPU the kernel only needs addresses, and a tensor returns
its own in 0.3 us. Before that, three conditions must hold:

- Nothing is in progress. In PyNative mode MindSpore computes in threads of its own; `settle` waits
  for all that was queued, such as the computation of a gradient or a read of a weight. Operations
  queued after the call read the results of the kernel. A compiled graph on the CPU has finished
  when its call returns.
- The tensor is contiguous. A transposed or broadcast one is a view of another tensor's memory.
- Tensors are in this process's memory: the context's device is the CPU.

No address is kept from one call to the next: `Parameter.set_data` and `load_param_into_net` give a
tensor other memory. Its storage would tell the address in half of the time, but MindSpore keeps
that object: after `set_dtype` or `set_` (in 2.9 and before, after `set_data`) it is the old one.
"""

import ctypes
import functools
import itertools
import operator
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np

from ms_adam.compat import address_of, dtype_of, is_contiguous, placed, shape_of, wait_for_queued

AVAILABLE = address_of is not None  # not in MindSpore 2.0.0


def on_cpu() -> bool:
    """Returns whether tensors are in this process's memory."""
    return ms.get_context("device_target") == "CPU"


def contiguous(tensors: Tuple[ms.Tensor, ...]) -> Tuple[ms.Tensor, ...]:
    """Returns the tensors, with copies in the place of non-contiguous ones.

    A Parameter whose data are a view gets a copy as its data, since it is updated in place.
    """
    if all(map(is_contiguous, tensors)):
        return tensors
    return tuple(tensor if is_contiguous(tensor) else _copy(tensor) for tensor in tensors)


def _copy(tensor):
    copy = tensor.contiguous()
    if not isinstance(tensor, ms.Parameter):
        return copy
    tensor.set_data(copy)
    return tensor


def settle() -> None:
    """Waits until MindSpore has done all that was queued; raises the errors of that."""
    wait_for_queued()


def number_of(tensor: ms.Tensor) -> Any:
    """Returns the memory of a tensor of one number, as an object of ctypes. Call `settle` first."""
    return _NUMBERS[str(tensor.dtype).lower()].from_address(address_of(tensor))


_NUMBERS: Dict[str, Any] = {
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}


@functools.lru_cache(maxsize=None)
def _name_of(dtype):
    """Returns the kernel's name of a dtype, always the same object."""
    return str(dtype).lower().encode()


class Launcher:
    """A function of the kernel's library, called like the function of an `ops.Custom`.

    Attributes:
        report: int64 that the function may fill; `struct Report` of the kernel.

    Copies and pickles as a launcher of the same function.
    """

    def __init__(self, library, function):
        self.path, self.name = str(library), function
        self.function = getattr(ctypes.CDLL(self.path), function)
        self.report = (ctypes.c_int64 * 4)()
        self.shapes: List[Any] = []
        self.dtypes: List[Any] = []
        self.places: Optional[np.ndarray] = None  # addresses of the fixed tensors

    def __reduce__(self):
        return Launcher, (self.path, self.name)

    def describe(
        self,
        tensors: Sequence[ms.Tensor],
        fixed: int = 0,
        check: Optional[Callable[[], None]] = None,
    ) -> None:
        """Sets the shapes and dtypes of the arguments.

        Args:
            tensors: all of them.
            fixed: the number of tensors at the end that keep shape and dtype while they keep
                their memory.
            check: called without arguments if a shape or dtype is not that of the call before;
                may raise, and then nothing has changed.
        """
        changing = tensors[: len(tensors) - fixed]
        # Element by element: a list of thousands of new tuples would start the garbage collector.
        if (
            len(changing) == len(self.shapes)
            and all(map(operator.eq, map(shape_of, changing), self.shapes))
            and all(map(operator.is_, map(dtype_of, changing), self.dtypes))
        ):
            return
        if check is not None:
            check()
        for tensor in tensors:
            placed(tensor)
        self.shapes, self.dtypes = list(map(shape_of, changing)), list(map(dtype_of, changing))
        self._lay_out(tensors)
        self.places = None

    def _lay_out(self, tensors):
        shapes, dtypes = list(map(shape_of, tensors)), map(dtype_of, tensors)
        # Close together, since the kernel reads all of them in each call.
        self.axes = np.fromiter(map(len, shapes), np.intc)
        self.sizes = np.fromiter(itertools.chain.from_iterable(shapes), np.int64)
        ends = np.cumsum(self.axes, dtype=np.uintp) * self.sizes.itemsize
        begins = ends - self.axes.astype(np.uintp) * np.uintp(self.sizes.itemsize)
        self.shape_addresses = begins + np.uintp(self.sizes.ctypes.data)
        self.dtype_names = (ctypes.c_char_p * len(tensors))(*map(_name_of, dtypes))

    def __call__(self, tensors: Sequence[ms.Tensor]) -> int:
        """Calls the function; `describe` and `settle` must have been called.

        Returns:
            int, the result of the function: 0, or the number of a failure.
        """
        addresses = np.fromiter(map(address_of, tensors), np.uintp, len(tensors))
        places = addresses[len(self.shapes) :]
        if self.places is not None and not np.array_equal(places, self.places):
            self._lay_out(tensors)  # `Parameter.set_data` takes data of any shape
        self.places = places
        return self.function(
            len(tensors),
            ctypes.c_void_p(addresses.ctypes.data),
            ctypes.c_void_p(self.axes.ctypes.data),
            ctypes.c_void_p(self.shape_addresses.ctypes.data),
            self.dtype_names,
            None,
            self.report,
        )
