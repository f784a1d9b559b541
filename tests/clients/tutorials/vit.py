"""A vision transformer, a schedule of the learning rate, and Model.train."""

import mindspore as ms
from harness import STEPS, Losses, Run, batches, images, values
from mindspore import nn, ops

PATCH, WIDTH, HEADS, PATCHES = 8, 16, 2, 4


class Attention(nn.Cell):
    def __init__(self):
        super().__init__()
        # no bias: that of the keys cancels, and Adam would scale up its rounding noise
        self.qkv = nn.Dense(WIDTH, 3 * WIDTH, has_bias=False)
        self.out = nn.Dense(WIDTH, WIDTH)

    def construct(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        weights = ops.softmax(ops.matmul(q, k.swapaxes(-1, -2)) * (WIDTH // HEADS) ** -0.5)
        return self.out(ops.matmul(weights, v).swapaxes(1, 2).reshape(batch, length, WIDTH))


class VisionTransformer(nn.Cell):
    def __init__(self, classes=4):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, has_bias=True)
        self.position = ms.Parameter(ops.zeros((1, PATCHES, WIDTH)))
        self.norm1, self.norm2 = nn.LayerNorm((WIDTH,)), nn.LayerNorm((WIDTH,))
        self.attention = Attention()
        self.mlp = nn.SequentialCell(
            nn.Dense(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dense(2 * WIDTH, WIDTH)
        )
        self.head = nn.Dense(WIDTH, classes)

    def construct(self, pixels):
        x = self.patches(pixels).reshape(pixels.shape[0], WIDTH, -1).swapaxes(1, 2) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(axis=1))


def train(adam):
    network = VisionTransformer()
    start, losses = values(network.trainable_params()), Losses()
    schedule = nn.CosineDecayLR(1e-4, 1e-2, STEPS)
    optimizer = adam(network.trainable_params(), learning_rate=schedule, weight_decay=1e-2)
    model = ms.Model(network, nn.CrossEntropyLoss(), optimizer, metrics={"accuracy"})
    model.train(1, batches(*images()), callbacks=[losses], dataset_sink_mode=False)
    return Run(start, losses.values, values(network.trainable_params()))
