"""A DCGAN: convolutions, and the whole step of both networks under ms.jit."""

import mindspore as ms
import numpy as np
from harness import STEPS, Run, images, values
from mindspore import nn, ops

NOISE, BATCH = 4, 8


class Generator(nn.Cell):
    def __init__(self):
        super().__init__()
        self.layers = nn.SequentialCell(
            nn.Conv2dTranspose(NOISE, 8, 4, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2dTranspose(8, 1, 4, stride=2),
            nn.Tanh(),
        )

    def construct(self, noise):
        return self.layers(noise)


class Discriminator(nn.Cell):
    def __init__(self):
        super().__init__()
        self.layers = nn.SequentialCell(
            nn.Conv2d(1, 8, 4, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Dense(8 * 4 * 4, 1)
        )

    def construct(self, pixels):
        return self.layers(pixels)


def train(adam):
    generator, discriminator = Generator(), Discriminator()
    optimizer_g = adam(generator.trainable_params(), learning_rate=2e-3, beta1=0.5)
    optimizer_d = adam(discriminator.trainable_params(), learning_rate=2e-3, beta1=0.5)
    optimizer_g.update_parameters_name("generator.")  # two networks have the same names
    optimizer_d.update_parameters_name("discriminator.")
    generator.set_train()
    loss = nn.BCEWithLogitsLoss()
    ones, zeros = ops.ones((BATCH, 1)), ops.zeros((BATCH, 1))

    def generator_loss(noise):
        return loss(discriminator(generator(noise)), ones)

    def discriminator_loss(real, noise):
        return loss(discriminator(real), ones) + loss(discriminator(generator(noise)), zeros)

    generator_step = ms.value_and_grad(generator_loss, None, optimizer_g.parameters)
    discriminator_step = ms.value_and_grad(discriminator_loss, None, optimizer_d.parameters)

    @ms.jit
    def step(real, noise):
        loss_d, gradients = discriminator_step(real, noise)
        loss_d = ops.depend(loss_d, optimizer_d(gradients))
        loss_g, gradients = generator_step(noise)
        loss_g = ops.depend(loss_g, optimizer_g(gradients))
        return loss_d, loss_g

    parameters = generator.trainable_params() + discriminator.trainable_params()
    start, losses = values(parameters), []
    random = np.random.default_rng(0)
    pixels, _ = images(BATCH * STEPS, channels=1, size=8)
    for i in range(STEPS):
        noise = ms.Tensor(random.standard_normal((BATCH, NOISE, 1, 1)), ms.float32)
        real = ms.Tensor(np.tanh(pixels[BATCH * i : BATCH * (i + 1)]))
        losses += [float(loss.asnumpy()) for loss in step(real, noise)]
    return Run(start, losses, values(parameters))
