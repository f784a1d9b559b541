"""The networks that are trained.

Their first weights come from NumPy, so that every run of one seed, in either mode and on any
version of MindSpore, starts from the same arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from ms_adam.lab.problems.images import Images
from ms_adam.lab.problems.text import CLASSES, PADDING


class MultiLayerPerceptron(nn.Cell):
    """Dense layers with ReLU between them: from (batch, inputs) to logits, (batch, classes).

    Weights are drawn from a normal distribution of variance 2 / inputs (He et al. 2015, equation
    10), biases are zero.

    Args:
        sizes: The number of inputs, of units in each hidden layer, and of classes.
        seed: Decides the weights.
    """

    def __init__(self, sizes: Sequence[int], seed: int):
        super().__init__()
        random = np.random.default_rng(seed)
        layers = []
        for inputs, units in zip(sizes, sizes[1:]):
            weight = random.standard_normal((units, inputs)) * np.sqrt(2 / inputs)
            layers += [_dense(weight), nn.ReLU()]
        self.layers = nn.SequentialCell(layers[:-1])

    def construct(self, images):
        return self.layers(images)


class BagOfWords(nn.Cell):
    """A linear classifier of the mean of the words' rows in a table.

    The table is drawn from a normal distribution of variance 0.01 and the dense layer's weight from
    one of variance 1 / width.

    Args:
        rows: Rows of the table, that of the padding among them.
        width: Columns of the table.
        row_sparse: Whether the table's gradient is a RowTensor of the rows that are looked up
            (graph mode only), or a tensor of the table's shape.
        seed: Decides the first weights.

    Inputs:
        words: int32, shape (batch, most words in a bag).
        shares: float32, of the same shape: the weight of each row in the mean; 0 for padding.

    Outputs:
        float32 logits, shape (batch, 2).
    """

    def __init__(self, rows: int, width: int, row_sparse: bool, seed: int):
        super().__init__()
        random = np.random.default_rng(seed)
        table = 0.1 * random.standard_normal((rows, width))
        table[PADDING] = 0
        table = Tensor(table.astype(np.float32))
        if row_sparse:
            self.lookup = nn.EmbeddingLookup(rows, width, param_init=table, sparse=True)
        else:
            self.lookup = nn.Embedding(rows, width, embedding_table=table)
        self.dense = _dense(random.standard_normal((len(CLASSES), width)) / np.sqrt(width))
        self.sum = ops.ReduceSum()

    def construct(self, words, shares):
        # Each row's gradient is one product, shares x gradient of the mean, so there is nothing
        # that the two kinds of gradients could round differently before a word's are summed.
        return self.dense(self.sum(self.lookup(words) * shares.expand_dims(-1), 1))


def _dense(weight: np.ndarray) -> nn.Dense:
    """A dense layer whose biases are zero."""
    units, inputs = weight.shape
    dense = nn.Dense(inputs, units)
    dense.weight.set_data(Tensor(weight.astype(np.float32)))
    dense.bias.set_data(Tensor(np.zeros(units, np.float32)))
    return dense


def accuracy(model: nn.Cell, images: Images) -> np.floating:
    """Returns the share of images that a model classifies correctly, float64."""
    return held_out(model, [images.inputs], images.labels)["test_accuracy"]


def held_out(
    model: nn.Cell, inputs: Sequence[np.ndarray], labels: np.ndarray
) -> dict[str, np.floating]:
    """Returns the mean cross-entropy and the accuracy of a model's logits, in float64."""
    logits = model(*map(Tensor, inputs)).asnumpy().astype(np.float64)
    chosen = logits[np.arange(len(labels)), labels]
    return {
        "test_loss": np.mean(np.logaddexp.reduce(logits, axis=1) - chosen),
        "test_accuracy": np.mean(np.argmax(logits, axis=1) == labels),
    }


# The networks of Kingma & Ba 2015, section 6. Each is a Cell that returns the cost of a batch.
#
# NumPy draws the noise (dropout, the auto-encoder's sample), which is passed with the batch: all
# optimizers of one seed get the same noise, on any version of MindSpore.
#
# Cross-entropy is nn.CrossEntropyLoss. nn.SoftmaxCrossEntropyWithLogits takes the logarithm of a
# probability, which is 0 in float32 where a logit is 104 below the largest, so the cost of a run
# with large weights would be infinite.


class PaperNetwork(nn.Cell):
    """Base of the paper's networks: first weights, dropout and the L2 term.

    Args:
        l2: lambda of lambda / 2 * ||w||^2, which is added to the cost.
        dropout: (shape of one example, rate) for each place in the network where units are dropped.
    """

    starts_at_zero = False

    def __init__(self, l2: float = 0.0, dropout: Sequence[tuple[Sequence[int], float]] = ()):
        super().__init__()
        self.l2 = l2
        self.weights: tuple = ()  # the parameters in the L2 term: weights, not biases
        self.dropped = tuple((shape, rate) for shape, rate in dropout if rate > 0)
        # Index of the mask of each place; a rate of 0 has no mask.
        masks = itertools.count()
        self.mask_of = tuple(next(masks) if rate > 0 else -1 for _, rate in dropout)

    def first_weights(self, random: np.random.Generator) -> list[np.ndarray]:
        """Draws the first value of each parameter.

        Weights are normal of variance 2 / inputs (He et al. 2015, equation 10), biases are 0.
        """
        values = []
        for parameter in self.trainable_params():
            value = np.zeros(parameter.shape, np.float32)
            is_weight = parameter.ndim > 1 and not parameter.name.endswith("bias")
            if is_weight and not self.starts_at_zero:
                deviation = np.float32(np.sqrt(2 / np.prod(parameter.shape[1:])))
                value = random.standard_normal(value.shape, dtype=np.float32) * deviation
            values.append(value)
        return values

    def noise(self, random: np.random.Generator, batch: Sequence[np.ndarray]) -> tuple:
        """Draws a step's noise, arrays: further arguments of the network, after the batch."""
        size = len(batch[0])
        return tuple(dropout_mask(random, (size, *shape), rate) for shape, rate in self.dropped)

    def drop(self, units, place, masks):
        """Returns the units after the dropout at a place."""
        return units * masks[self.mask_of[place]] if self.mask_of[place] >= 0 else units

    def penalty(self):
        """Returns the L2 term of the cost."""
        total = 0.0
        for weight in self.weights:
            total += ops.square(weight).sum()
        return 0.5 * self.l2 * total


def dropout_mask(random: np.random.Generator, shape: Sequence[int], rate: float) -> np.ndarray:
    """Draws a mask: 0 with probability `rate`, otherwise 1 / (1 - rate)."""
    present = random.random(shape, dtype=np.float32) >= np.float32(rate)
    return present.astype(np.float32) * np.float32(1 / (1 - rate))


class TextLogistic(PaperNetwork):
    """Logistic regression on bags of words with dropout of words (figure 1, right).

    A bag is a row of word numbers, so only its words cost time; the gradient is that of a dense
    vector. All weights start at 0.

    Args:
        rows: Number of words, and one for the padding, word 0, which the mask removes.
        dropout: Share of a bag's words that are left out.
        l2: As in `PaperNetwork`.
    """

    starts_at_zero = True

    def __init__(self, rows: int, dropout: float, l2: float):
        super().__init__(l2)
        self.rate = dropout
        self.table = mindspore.Parameter(np.zeros(rows, np.float32), name="table")
        self.bias = mindspore.Parameter(np.zeros(1, np.float32), name="bias")
        self.weights = (self.table,)

    def noise(self, random, batch):
        words = batch[0]
        return (dropout_mask(random, words.shape, self.rate) * (words != 0),)

    def construct(self, words, labels, mask):
        logits = (ops.gather(self.table, words, 0) * mask).sum(axis=1) + self.bias
        # -log p(label) = softplus(-logit) for label 1 and softplus(logit) for label 0
        return ops.softplus(logits * (1 - 2 * labels)).mean() + self.penalty()


class PaperPerceptron(PaperNetwork):
    """Fully connected ReLU layers (figure 2), with dropout of inputs and of hidden units."""

    def __init__(self, sizes: Sequence[int], input_dropout: float, dropout: float, l2: float):
        rates = (input_dropout, *[dropout] * (len(sizes) - 2))
        super().__init__(l2, [((size,), rate) for size, rate in zip(sizes, rates)])
        self.layers = nn.CellList([nn.Dense(*pair) for pair in zip(sizes, sizes[1:])])
        self.loss = nn.CrossEntropyLoss()
        self.weights = tuple(layer.weight for layer in self.layers) if l2 else ()

    def construct(self, images, labels, *masks):
        units = images
        for i in range(len(self.layers)):
            if i > 0:
                units = ops.relu(units)
            units = self.layers[i](self.drop(units, i, masks))
        cost = self.loss(units, labels)
        return cost + self.penalty() if self.weights else cost


class ImageLogistic(PaperPerceptron):
    """Multinomial logistic regression (figure 1, left): one layer, whose weights start at 0."""

    starts_at_zero = True

    def __init__(self, inputs: int, classes: int, l2: float):
        super().__init__([inputs, classes], 0.0, 0.0, l2)


class Convolution(nn.Cell):
    """A convolution of odd side that keeps height and width, as one matrix product.

    It computes nn.Conv2d(pad_mode="same", has_bias=True). On one core that takes 1.3 s, forward and
    backward, from 16 to 16 channels of a batch of 128 images of 14 x 14 (MindSpore 2.10); this
    takes 0.05.

    Images have the shape (channels, height, batch, width): as a matrix, a row for each channel. A
    filter sums products of weights and moved images. Moving along the width comes before the
    product; moving along the height too or, where that leaves fewer rows to move, after it.
    """

    def __init__(self, channels: int, filters: int, side: int):
        super().__init__()
        self.weight = mindspore.Parameter(np.zeros((filters, channels * side * side), np.float32))
        self.bias = mindspore.Parameter(np.zeros((filters, 1), np.float32))
        self.shape = (filters, channels, side, side)
        self.moves = tuple(range(-(side // 2), side // 2 + 1))
        self.all_before = channels * side < filters
        self.product = ops.MatMul()  # ops.matmul would transpose the patches for its gradient

    def construct(self, images):
        filters, _, side, _ = self.shape
        weight = self.weight.reshape(self.shape)
        patches = self.moved_each_way(images, 3)
        if self.all_before:
            weight = weight.transpose((0, 2, 3, 1)).reshape((filters, -1))
            patches = self.moved_each_way(patches, 1)
            sums = self.product(weight, patches.reshape((weight.shape[1], -1)))
        else:
            weight = weight.transpose((2, 0, 3, 1)).reshape((side * filters, -1))
            sums = self.product(weight, patches.reshape((weight.shape[1], -1)))
            sums = self.sum_of_moved(sums.reshape((-1,) + images.shape[1:]), 1)
        return (sums.reshape((filters, -1)) + self.bias).reshape((filters,) + images.shape[1:])

    def moved_each_way(self, images, axis):
        """Returns the images moved by each step, one after the other along axis 0."""
        return ops.concat([moved(images, by, axis) for by in self.moves])

    def sum_of_moved(self, images, axis):
        """Splits the images along axis 0, one part for each step, and adds the moved parts."""
        parts = ops.split(images, self.shape[0])
        total = parts[len(self.moves) // 2]  # it does not move
        for part, by in zip(parts, self.moves):
            if by != 0:
                total += moved(part, by, axis)
        return total


def moved(images, by: int, axis: int):
    """Returns images whose pixel i is pixel i + by of these, or 0 where there is none."""
    if by == 0:
        return images
    kept = ops.narrow(images, axis, max(by, 0), images.shape[axis] - abs(by))
    edge = ops.zeros(images.shape[:axis] + (abs(by),) + images.shape[axis + 1 :], images.dtype)
    return ops.concat((kept, edge) if by > 0 else (edge, kept), axis)


class ConvolutionNetwork(PaperNetwork):
    """c64-c64-c128-1000 (figure 3): 5 x 5 convolutions, ReLU, 3 x 3 max pooling of stride 2.

    Args:
        shape: Channels, height and width of an image.
        classes: Number of classes.
        channels: Filters of each convolution.
        units: Units of the fully connected layer.
        input_dropout: Dropout rate of the image's values.
        dropout: Dropout rate of the fully connected layer's units.
    """

    def __init__(self, shape, classes, channels, units, input_dropout, dropout):
        super().__init__(dropout=[((int(np.prod(shape)),), input_dropout), ((units,), dropout)])
        self.shape = tuple(shape)
        layers, before, side = [], shape[0], shape[1:]
        for after in channels:
            layers.append(Convolution(before, after, 5))
            before, side = after, [-(-length // 2) for length in side]
        self.convolutions = nn.CellList(layers)
        self.pool = nn.MaxPool2d(3, 2, pad_mode="same")
        self.flat = before * side[0] * side[1]
        self.hidden, self.head = nn.Dense(self.flat, units), nn.Dense(units, classes)
        self.loss = nn.CrossEntropyLoss()

    def construct(self, images, labels, *masks):
        units = self.drop(images, 0, masks).reshape((-1,) + self.shape).transpose((1, 2, 0, 3))
        for convolution in self.convolutions:
            units = self.pool(convolution(units).transpose((0, 2, 1, 3))).transpose((0, 2, 1, 3))
            units = ops.relu(units)  # the largest, then ReLU: as in the other order, of fewer
        units = units.transpose((2, 0, 1, 3)).reshape((-1, self.flat))
        units = ops.relu(self.hidden(units))
        return self.loss(self.head(self.drop(units, 1, masks)), labels)


class AutoEncoder(PaperNetwork):
    """The variational auto-encoder of Kingma & Welling 2013 (figure 4), for binary images.

    The cost is the negative evidence lower bound in nats for an image, its first term estimated
    with one sample: E_q[-log p(x | z)] + KL(q(z | x) || N(0, 1)).
    """

    def __init__(self, inputs: int, units: int, latent: int):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Dense(inputs, units)
        self.mean, self.log_variance = nn.Dense(units, latent), nn.Dense(units, latent)
        self.decoder, self.out = nn.Dense(latent, units), nn.Dense(units, inputs)

    def first_weights(self, random: np.random.Generator) -> list[np.ndarray]:
        """Draws weights of variance 1 / inputs: softplus has slopes of a half to 1, unlike ReLU."""
        return [weight / np.float32(np.sqrt(2)) for weight in super().first_weights(random)]

    def noise(self, random, batch):
        return (random.standard_normal((len(batch[0]), self.latent), dtype=np.float32),)

    def construct(self, images, normal):
        units = ops.softplus(self.encoder(images))
        mean, log_variance = self.mean(units), self.log_variance(units)
        sample = mean + ops.exp(0.5 * log_variance) * normal
        logits = self.out(ops.softplus(self.decoder(sample)))
        reconstruction = (ops.softplus(logits) - images * logits).sum(axis=1)
        divergence = 0.5 * (ops.exp(log_variance) + ops.square(mean) - 1 - log_variance).sum(axis=1)
        return (reconstruction + divergence).mean()
