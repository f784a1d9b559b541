"""Mixed precision: float16 layers, DynamicLossScaler, and a step that skips overflows."""

import mindspore as ms
from harness import STEPS, Run, images, values
from mindspore import amp, nn, ops

BATCH = 8


def train(adam):
    network = nn.SequentialCell(nn.Flatten(), nn.Dense(3 * 4 * 4, 16), nn.ReLU(), nn.Dense(16, 4))
    network = amp.auto_mixed_precision(network, "O1")
    optimizer = adam(network.trainable_params(), learning_rate=1e-2)
    scaler = amp.DynamicLossScaler(scale_value=2.0**18, scale_factor=2, scale_window=100)
    loss = nn.CrossEntropyLoss()

    def forward(pixels, labels):
        return scaler.scale(loss(network(pixels).astype(ms.float32), labels))

    value_and_grad = ms.value_and_grad(forward, None, optimizer.parameters)

    @ms.jit
    def step(pixels, labels):
        value, gradients = value_and_grad(pixels, labels)
        finite = amp.all_finite(gradients)
        if finite:
            value = ops.depend(value, optimizer(scaler.unscale(gradients)))
        scale = scaler.scale_value.copy()
        return ops.depend(value, scaler.adjust(finite)) / scale, finite

    start, losses, overflows = values(network.trainable_params()), [], 0
    pixels, labels = images(2 * BATCH * STEPS, size=4)
    while len(losses) < STEPS:
        batch = slice(BATCH * (len(losses) + overflows), BATCH * (len(losses) + overflows + 1))
        value, finite = step(ms.Tensor(pixels[batch]), ms.Tensor(labels[batch]))
        if finite:
            losses.append(float(value.asnumpy()))
        else:
            overflows += 1
    assert overflows and float(scaler.scale_value.asnumpy()) == 2.0 ** (18 - overflows)
    return Run(start, losses, values(network.trainable_params()))
