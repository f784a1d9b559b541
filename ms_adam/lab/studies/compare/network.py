"""The network of a side: its first weights, its gradients, and one whole step of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

import mindspore
import numpy as np
from mindspore import Tensor, nn

from ms_adam.lab.errors import UserError
from ms_adam.lab.targets import to_numpy
from ms_adam.lab.train import TrainStep

Batch = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
StepFunction = Callable[[Batch], tuple[float, list[np.ndarray]]]


class Network:
    """A network with the loss that it is trained by.

    Args:
        cell: Called with the inputs of a batch.
        loss: Called with its outputs and the targets of a batch.
        initial: The file of the first weights. It is read; or written, if it is not there yet.

    Attributes:
        parameters: The trainable parameters.
        names: Their names as the network itself has them.

    Raises:
        UserError: There is nothing to train, or the file holds other parameters.
    """

    def __init__(self, cell: nn.Cell, loss: Callable, initial: Path):
        self.parameters = list(cell.trainable_params())
        self.names = [parameter.name for parameter in self.parameters]
        if not self.parameters:
            raise UserError("the factory's network has no parameter that can be trained")
        _start_alike(cell, initial)
        cell.set_train()
        self._model = _LossOfBatch(cell, loss)

    def assign(self, arrays: Sequence[np.ndarray], places: Sequence[int]) -> None:
        """Sets the parameters at these places, rounded to their dtypes."""
        for place, array in zip(places, arrays):
            parameter = self.parameters[place]
            parameter.set_data(Tensor(array, parameter.dtype))

    def step(self, optimizer: Optional[nn.Cell] = None, ranks: int = 1) -> StepFunction:
        """A function of a batch: the loss before the update and the gradients.

        Args:
            optimizer: Updates its parameters; in graph mode the whole is one graph. The gradients
                are in the order of its parameters, and without one in that of the network's.
            ranks: MindSpore's own exchange averages the gradients over so many.
        """
        parameters = self.parameters if optimizer is None else optimizer.parameters
        reducer = None
        if ranks > 1:
            reducer = nn.DistributedGradReducer(parameters, mean=True, degree=ranks)
        step = TrainStep(
            self._model,
            optimizer,
            parameters=mindspore.ParameterTuple(parameters) if optimizer is None else None,
            reducer=reducer,
            with_gradients=True,
        )
        return lambda batch: self._run(step, batch, parameters)

    def _run(self, step: nn.Cell, batch: Batch, parameters) -> tuple[float, list[np.ndarray]]:
        # A plain tuple of tensors is a constant to the compiler: each batch would be a new graph.
        loss, gradients = step(*(mindspore.mutable(tuple(map(Tensor, part))) for part in batch))
        if loss.size != 1:
            raise UserError(f"the loss must be one number, but has shape {loss.shape}")
        for parameter, gradient in zip(parameters, gradients):
            if not isinstance(gradient, Tensor) or gradient.shape != parameter.shape:
                raise UserError(
                    f"the gradient of {parameter.name} is not dense (a row-sparse one, of an "
                    "embedding with sparse=True?): only dense gradients can be compared"
                )
        return float(to_numpy(loss).reshape(())), list(map(to_numpy, gradients))


class _LossOfBatch(nn.Cell):
    """The loss of a batch; network and loss are given inputs and targets one by one."""

    def __init__(self, network: nn.Cell, loss: Callable):
        super().__init__(auto_prefix=False)
        self.network, self.loss = network, loss

    def construct(self, inputs, targets):
        return self.loss(self.network(*inputs), *targets)


def _start_alike(cell: nn.Cell, initial: Path) -> None:
    """Loads all parameters, untrained ones too, from a file that the first run writes."""
    parameters = list(cell.get_parameters())
    shapes = {f"{i} {p.name}": tuple(p.shape) for i, p in enumerate(parameters)}
    if not initial.exists():
        np.savez(initial, **{key: to_numpy(p) for key, p in zip(shapes, parameters)})
    with np.load(initial) as arrays:
        there = {key: arrays[key].shape for key in arrays.files}
        if there != shapes:
            differing = sorted(set(there.items()) ^ set(shapes.items()))
            raise UserError(
                "all sides must train the same network, but this one has other parameters than the "
                f"first side: {', '.join(key.split(' ', 1)[1] for key, _ in differing[:5])}"
            )
        for key, parameter in zip(shapes, parameters):
            parameter.set_data(Tensor(arrays[key], parameter.dtype))
