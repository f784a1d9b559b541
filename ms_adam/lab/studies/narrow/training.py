"""Trainings on images with narrow state."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

import ms_adam
from ms_adam.lab.observers import Record, loss
from ms_adam.lab.problems.images import Split
from ms_adam.lab.problems.networks import MultiLayerPerceptron, held_out
from ms_adam.lab.sides import Training
from ms_adam.lab.studies.narrow.study import MASTERS, SIDES, SPLIT, NarrowExperiment
from ms_adam.lab.targets import wrap
from ms_adam.lab.train import TrainStep, copies, fused_loss


class Perceptron(nn.Cell):
    """A `MultiLayerPerceptron` with parameters of any dtype, computed in float32."""

    def __init__(self, sizes, seed: int, dtype: str):
        super().__init__()
        first = MultiLayerPerceptron(sizes, seed).trainable_params()
        self.values = ParameterTuple(
            [Parameter(Tensor(p.asnumpy(), getattr(ms, dtype)), name=p.name) for p in first]
        )
        self.layers = len(sizes) - 1
        self.product, self.relu = ops.MatMul(transpose_b=True), ops.ReLU()

    def construct(self, x):
        for i in range(self.layers):
            weight = ops.cast(self.values[2 * i], ms.float32)
            bias = ops.cast(self.values[2 * i + 1], ms.float32)
            x = self.product(x if i == 0 else self.relu(x), weight) + bias
        return x


def masters(adam: nn.Optimizer) -> np.ndarray:
    """Returns the bits of all master weights."""
    state = ms_adam.gather_state(adam)
    found = [state[name].asnumpy() for name in state if name.startswith("master_weight.")]
    return np.concatenate([master.ravel() for master in found]).view(np.int32)


def training(experiment: NarrowExperiment, split: Split, name: str, seed: int) -> Training:
    """Builds the training of one side from one seed.

    Per step it keeps ``loss`` (before the update), per epoch ``test_loss`` and ``test_accuracy``.
    An optimizer with whole masters follows the split ones, fed with their gradients; per epoch
    ``unlike`` is the number of masters that differ.
    """
    side = SIDES[name]
    sizes = (split.train.inputs.shape[1], *experiment.model.hidden, split.classes)
    model = Perceptron(sizes, seed, side.dtype)
    adam = ms_adam.Adam(model.trainable_params(), **experiment.adam.model_dump(), **side.options)
    optimizer, follower = wrap(adam), None
    if name == SPLIT:
        own = copies(adam.parameters)
        follower = ms_adam.Adam(own, **experiment.adam.model_dump(), **SIDES[MASTERS].options)

    def position() -> np.ndarray:
        return np.concatenate([weight.ravel() for weight in optimizer.weights()])

    def after_epoch(_) -> dict[str, Any]:
        found = held_out(model, (split.test.inputs,), split.test.labels)
        if follower is not None:
            found["unlike"] = np.sum(masters(adam) != masters(follower))
        return found

    observers = [Record(loss), Record(after_epoch, experiment.steps_per_epoch)]
    examples = (split.train.inputs, split.train.targets)
    step = TrainStep(model, adam, fused_loss(), follower=follower)
    facts = {"optimizer": name, "backend": adam.backend}
    facts["state_bytes"] = optimizer.state_bytes() / sum(p.size for p in optimizer.parameters)
    return Training(experiment, examples, seed, step, position, observers, **facts)
