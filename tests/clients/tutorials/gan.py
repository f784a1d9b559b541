"""A GAN of dense layers: two optimizers, called from Python with gradients of value_and_grad."""

import mindspore as ms
import numpy as np
from harness import STEPS, Run, values
from mindspore import nn, ops

NOISE, POINTS = 4, 16


def train(adam):
    generator = nn.SequentialCell(nn.Dense(NOISE, 16), nn.LeakyReLU(), nn.Dense(16, 2))
    discriminator = nn.SequentialCell(nn.Dense(2, 16), nn.LeakyReLU(), nn.Dense(16, 1))
    optimizer_g = adam(generator.trainable_params(), learning_rate=5e-3, beta1=0.5)
    optimizer_d = adam(discriminator.trainable_params(), learning_rate=5e-3, beta1=0.5)
    optimizer_g.update_parameters_name("generator.")  # two networks have the same names
    optimizer_d.update_parameters_name("discriminator.")
    loss = nn.BCEWithLogitsLoss()
    ones, zeros = ops.ones((POINTS, 1)), ops.zeros((POINTS, 1))

    def generator_loss(noise):
        return loss(discriminator(generator(noise)), ones)

    def discriminator_loss(real, noise):
        return loss(discriminator(real), ones) + loss(discriminator(generator(noise)), zeros)

    generator_step = ms.value_and_grad(generator_loss, None, optimizer_g.parameters)
    discriminator_step = ms.value_and_grad(discriminator_loss, None, optimizer_d.parameters)
    parameters = generator.trainable_params() + discriminator.trainable_params()
    start, losses = values(parameters), []
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        angles = random.uniform(0, 2 * np.pi, POINTS)
        real = ms.Tensor(np.stack([np.cos(angles), np.sin(angles)], axis=1), ms.float32)
        noise = ms.Tensor(random.standard_normal((POINTS, NOISE)), ms.float32)
        loss_d, gradients = discriminator_step(real, noise)
        optimizer_d(gradients)
        loss_g, gradients = generator_step(noise)
        optimizer_g(gradients)
        losses += [float(loss_d.asnumpy()), float(loss_g.asnumpy())]
    return Run(start, losses, values(parameters))
