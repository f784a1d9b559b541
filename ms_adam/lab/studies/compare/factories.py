"""What is trained: the built-in network, or what a function of the user's returns."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from mindspore import Tensor, nn

from ms_adam.lab.errors import UserError
from ms_adam.lab.loader import kind, load_callable
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.images import Split, load_split
from ms_adam.lab.problems.networks import MultiLayerPerceptron
from ms_adam.lab.train import fused_loss


class Trained(NamedTuple):
    """What a factory returns.

    Attributes:
        network: Is called with a batch's inputs.
        loss: Is called with the network's outputs and the batch's targets; gives a scalar.
        data: The batches, (inputs, targets), each an array or Tensor, or a tuple of them. It is
            gone through again when it ends.
    """

    network: nn.Cell
    loss: Callable
    data: Iterable


def mnist(
    seed: int,
    batch_size: int,
    *,
    hidden: list[int],
    train: int,
    split_seed: int,
    idx_directory: Optional[Path],
    loss: str,
) -> Trained:
    """The built-in problem; the arguments after the first two are those of `config.Problem`."""
    split = _split(idx_directory, train, split_seed)
    network = MultiLayerPerceptron([split.train.pixels.shape[1], *hidden, split.classes], seed)
    loss_of = fused_loss() if loss == "fused" else nn.CrossEntropyLoss()
    # As many epochs as anybody asks for: a generator makes what is taken.
    batches = Batches((split.train.inputs, split.train.targets), batch_size, seed)
    return Trained(network, loss_of, batches.steps())


@functools.lru_cache(maxsize=1)  # a process makes everything anew for each pass; reading is slow
def _split(idx_directory: Optional[Path], train: int, split_seed: int) -> Split:
    return load_split(idx_directory, train, test=1, seed=split_seed)


def make(factory: Optional[str], seed: int, batch_size: int, options: dict[str, Any]) -> Trained:
    """Calls a factory and checks what it returns.

    Args:
        factory: ``module:function`` or ``file.py:function``; None is the built-in one.
        seed: For the first weights and the order of the batches.
        batch_size: How many examples a batch has.
        options: The factory's other keyword arguments.

    Raises:
        UserError: There is no such factory, it takes other arguments, or it returns something else.
    """
    function = mnist if factory is None else load_callable(factory)
    refuse_arguments(function, f"the factory {factory}", options, seed=seed, batch_size=batch_size)
    made = function(seed=seed, batch_size=batch_size, **options)
    if not isinstance(made, (tuple, list)) or len(made) != 3:
        raise UserError(
            f"the factory {factory} must return three things, network, loss and data, but returned "
            f"{kind(made)}"
        )
    network, loss, data = made
    for name, fits, value in (
        ("first a network (mindspore.nn.Cell)", isinstance(network, nn.Cell), network),
        ("second a loss (a function or Cell)", callable(loss), loss),
        ("third data (an iterable of (inputs, targets))", _is_iterable(data), data),
    ):
        if not fits:
            raise UserError(f"the factory {factory} must return {name}, but returned {kind(value)}")
    return Trained(network, loss, data)


def refuse_arguments(function: Callable, name: str, options: dict, *before, **others) -> None:
    """Refuses options that a function or class does not take, and says which it does.

    Raises:
        UserError: A name is unknown, or one that must be given is not.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # made in C: it will say itself
        return
    try:
        signature.bind(*before, **others, **options)
    except TypeError as error:
        raise UserError(f"{name}: {error}; its arguments are {signature}") from None


def numbered_batches(data: Iterable, steps: int) -> Iterator[tuple[tuple, tuple]]:
    """The batches of so many steps as tuples of NumPy arrays: (inputs, targets).

    Raises:
        UserError: There is none, or one is not two things.
    """
    taken = 0
    for passed in itertools.count(1):
        before = taken
        for batch in data:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise UserError(
                    f"batch {taken + 1} of the data must be (inputs, targets), but is {kind(batch)}"
                )
            yield _arrays(batch[0]), _arrays(batch[1])
            taken += 1
            if taken == steps:
                return
        if taken == before:
            what = (
                "gives no batch"
                if passed == 1
                else (
                    f"ended after {taken} batches and starts only once; {steps} steps need an iterable "
                    "that can be gone through again (a list, or an object with __iter__)"
                )
            )
            raise UserError(f"the data {what}")


def _arrays(part: Any) -> tuple[np.ndarray, ...]:
    values = part if isinstance(part, (tuple, list)) else (part,)
    return tuple(
        np.array(value.asnumpy() if isinstance(value, Tensor) else value) for value in values
    )


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:
        return False
    return True
