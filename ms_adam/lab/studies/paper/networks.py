"""The networks of section 6. Each is a Cell that gives the cost of a batch, which is trained on.

Noise (dropout, the auto-encoder's sample) is drawn by NumPy and given with the batch, so that all
optimizers of one seed meet the same noise, on any version of MindSpore.

Cross-entropy is nn.CrossEntropyLoss: nn.SoftmaxCrossEntropyWithLogits takes the logarithm of a
probability, which is 0 in float32 where a logit is 104 below the largest, so that the cost of a run
whose weights are merely large would be infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

Arrays = tuple[np.ndarray, ...]


class Network(nn.Cell):
    """What the networks share: their first weights, their noise, and L2.

    Args:
        l2: lambda of lambda / 2 * ||w||^2, which is added to the cost; for weights, not for biases.
    """

    def __init__(self, l2: float):
        super().__init__()
        self.l2 = l2
        self.weights: tuple = ()  # those that l2 is about

    def first_weights(self, random: np.random.Generator) -> list[np.ndarray]:
        """The first value of each parameter: normal of variance 2 / inputs (He et al. 2015,
        equation 10) where there are two dimensions or more, and 0 for biases."""
        return [
            random.standard_normal(parameter.shape, dtype=np.float32)
            * np.float32(np.sqrt(2 / np.prod(parameter.shape[1:])))
            if parameter.ndim > 1 and not parameter.name.endswith("bias")
            else np.zeros(parameter.shape, np.float32)
            for parameter in self.trainable_params()
        ]

    def noise(self, random: np.random.Generator, batch: Arrays) -> Arrays:
        """What the batch is given besides, in each step anew."""
        return ()

    def penalty(self):
        """The L2 term of the cost."""
        total = 0.0
        for weight in self.weights:
            total += ops.square(weight).sum()
        return 0.5 * self.l2 * total


def kept(random: np.random.Generator, shape: Sequence[int], rate: float) -> np.ndarray:
    """A mask of dropout: 0 with probability `rate`, otherwise 1 / (1 - rate)."""
    there = random.random(shape, dtype=np.float32) >= np.float32(rate)
    return there.astype(np.float32) * np.float32(1 / (1 - rate))


class ImageLogistic(Network):
    """Multinomial logistic regression (figure 1, left). All weights start at 0."""

    def __init__(self, inputs: int, classes: int, l2: float):
        super().__init__(l2)
        self.dense = nn.Dense(inputs, classes)
        self.loss = nn.CrossEntropyLoss()
        self.weights = (self.dense.weight,)

    def first_weights(self, random: np.random.Generator) -> list[np.ndarray]:
        return [np.zeros(parameter.shape, np.float32) for parameter in self.trainable_params()]

    def construct(self, images, labels):
        return self.loss(self.dense(images), labels) + self.penalty()


class TextLogistic(Network):
    """Logistic regression on bags of words with dropout of the words (figure 1, right).

    A bag is a row of word numbers, so only the words that are there cost anything; the gradient is
    that of a dense vector. All weights start at 0.

    Args:
        rows: The number of words, and one for the padding, word 0, which a mask takes out.
        dropout: The share of a bag's words that are left out.
    """

    def __init__(self, rows: int, dropout: float, l2: float):
        super().__init__(l2)
        self.dropout = dropout
        self.table = Parameter(Tensor(np.zeros(rows, np.float32)), name="table")
        self.bias = Parameter(Tensor(np.zeros(1, np.float32)), name="bias")
        self.weights = (self.table,)

    def first_weights(self, random: np.random.Generator) -> list[np.ndarray]:
        return [np.zeros(parameter.shape, np.float32) for parameter in self.trainable_params()]

    def noise(self, random: np.random.Generator, batch: Arrays) -> Arrays:
        words = batch[0]
        return (kept(random, words.shape, self.dropout) * (words != 0),)

    def construct(self, words, labels, mask):
        logits = (ops.gather(self.table, words, 0) * mask).sum(axis=1) + self.bias
        # -log p(label) = softplus(-logit) for label 1 and softplus(logit) for label 0
        return ops.softplus(logits * (1 - 2 * labels)).mean() + self.penalty()


class Perceptron(Network):
    """Fully connected ReLU layers (figure 2), with dropout of inputs and of hidden units."""

    def __init__(self, sizes: Sequence[int], input_dropout: float, dropout: float, l2: float):
        super().__init__(l2)
        self.layers = nn.CellList([nn.Dense(*pair) for pair in zip(sizes, sizes[1:])])
        self.loss = nn.CrossEntropyLoss()
        self.weights = tuple(layer.weight for layer in self.layers) if l2 else ()
        self.rates = (input_dropout, *[dropout] * (len(sizes) - 2))
        self.widths = tuple(sizes[:-1])
        # Which mask belongs to which layer; a rate of 0 has none.
        self.mask_of = tuple(
            sum(r > 0 for r in self.rates[:i]) if rate > 0 else -1
            for i, rate in enumerate(self.rates)
        )

    def noise(self, random: np.random.Generator, batch: Arrays) -> Arrays:
        return tuple(
            kept(random, (len(batch[0]), width), rate)
            for width, rate in zip(self.widths, self.rates)
            if rate > 0
        )

    def construct(self, images, labels, *masks):
        units = images
        for i in range(len(self.layers)):
            if i > 0:
                units = ops.relu(units)
            if self.mask_of[i] >= 0:
                units = units * masks[self.mask_of[i]]
            units = self.layers[i](units)
        cost = self.loss(units, labels)
        return cost + self.penalty() if self.weights else cost


class Convolution(nn.Cell):
    """A convolution of odd side that keeps height and width, as a product of matrices.

    The numbers are those of nn.Conv2d(pad_mode="same", has_bias=True), which on the CPU computes
    from 64 to 64 channels of a batch of 128 images of 14 x 14 in 4 to 16 seconds (MindSpore 2.10,
    two cores); this takes 0.3.
    """

    def __init__(self, channels: int, filters: int, side: int):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((filters, channels * side * side), np.float32)))
        self.bias = Parameter(Tensor(np.zeros((filters, 1), np.float32)))
        self.side = side

    def construct(self, images):
        rows, _, height, width = images.shape
        patches = ops.unfold(images, self.side, 1, self.side // 2)
        return (ops.matmul(self.weight, patches) + self.bias).reshape((rows, -1, height, width))


class ConvolutionNetwork(Network):
    """c64-c64-c128-1000 (figure 3): 5 x 5 convolutions, ReLU, 3 x 3 max pooling of stride 2.

    Args:
        shape: Channels, height and width of an image.
        classes: How many.
        channels: Of the three convolutions.
        units: Of the fully connected layer.
        input_dropout: Of the image's values.
        dropout: Of the fully connected layer's units.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        channels: Sequence[int],
        units: int,
        input_dropout: float,
        dropout: float,
    ):
        super().__init__(0.0)
        self.shape = tuple(shape)
        layers, before, side = [], shape[0], shape[1:]
        for after in channels:
            layers += [
                Convolution(before, after, 5),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, pad_mode="same"),
            ]
            before, side = after, [-(-length // 2) for length in side]
        self.body = nn.SequentialCell(layers)
        self.flat = before * side[0] * side[1]
        self.hidden, self.head = nn.Dense(self.flat, units), nn.Dense(units, classes)
        self.units = units
        self.loss = nn.CrossEntropyLoss()
        self.input_dropout, self.dropout = input_dropout, dropout

    def noise(self, random: np.random.Generator, batch: Arrays) -> Arrays:
        rows = len(batch[0])
        masks = []
        if self.input_dropout > 0:
            masks.append(kept(random, batch[0].shape, self.input_dropout))
        if self.dropout > 0:
            masks.append(kept(random, (rows, self.units), self.dropout))
        return tuple(masks)

    def construct(self, images, labels, *masks):
        if self.input_dropout > 0:
            images = images * masks[0]
        units = self.body(images.reshape((-1,) + self.shape))
        units = ops.relu(self.hidden(units.reshape((-1, self.flat))))
        if self.dropout > 0:
            units = units * masks[-1]
        return self.loss(self.head(units), labels)


class AutoEncoder(Network):
    """The variational auto-encoder of Kingma & Welling 2013 (figure 4), for binary images.

    The cost is the negative evidence lower bound in nats for an image, its first term estimated
    with one sample: E_q[-log p(x | z)] + KL(q(z | x) || N(0, 1)).
    """

    def __init__(self, inputs: int, units: int, latent: int):
        super().__init__(0.0)
        self.latent = latent
        self.encoder = nn.Dense(inputs, units)
        self.mean, self.log_variance = nn.Dense(units, latent), nn.Dense(units, latent)
        self.decoder, self.out = nn.Dense(latent, units), nn.Dense(units, inputs)

    def first_weights(self, random: np.random.Generator) -> list[np.ndarray]:
        """Normal of variance 1 / inputs: softplus has slopes of a half to 1 there, not ReLU's."""
        return [weight / np.float32(np.sqrt(2)) for weight in super().first_weights(random)]

    def noise(self, random: np.random.Generator, batch: Arrays) -> Arrays:
        return (random.standard_normal((len(batch[0]), self.latent), dtype=np.float32),)

    def construct(self, images, normal):
        units = ops.softplus(self.encoder(images))
        mean, log_variance = self.mean(units), self.log_variance(units)
        sample = mean + ops.exp(0.5 * log_variance) * normal
        logits = self.out(ops.softplus(self.decoder(sample)))
        reconstruction = (ops.softplus(logits) - images * logits).sum(axis=1)
        divergence = 0.5 * (ops.exp(log_variance) + ops.square(mean) - 1 - log_variance).sum(axis=1)
        return (reconstruction + divergence).mean()


def parameter_count(network: nn.Cell) -> int:
    return sum(parameter.size for parameter in network.trainable_params())


class Step(nn.Cell):
    """One step: cost, gradients, update. In graph mode one compiled graph."""

    def __init__(self, network: Network, optimizer: Optional[nn.Optimizer]):
        super().__init__()
        self.optimizer = optimizer
        self.value_and_grad = mindspore.value_and_grad(network, None, optimizer.parameters)

    def construct(self, *batch):
        cost, gradients = self.value_and_grad(*batch)
        return ops.depend(cost, self.optimizer(gradients))
