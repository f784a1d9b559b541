"""Trainings as a user writes them: python training.py WAY STEPS [WAY STEPS ...] ENDING.

Each prints its losses, and at its end all bits of the weights. STEPS may be a time, as in 5s.
"""

import itertools
import os
import signal
import sys
import time

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import ms_adam

OURS = {"accumulated": {"accumulate_steps": 4}, "bytes": {"state_dtype": "int8"}}
# Gradients for the ways that compute none.
GIVEN = {"given": (ms.float32, [1e-9, 5e-9, 1e-7, 1e-6]), "half": (ms.float16, [1e-3, 1.0, 0.0])}


class OwnAdam(nn.Optimizer):
    """The user's own, with epsilon inside the root."""

    def __init__(self, params, learning_rate):
        super().__init__(learning_rate, params)
        self.moment1 = self.parameters.clone("m", "zeros")
        self.moment2 = self.parameters.clone("v", "zeros")
        self.beta1, self.beta2, self.eps = 0.9, 0.99, 1e-3

    def construct(self, gradients):
        self.global_step += 1
        t = self.global_step
        for w, m, v, g in zip(self.parameters, self.moment1, self.moment2, gradients):
            m.set_data(self.beta1 * m + (1 - self.beta1) * g)
            v.set_data(self.beta2 * v + (1 - self.beta2) * g * g)
            mhat, vhat = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
            w.set_data(w - self.learning_rate * mhat / ops.sqrt(vhat + self.eps))
        return True


class Printing(ms.Callback):
    def on_train_step_end(self, run_context):
        print(run_context.original_args().net_outputs.asnumpy())


def train(way, steps):
    began = time.perf_counter()
    lasting = float(steps[:-1]) if steps.endswith("s") else None
    steps = 0 if lasting else int(steps)
    cell = way in ("cell", "lazy", "mint")
    compiled = cell or way in ("model", "called graph")
    ms.set_context(mode=ms.GRAPH_MODE if compiled else ms.PYNATIVE_MODE)
    ms.set_seed(1)
    rng = np.random.default_rng(0)
    images, labels = (rng.standard_normal((32, width)).astype(np.float32) for width in (8, 4))
    if way == "lazy":  # rows of a table; of duplicate ones MindSpore squares gradients unsummed
        images = rng.permutation(64)[:32].astype(np.int32)
        net = nn.EmbeddingLookup(64, 4)
    else:
        net = nn.Dense(8, 4, weight_init="normal")
    mse = nn.MSELoss()
    parameters = net.trainable_params()
    if way in GIVEN:
        dtype, gradient = GIVEN[way]
        parameters = [Parameter(Tensor([0.0] * len(gradient), dtype), name="given")]
    if way == "own":
        optimizer = OwnAdam(parameters, 0.01)
    elif way == "lazy":
        optimizer = nn.LazyAdam(parameters, 0.01)
    elif way == "mint":
        optimizer = ms_adam.mint.Adam(parameters, 0.01, state_dtype="bfloat16")
    elif way == "groups":
        weights, biases = ({"params": [parameter]} for parameter in parameters)
        weights.update(betas=(0.5, 0.9), eps=1e-4, maximize=True)
        optimizer = ms_adam.Adam([weights, biases], 0.01)
    elif way in OURS:
        optimizer = ms_adam.Adam(parameters, 0.01, **OURS[way])
    elif way == "model":
        schedule = nn.CosineDecayLR(0.001, 0.01, steps)
        optimizer = nn.AdamWeightDecay(parameters, schedule, weight_decay=0.1)
    else:
        optimizer = nn.Adam(parameters, 0.01)

    def forward(x, y):
        return mse(net(x), y)

    gradients_of = ms.value_and_grad(forward, None, optimizer.parameters)

    @ms.jit
    def compiled_step(x, y):
        loss, gradients = gradients_of(x, y)
        return ops.depend(loss, optimizer(gradients))

    def called_step(x, y):
        loss, gradients = gradients_of(x, y)
        optimizer(gradients)
        return loss

    def given_step(x, y):
        optimizer((Tensor(gradient, dtype),))
        return x.sum()

    if way == "model":
        copies = [np.tile(array, (steps, 1)) for array in (images, labels)]
        data = ms.dataset.NumpySlicesDataset(tuple(copies), shuffle=False).batch(32)
        ms.Model(net, mse, optimizer).train(1, data, Printing(), dataset_sink_mode=False)
    else:
        if cell:
            step = nn.TrainOneStepCell(nn.WithLossCell(net, mse), optimizer)
        else:
            step = compiled_step if way == "jit" else given_step if way in GIVEN else called_step
        for number in itertools.count() if lasting else range(steps):
            if lasting and time.perf_counter() - began > lasting:
                break
            if way == "new data" and number == 6:
                for parameter in parameters:
                    parameter.set_data(Tensor(0.5 * parameter.asnumpy()))
            if way == "lazy":
                images = (images + 7) % 64
            print(step(Tensor(images), Tensor(labels)).asnumpy(), flush=True)

    for parameter in parameters:
        print(parameter.name, parameter.asnumpy().tobytes().hex(), flush=True)
    return optimizer


*trainings, ending = sys.argv[1:]
optimizers = [train(*each) for each in zip(trainings[::2], trainings[1::2])]  # as long as it runs
if ending == "crash":
    raise RuntimeError("the user's own error")
if ending == "wait":  # for Ctrl-C
    signal.pause()
if ending == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(ending))
