"""Puts the averages of the weights into the network for a while."""

import contextlib
from typing import Iterator

from mindspore import nn

from ms_adam import narrow_state, state
from ms_adam.backends import launch
from ms_adam.checkpoint import core_of, slots


@contextlib.contextmanager
def averaged(optimizer: nn.Optimizer) -> Iterator[None]:
    """Puts the averages of the weights into the parameters; puts the weights back at the end.

    The weights come back bit for bit, also after an exception; a copy of them is kept meanwhile.
    Before the first update the averages are the weights. With ``shard_state=True`` every rank must
    call it.

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
    weights = [narrow_state.copied(parameter) for parameter in optimizer.parameters]
    optimizer.is_averaged = True
    try:
        if int(optimizer.update_count.asnumpy()[0]):
            _put_averages(optimizer, weights)
        yield
    finally:
        for parameter, weight in zip(optimizer.parameters, weights):
            state.write(parameter, weight, False)
        optimizer.is_averaged = False


def _put_averages(optimizer, weights):
    entries = slots(optimizer)
    for name, parameter, own, weight in zip(
        optimizer.check.names, optimizer.parameters, optimizer.shares.owned, weights
    ):
        if own is not None:
            whole = weight.astype(state.dtype_name(state.compute_dtype(parameter.dtype)))
            whole.reshape(-1)[own[0] : sum(own)] = entries[f"ema.{name}"].rows.reshape(-1)
            state.write(parameter, whole, False)
    if optimizer.exchanged:
        if optimizer.launch == "by address":
            launch.settle()
            optimizer.exchange.now()
        else:
            optimizer.exchange(optimizer.global_step, ())
