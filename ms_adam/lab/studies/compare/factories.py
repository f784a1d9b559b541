"""The training of a side: the built-in problem or the user's, and the optimizer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from mindspore import Parameter, nn

import ms_adam
from ms_adam import reference
from ms_adam.lab import targets
from ms_adam.lab.errors import UserError
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.images import Split, load_split
from ms_adam.lab.problems.networks import MultiLayerPerceptron
from ms_adam.lab.run.worker import short_message
from ms_adam.lab.studies.compare.config import REFERENCE, Side
from ms_adam.lab.studies.compare.parallel import Gathered
from ms_adam.lab.targets import kind
from ms_adam.lab.train import fused_loss


class Trained(NamedTuple):
    """A factory's result.

    Attributes:
        network: Called with a batch's inputs.
        loss: Called with the network's outputs and the batch's targets; gives a scalar.
        data: The batches, (inputs, targets), each an array or Tensor, or a tuple of them. Iteration
            starts again when it ends.
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
    images = Batches((split.train.inputs, split.train.targets), batch_size, seed)
    return Trained(network, loss_of, images.steps())


@functools.lru_cache(maxsize=1)  # a process makes everything anew for each pass; reading is slow
def _split(idx_directory: Optional[Path], train: int, split_seed: int) -> Split:
    return load_split(idx_directory, train, test=1, seed=split_seed)


def make(factory: Optional[str], seed: int, batch_size: int, options: dict[str, Any]) -> Trained:
    """Calls a factory and checks its result.

    Args:
        factory: ``module:function`` or ``file.py:function``; None is the built-in one.
        seed: For the first weights and the order of the batches.
        batch_size: Examples in a batch.
        options: The factory's other keyword arguments.

    Raises:
        UserError: There is no such factory, it takes other arguments, or it returns something else.
    """
    function = mnist if factory is None else targets.load_callable(factory)
    arguments = {"seed": seed, "batch_size": batch_size, **options}
    try:
        signature = inspect.signature(function)
        signature.bind(**arguments)
    except ValueError:  # made in C: it refuses them itself
        pass
    except TypeError as error:
        raise UserError(f"the factory {factory}: {error}; its arguments are {signature}") from None
    made = function(**arguments)
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


def numbered_batches(data: Iterable, steps: int) -> Iterator[tuple[tuple, tuple]]:
    """The batches of so many steps as tuples of NumPy arrays: (inputs, targets).

    Raises:
        UserError: There are too few, or one is not two things.
    """
    taken = 0
    while True:
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
        if taken == 0:
            raise UserError("the data gives no batch")
        if taken == before:
            raise UserError(
                f"the data ended after {taken} batches and starts only once; {steps} steps need an "
                "iterable that can be gone through again (a list, or an object with __iter__)"
            )


def make_optimizer(name: str, side: Side, parameters: Sequence[Parameter]) -> targets.Optimizer:
    """Makes the optimizer of a side.

    The reference's methods also take ``max_grad_norm``, and a list of learning rates.

    Args:
        name: The side's name, for messages.
        side: Its section of the config.
        parameters: The parameters to optimize.

    Raises:
        UserError: There is no such class or function, it does not take the options, or it
            returns something else.
    """
    path = "ms_adam.reference.Adam" if side.optimizer == REFERENCE else side.optimizer
    factory, options, extras = targets.load_callable(path), dict(side.options), {}
    where = f"side '{name}': {path}"
    is_method = isinstance(factory, type) and issubclass(factory, reference.Method)
    if side.backend is not None:
        if is_method or not _takes_backend(factory):
            raise UserError(f"{where} has no backend, but backend = {side.backend!r} is given")
        options["backend"] = side.backend
    if is_method:
        if isinstance(options.get("learning_rate"), list):
            extras["learning_rates"] = [float(rate) for rate in options.pop("learning_rate")]
        extras["max_grad_norm"] = options.pop("max_grad_norm", None)
    target = targets.describe(where, factory, options)
    try:
        made = target.make(list(parameters))
    except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        # A KeyError's text is the representation of its message.
        message = str(error.args[0]) if isinstance(error, KeyError) else short_message(error)
        raise UserError(
            f"{where} refused its options {options}: {message.rstrip('. ')}. Its arguments: "
            f"{target.arguments()}"
        ) from error
    if is_method:
        return targets.NumpyOptimizer(made, parameters, **extras)
    return Gathered(made) if Gathered.runs(made) else targets.wrap(made, parameters, where)


def _takes_backend(factory: Callable) -> bool:
    while isinstance(factory, functools.partial):
        factory = factory.func
    if isinstance(factory, type) and issubclass(factory, ms_adam.Adam):
        return True  # AdamW takes it among its keywords
    return "backend" in inspect.signature(factory).parameters


def _arrays(part: Any) -> tuple[np.ndarray, ...]:
    return tuple(map(targets.to_numpy, part if isinstance(part, (tuple, list)) else (part,)))


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:
        return False
    return True
