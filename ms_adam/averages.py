"""Puts the averages of the weights into the network for a while."""

import contextlib
import os
import signal
import threading
from typing import Dict, Iterator, List

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_adam import state
from ms_adam.backends import launch
from ms_adam.backends.operators import store_operator
from ms_adam.checkpoint import core_of, slots


@contextlib.contextmanager
def averaged(optimizer: nn.Optimizer) -> Iterator[None]:
    """Puts the averages of the weights into the parameters; puts the weights back at the end.

    The weights come back bit for bit, also after an exception. float32 and float64 weights change
    places with their averages; of 16-bit parameters a copy is kept meanwhile. Before the first
    update the averages are the weights. With ``shard_state=True`` every rank must call it.

    Args:
        optimizer: an optimizer of ours with `ema_decay`. It must not step within the context, and
            its state must not be saved.

    Raises:
        TypeError: If `optimizer` is not ours.
        ValueError: If it keeps no averages.
        RuntimeError: If the averages are in the network already.

    Example:
        >>> from mindspore import nn
        >>> import ms_adam
        >>> network = nn.Dense(4, 2)
        >>> optimizer = ms_adam.Adam(network.trainable_params(), ema_decay=0.999)
        >>> with ms_adam.averaged(optimizer):
        ...     result = network(ms.ops.ones((3, 4)))
    """
    optimizer, class_name = core_of(optimizer), type(optimizer).__name__
    if not hasattr(optimizer, "is_averaged"):
        raise TypeError(
            f"averaged() needs an optimizer of ms_adam, but got {class_name} of "
            f"{type(optimizer).__module__}."
        )
    if optimizer.ema is None:
        raise ValueError(f"For '{class_name}', averaged() needs ema_decay, but got ema_decay=None.")
    if optimizer.is_averaged:
        raise RuntimeError(f"For '{class_name}', the averages are in the network already.")
    kept: Dict[int, np.ndarray] = {}
    try:
        with _uninterrupted():
            _exchange_places(optimizer, kept)
            optimizer.is_averaged = True
        yield
    finally:
        if optimizer.is_averaged:
            with _uninterrupted():
                _exchange_places(optimizer, kept)
                optimizer.is_averaged = False


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait: in the middle, the network would have some weights and some averages."""
    here = threading.current_thread() is threading.main_thread()  # the one that is interrupted
    before = signal.getsignal(signal.SIGINT)
    came: List[bool] = []
    if not here or before is None:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            os.kill(os.getpid(), signal.SIGINT)


def _set(optimizer, parameter, value):
    store_operator(parameter.dtype, optimizer.target)(parameter, value)


def _exchange_places(optimizer, kept):
    """Exchanges weights and averages; `kept` holds 16-bit weights while averages are in place."""
    if not int(optimizer.update_count.asnumpy()[0]):
        return
    restoring, host, entries = bool(kept), state.on_host(optimizer), slots(optimizer)
    buffers = {}
    for i, (name, parameter, own) in enumerate(
        zip(optimizer.check.names, optimizer.parameters, optimizer.shares.owned)
    ):
        if own is None or parameter.size == 0:
            continue
        slot = entries[f"ema.{name}"]
        if slot.rows.dtype != state.dtype_name(parameter.dtype):
            if restoring:
                _set(optimizer, parameter, Tensor(kept.pop(i), parameter.dtype))
                continue
            kept[i] = parameter.astype(ms.float32).asnumpy().copy()
        weight = parameter.astype(state.compute_dtype(parameter.dtype)).asnumpy().copy()
        rows = weight.reshape(-1)[own[0] : sum(own)]
        average = slot.rows.reshape(-1).copy()
        if i not in kept:
            slot.rows.reshape(-1)[...] = rows
            buffers[id(slot.buffer)] = slot
        rows[...] = average
        _set(optimizer, parameter, Tensor(weight, parameter.dtype))
    for slot in buffers.values():
        state.write(slot.parameter, slot.buffer, id(slot.parameter) in host)
    if optimizer.exchanged:
        if optimizer.launch == "by address":
            launch.settle()
            optimizer.exchange.now()
        else:
            optimizer.exchange(optimizer.global_step, ())
