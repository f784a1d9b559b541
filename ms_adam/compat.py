"""The differences between the releases of MindSpore that ms_adam runs on: 2.0.0, 2.7.0 to 2.10.0.

Other modules never ask for a version; they import the answer from here. Each entry names the
release that differs, and goes with that release.
"""

import operator
from typing import Any, Dict, Iterable, Optional, Sequence

import mindspore as ms

RELEASE = f"MindSpore {ms.__version__}"  # for messages
_VERSION = tuple(map(int, ms.__version__.split(".")[:2]))
_BEFORE_2_7 = _VERSION < (2, 7)

# 2.0.0 has no InplaceCopy, which came with bfloat16, to store that on the CPU.
try:
    from mindspore.ops.auto_generate import InplaceCopy
except ModuleNotFoundError:
    InplaceCopy = None

# Stands for no dtype; no weight and no gradient has it. Graphs of 2.0.0 cannot compare a dtype with
# None.
NO_FLOAT = ms.bool_

# 2.0.0 has no bfloat16.
HAS_BFLOAT16 = hasattr(ms, "bfloat16")
bfloat16 = ms.bfloat16 if HAS_BFLOAT16 else NO_FLOAT
FLOATS = tuple(
    getattr(ms, name) for name in ("float16", "bfloat16", "float32", "float64") if hasattr(ms, name)
)

# 2.0.0's kernel of AMSGrad is told epsilon and decay rates once, when it is made: nothing that
# differs from step to step can be folded into them.
try:
    from mindspore.ops.operations import ApplyAdamWithAmsgradV2
except ImportError:
    ApplyAdamWithAmsgradV2 = None
HAS_AMSGRAD_KERNEL = ApplyAdamWithAmsgradV2 is not None

# In 2.0.0, ScatterUpdate of float64 rounds its values to float32.
SCATTERS_FLOAT64 = not _BEFORE_2_7

# 2.0.0's row-sparse gradients keep their row numbers in PyNative mode too; later ones lose them.
PYNATIVE_KEEPS_ROWS = _BEFORE_2_7

# 2.0.0's own optimizers count their steps in get_lr(), and only where learning rate or weight decay
# is a schedule; else global_step stays 0. Ours count in every release.
COUNTS_ALL_STEPS = not _BEFORE_2_7

# 2.0.0's Select has no condition of one element for all.
SELECT_BROADCASTS = not _BEFORE_2_7

# 2.0.0 has no msrun, which starts the ranks of a training, so shards were never run there.
HAS_SHARDING = not _BEFORE_2_7

# 2.0.0 knows neither checkpoints of safetensors nor checkpoints that end with a CRC.
PLAIN_CHECKPOINTS_ONLY = _BEFORE_2_7


def _of_tensors(name: str) -> Any:
    """Returns a method of MindSpore's C++ class of tensors, without the Python around it."""
    for kind in ms.Tensor.__mro__[1:]:
        if name in vars(kind):
            found = vars(kind)[name]
            # For an attribute, attrgetter is faster than its descriptor.
            return found if callable(found) else operator.attrgetter(name)
    return None


# 2.0.0 has no addresses of tensors.
address_of: Any = _of_tensors("_data_ptr")
is_contiguous = _of_tensors("is_contiguous")
shape_of, dtype_of = _of_tensors("_shape"), _of_tensors("_dtype")

# Its module moved in 2.9.
try:
    from mindspore.graph.api import _pynative_executor
except ImportError:
    from mindspore.common.api import _pynative_executor
wait_for_queued = _pynative_executor.sync


def placed(tensor: ms.Tensor) -> ms.Tensor:
    """Returns a tensor, with the address that `address_of` returns once all queued is done.

    In 2.7.0 a tensor has none until an operator has used it: `address_of` logs an error, and a
    compiled call takes the tensor of the call before if it is within a nested tuple.
    """
    if _LATE_ADDRESSES and tensor.size:
        tensor.astype(ms.float32 if tensor.dtype != ms.float32 else ms.float64)
    return tensor


def _placed_address_of(tensor):
    if not _address_of(tensor):
        placed(tensor)
        wait_for_queued()
    return _address_of(tensor)


_LATE_ADDRESSES, _address_of = _VERSION == (2, 7), address_of
if _LATE_ADDRESSES:
    address_of = _placed_address_of


class WatchedMemory:
    """Notices that Parameters were given other memory, which a compiled step would miss.

    2.0.0 tells no addresses, and needs no notice: its compiled steps look for the data each time.
    """

    def __init__(self, parameters: Iterable[ms.Parameter]):
        self.parameters, self.places = list(parameters), None

    def remember(self) -> None:
        """Remembers where the data of the Parameters lie now."""
        self.places = self._places()

    def has_moved(self) -> bool:
        """Returns whether some data lie elsewhere than when they were remembered."""
        return self.places not in (None, self._places())

    def _places(self):
        if not hasattr(ms.Tensor, "data_ptr"):
            return None
        return [parameter.data_ptr() for parameter in self.parameters]


def has_shape(shape: Sequence[int]) -> bool:
    """Returns whether tensors can have a shape.

    2.0.0 has no empty tensors of two axes or more, and cannot load an empty one of one axis.
    """
    return not (_BEFORE_2_7 and len(shape) > 1 and 0 in shape)


def load_checkpoint(path: str, kind: str, has_crc: Optional[bool]) -> Dict[str, Any]:
    """Calls `mindspore.load_checkpoint` for a file of a kind, "ckpt" or "safetensors".

    Raises:
        NotImplementedError: If this release cannot read it.
    """
    if not PLAIN_CHECKPOINTS_ONLY:
        return ms.load_checkpoint(path, format=kind)
    if kind != "ckpt" or has_crc:
        what = "with a CRC (crc_check=True)" if has_crc else "of safetensors"
        # Not a ValueError: the file is good, and `checkpoint` must not call it damaged.
        raise NotImplementedError(
            f"{RELEASE} reads no checkpoint {what}: let the release that wrote "
            "it load it and save it without"
        )
    return ms.load_checkpoint(path)


def save_checkpoint(entries: Dict[str, Any], path: str, kind: str) -> None:
    """Calls `mindspore.save_checkpoint` for {name: Tensor or str} and a kind of file.

    Raises:
        ValueError: If this release cannot write that kind.
    """
    tensors = [
        {"name": name, "data": value}
        for name, value in entries.items()
        if not isinstance(value, str)
    ]
    texts = {name: value for name, value in entries.items() if isinstance(value, str)}
    options: Dict[str, Any] = {"append_dict": texts} if texts else {}
    if kind != "ckpt":
        if PLAIN_CHECKPOINTS_ONLY:
            raise ValueError(f"{RELEASE} writes no checkpoint of {kind}: {path} must end in .ckpt")
        options["format"] = kind
    ms.save_checkpoint(tensors, path, **options)
