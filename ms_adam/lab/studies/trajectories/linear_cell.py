"""The linear model as MindSpore compiles it: loss, gradient and update in one graph."""

import mindspore
from mindspore import Tensor, nn, ops


class LinearStep(nn.Cell):
    """One training step of w . x on the mean squared error.

    Args:
        weights: The first weights, a float32 array of shape (1, 2).
        build: Gives the optimizer of a list of parameters.

    Inputs: x of shape (n, 2) and y of shape (n, 1). It returns the loss before the update, and the
    gradients, a tuple of one tensor of shape (1, 2).
    """

    def __init__(self, weights, build):
        super().__init__()
        self.model = nn.Dense(2, 1, weight_init=Tensor(weights), has_bias=False)
        self.loss = nn.MSELoss()
        self.optimizer = build([self.model.weight])
        self.value_and_grad = mindspore.value_and_grad(self.forward, None, [self.model.weight])

    def forward(self, inputs, targets):
        return self.loss(self.model(inputs), targets)

    def construct(self, inputs, targets):
        loss, gradients = self.value_and_grad(inputs, targets)
        loss = ops.depend(loss, self.optimizer(gradients))
        return loss, gradients
