"""ms_adam inside mindone 0.5.0: TrainOneStepWrapper and create_optimizer of mindone.trainers."""

from functools import partial

import mindspore as ms
import numpy as np
import pytest
from harness import (
    STEPS,
    Run,
    WithoutBiasCorrection,
    documented,
    hold,
    images,
    scalar,
    shown,
    train,
    values,
)
from mindone.trainers import optim
from mindone.trainers.checkpoint import resume_train_network
from mindone.trainers.ema import EMA
from mindone.trainers.train_step import TrainOneStepWrapper
from mindspore import nn, ops

import ms_adam

ACCUMULATED = 2  # batches for each step of the optimizer


class Network(nn.Cell):
    """A convolution, a normalization and a classifier, with their loss."""

    def __init__(self):
        super().__init__()
        self.layers = nn.SequentialCell(
            nn.Conv2d(3, 8, 3, stride=4, has_bias=True),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            nn.Flatten(),
            nn.Dense(8 * 4 * 4, 4),
        )
        self.loss = nn.CrossEntropyLoss()

    def construct(self, pixels, labels):
        return self.loss(self.layers(pixels), labels)


def feed(step, first, last):
    """Trains on some batches of eight; returns the losses."""
    pixels, labels = images(8 * STEPS * ACCUMULATED)
    return [
        scalar(step(ms.Tensor(pixels[8 * i : 8 * i + 8]), ms.Tensor(labels[8 * i : 8 * i + 8])))
        for i in range(first, last)
    ]


def parts(make, accumulated, clip_grad):
    """Returns a network, its optimizer, mindone's EMA of its weights, and mindone's step."""
    network = Network()
    optimizer, ema = make(network), EMA(network, ema_decay=0.9)
    step = TrainOneStepWrapper(
        network,
        optimizer,
        ms.Tensor(1024.0),
        ema=ema,
        clip_grad=clip_grad,
        clip_norm=0.5,
        gradient_accumulation_steps=accumulated,
    )
    step.set_train()
    return network, optimizer, ema, step


def run(make, accumulated=ACCUMULATED, clip_grad=True, checkpoint=None):
    """Trains; with a checkpoint, new objects resume from it for the second half."""
    network, optimizer, ema, step = parts(make, accumulated, clip_grad)
    start = values(network.trainable_params())
    batches = STEPS * accumulated
    losses = feed(step, 0, batches // 2 if checkpoint else batches)
    if checkpoint:
        ms.save_checkpoint(step, checkpoint)
        network, optimizer, ema, step = parts(make, accumulated, clip_grad)
        resume_train_network(network, optimizer, checkpoint)
        ms.load_param_into_net(ema, ms.load_checkpoint(checkpoint))
        losses += feed(step, batches // 2, batches)
    return Run(start + start, losses, values(network.trainable_params()) + values(ema.ema_weight))


def created(name, replaced=None, by=None):
    """Calls mindone's create_optimizer with one of its classes replaced."""
    rate = 1e-3 if name == "adamw" else 1e-2  # steps are 3 to 7 times as long without correction

    def make(network):
        with pytest.MonkeyPatch.context() as patch:
            if replaced:
                patch.setattr(optim, replaced, by)
            return optim.create_optimizer(
                network.trainable_params(), name, lr=rate, weight_decay=0.05
            )

    return make


def as_documented(network):
    names = {"network": network, "optim": optim, "ms_adam": ms_adam}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "AdamW_Refined", optim.AdamW_Refined)  # to be restored
        exec(shown("mindone"), names)
    assert type(names["optimizer"]) is ms_adam.AdamW
    return names["optimizer"]


OURS = {  # by the name that create_optimizer is given
    "adam": created("adam", "Adam", partial(ms_adam.Adam, epsilon_hat=True)),
    "adamw": created("adamw", "AdamWeightDecay", partial(ms_adam.AdamW, bias_correction=False)),
    "adamw_re": as_documented,
}
CONTROLS = {
    "adam": created("adam", "Adam", partial(ms_adam.Adam, bias_correction=False)),
    "adamw": created("adamw", "AdamWeightDecay", ms_adam.AdamW),
    "adamw_re": created("adamw_re", "AdamW_Refined", WithoutBiasCorrection),
}


@pytest.mark.parametrize(
    "mode, name", [("pynative", "adamw_re"), *(("graph", name) for name in OURS)], indirect=["mode"]
)
def test_trainer_of_mindone(name, mode):
    hold(run, OURS[name], created(name), control=CONTROLS[name] if mode == "graph" else None)


def test_trainer_without_features():
    ms.set_context(mode=ms.GRAPH_MODE)
    hold(partial(run, accumulated=1, clip_grad=False), as_documented, created("adamw_re"))


def test_resumed(tmp_path):
    ms.set_context(mode=ms.GRAPH_MODE)
    once = train(run, as_documented)
    again = train(partial(run, checkpoint=str(tmp_path / "half.ckpt")), as_documented)
    assert once.losses == again.losses
    for a, b in zip(once.end, again.end):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("alone", [False, True])
def test_averages_of_mindone_are_loaded(alone, tmp_path):
    """From what a training step writes, and from the files of an optimizer and of an EMA."""
    ms.set_context(mode=ms.GRAPH_MODE)
    _, optimizer, ema, step = train(partial(parts, accumulated=1, clip_grad=True), created("adam"))
    feed(step, 0, 3)
    checkpoint = {}
    for name, cell in {"optimizer": optimizer, "ema": ema}.items() if alone else [("step", step)]:
        ms.save_checkpoint(cell, str(tmp_path / f"{name}.ckpt"))
        checkpoint.update(ms.load_checkpoint(str(tmp_path / f"{name}.ckpt")))
    ours = ms_adam.Adam(Network().trainable_params(), ema_decay=0.9, ema_debias=False)
    ms_adam.load_state(ours, checkpoint)
    for theirs, loaded in ((ema.ema_weight, ours.ema), (optimizer.moment1, ours.moment1)):
        for a, b in zip(values(theirs), values(loaded)):
            np.testing.assert_array_equal(a, b)


# --- what does not run on a CPU ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw_mint", "adamw_bf16"])
def test_optimizer_that_does_not_run(name):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    optimizer = created(name)(Network())
    with pytest.raises(RuntimeError, match=documented("mindone", name)):
        optimizer(tuple(ops.ones_like(parameter) for parameter in optimizer.parameters))
        optimizer.parameters[0].asnumpy()
