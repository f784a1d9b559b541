"""One step of a training: the loss, its gradients, the update."""

from __future__ import annotations

from typing import Callable

import mindspore
from mindspore import nn, ops


def fused_loss() -> nn.Cell:
    """Cross-entropy of logits and class numbers, the mean over the batch.

    Its gradients have the same bits in both modes, while those of nn.CrossEntropyLoss differ in the
    last bit (MindSpore 2.10, CPU).
    """
    return nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")


class Gradients(nn.Cell):
    """Loss and gradients of one batch.

    Args:
        model: Is called with the batch's inputs.
        parameters: What to derive for, a ParameterTuple.
        loss: Is called with the model's outputs and the batch's targets.
    """

    def __init__(self, model: nn.Cell, parameters, loss: Callable):
        super().__init__()
        self.model = model
        self.loss = loss
        self.value_and_grad = mindspore.value_and_grad(self.forward, None, parameters)

    def forward(self, images, labels):
        return self.loss(self.model(images), labels)

    def construct(self, images, labels):
        return self.value_and_grad(images, labels)


class TrainStep(nn.Cell):
    """One whole step: loss, gradients and update. In graph mode it is one compiled graph.

    It also returns the gradients, for the shadows.
    """

    def __init__(self, model: nn.Cell, optimizer: nn.Optimizer, loss: Callable):
        super().__init__()
        self.gradients = Gradients(model, optimizer.parameters, loss)
        self.optimizer = optimizer

    def construct(self, images, labels):
        loss, gradients = self.gradients(images, labels)
        loss = ops.depend(loss, self.optimizer(gradients))
        return loss, gradients
