"""ms_adam inside MindCV 0.3.0: create_trainer, its TrainStep, and create_optimizer."""

import importlib.metadata
from functools import cache, partial
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from harness import (
    APART,
    BOUND,
    LOSS_BOUND,
    STEPS,
    Losses,
    OverflowOnCPU,
    Run,
    batches,
    distance,
    documented,
    hold,
    images,
    loss_distance,
    loss_scales,
    module,
    scalar,
    shown,
    train,
    values,
)
from mindcv.loss import create_loss
from mindcv.models.vit import VisionTransformer
from mindcv.optim import create_optimizer, optim_factory
from mindcv.utils.train_step import TrainStep
from mindcv.utils.trainer_factory import create_trainer
from mindspore import nn, ops

import ms_adam

MindCVAdamW = optim_factory.AdamW

ALL = {
    "ema": True,
    "ema_decay": 0.9,
    "clip_grad": True,
    "clip_value": 0.5,
    "loss_scale": 1024.0,
    "gradient_accumulation_steps": 2,
}
FEATURES = {  # of create_trainer; MindCV cannot accumulate gradients in PyNative mode
    "graph": [{"loss_scale": 1024.0}, ALL],
    "pynative": [
        {"loss_scale": 1024.0},
        {key: value for key, value in ALL.items() if "accumulation" not in key},
    ],
}
CASES = [
    pytest.param(mode, features, id=f"{mode}-{'all' if len(features) > 1 else 'plain'}")
    for mode, cases in FEATURES.items()
    for features in cases
]
in_modes = pytest.mark.parametrize("mode, features", CASES, indirect=["mode"])


def vision_transformer(depth):
    # Without a block it compiles in a quarter of the time, and has parameters of all kinds.
    # Without biases: that of the keys cancels in the softmax, so its gradient is rounding noise,
    # which Adam scales up to whole steps.
    network = VisionTransformer(
        image_size=16,
        patch_size=8,
        in_channels=3,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        num_classes=4,
        global_pool="avg",
        qkv_bias=False,
    )
    network.pretrained_cfg = {"classifier": "head"}  # MindCV distinguishes layers by it
    return network


def trained(make, depth=0, loss_scale=1.0, first=0, last=None, load=None, save=None, **features):
    """Trains MindCV's vision transformer on some of the batches.

    `make` returns the trainer; it is given what the lines of docs/clients.md use, by name. `load`
    and `save` are the checkpoints before and after.
    """
    network = vision_transformer(depth)
    start = values(network.trainable_params())
    names = {
        "network": network,
        "loss": create_loss("CE"),
        "create_trainer": create_trainer,
        "options": {
            "metrics": {"acc"},
            "amp_level": "O0",
            "amp_cast_list": None,
            "loss_scale": loss_scale,
            "loss_scale_type": "fixed",
            **features,
        },
    }
    model = make(names)
    if load is not None:
        # without the schedule's rates, which MindCV's optimizer lists as parameters
        entries = {
            name: value
            for name, value in ms.load_checkpoint(load).items()
            if not name.endswith("learning_rate")
        }
        missing, _ = ms.load_param_into_net(model.train_network, entries)
        missing = [name for name in missing if not name.endswith("learning_rate")]
        assert missing == []
    count = 8 * STEPS * features.get("gradient_accumulation_steps", 1)
    pixels, labels = (column[8 * first : last and 8 * last] for column in images(count))
    losses = Losses()
    model.train(1, batches(pixels, labels), callbacks=[losses], dataset_sink_mode=False)
    if save is not None:
        ms.save_checkpoint(model.train_network, save)
    averages = values(model.train_network.ema_weight) if "ema" in features else []
    return Run(
        start + start[: len(averages)], losses.values, values(network.trainable_params()) + averages
    )


def scale_of(features):
    """Returns the loss scale for the optimizer: 1 if MindCV's TrainStep divides by it."""
    return features.get("loss_scale", 1.0) if len(features) == 1 else 1.0


def handed_over(optimizer, *arguments, **keywords):
    """Creates an optimizer and passes it to create_trainer."""

    def make(names):
        made = optimizer(names["network"].trainable_params(), *arguments, **keywords)
        return create_trainer(names["network"], names["loss"], made, **names["options"])

    return make


def created(optimizer, monkeypatch, **options):
    """Replaces the class of create_optimizer(..., "adamw") as in docs/clients.md."""

    def make(names):
        options_of_optimizer = {"lr": 1e-2, "weight_decay": 0.05, **options}
        used = {
            **names,
            "options": options_of_optimizer,
            "optim_factory": optim_factory,
            "create_optimizer": create_optimizer,
            "ms_adam": SimpleNamespace(AdamW=optimizer),
        }
        with monkeypatch.context() as patch:
            patch.setattr(optim_factory, "AdamW", MindCVAdamW)  # to be restored
            exec(shown("MindCV", 1), used)
        assert type(used["optimizer"]) is optimizer
        return create_trainer(
            names["network"], names["loss"], used["optimizer"], **names["options"]
        )

    return make


@in_modes
def test_optimizer_handed_to_create_trainer(features, mode):
    loss_scale = scale_of(features)

    def ours(names):
        names.update(ms_adam=ms_adam, loss_scale=loss_scale)
        exec(shown("MindCV", 0), names)
        assert names["optimizer"].formula.epsilon_hat
        return names["model"]

    control = handed_over(ms_adam.Adam, 1e-2, loss_scale=loss_scale) if mode == "graph" else None
    hold(
        partial(trained, depth=mode == "graph" and len(features) > 1, **features),
        ours,
        handed_over(nn.Adam, 1e-2, loss_scale=loss_scale),
        control,
    )


@in_modes
def test_class_exchanged_in_create_optimizer(features, mode, monkeypatch):
    make = partial(created, monkeypatch=monkeypatch, loss_scale=scale_of(features))
    hold(partial(trained, **features), make(ms_adam.AdamW), make(MindCVAdamW))


RATES = [1e-2 / (1 + step) for step in range(STEPS)]
OPTIONS = {  # of create_optimizer
    "layer decay": {"layer_decay": 0.75, "lr": RATES},
    "norms and biases do not decay": {"weight_decay_filter": "norm_and_bias"},
    "nn.Optimizer says what decays": {"weight_decay_filter": "auto", "weight_decay": 0.3},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_create_optimizer(option, monkeypatch):
    ms.set_context(mode=ms.GRAPH_MODE)
    make = partial(created, monkeypatch=monkeypatch, **OPTIONS[option])
    control = created(ms_adam.AdamW, monkeypatch)
    run = partial(trained, depth=1) if option == "layer decay" else trained
    hold(run, make(ms_adam.AdamW), make(MindCVAdamW), control)


# --- the tail of a step --------------------------------------------------------------------------

TAIL_STEPS, OVERFLOW = 20, 9  # steps without overflow; the batch with one


class StepOnCPU(OverflowOnCPU, TrainStep):
    """MindCV's step, with a check for overflow that runs on a CPU."""


class GrowingDecay(nn.Cell):
    """The decay rate of the averages of MindCV, after some updates that were made before."""

    def __init__(self, decay, before):
        super().__init__()
        self.decay, self.first = decay, before + 1.0

    def construct(self, done):
        return self.decay * (1.0 - ops.exp(-(done + self.first) / 2000.0))


def tail_of_mindcv(network, loss, updates=1e6):
    """Returns MindCV's step, its loss scale and its averages."""
    step = StepOnCPU(
        nn.WithLossCell(network, loss),
        nn.Adam(network.trainable_params(), 1e-2),
        nn.DynamicLossScaleUpdateCell(1024, 2, 4),
        ema=True,
        ema_decay=0.9,
        clip_grad=True,
        clip_value=0.5,
    )
    # Its decay is ema_decay * (1 - exp(-updates / 2000)). Long after that, it is ema_decay.
    step.updates.set_data(ms.Tensor(updates, ms.float32))
    return step, step.scale_sense, step.ema_weight


def tail_of_optimizer(network, loss, **options):
    """Returns the step of docs/clients.md, its loss scale and its averages."""
    names = {**vars(module(shown("MindCV", 2))), "network": network, "loss": loss}
    if options:  # of a control
        names["ms_adam"] = SimpleNamespace(
            Adam=lambda *given, **there: ms_adam.Adam(*given, **{**there, **options})
        )
    exec(shown("MindCV", 3), names)
    return names["step"], names["scaler"].scale_value, names["optimizer"].ema


def run_tail(make, resume=None):
    """Trains with an overflow; with `resume`, other objects continue in the middle.

    `resume` is given what the first step leaves, and returns what `make` does.
    """
    network, loss = vision_transformer(depth=0), create_loss("CE")
    start = values(network.trainable_params())
    step, scale, averages = make(network, loss)
    step.set_train()
    overflows = [batch == OVERFLOW for batch in range(TAIL_STEPS + 1)]
    pixels, labels = images(8 * len(overflows))
    pixels[8 * OVERFLOW] = np.inf
    losses, scales = [], list(loss_scales(overflows))
    for batch, overflow in enumerate(overflows):
        if resume and batch == TAIL_STEPS // 2 + 1:
            network = vision_transformer(depth=0)
            step, scale, averages = resume(step, network, loss)
            step.set_train()
        rows = slice(8 * batch, 8 * batch + 8)
        value = scalar(step(ms.Tensor(pixels[rows]), ms.Tensor(labels[rows])))
        assert np.isfinite(value) != overflow
        losses += [] if overflow else [value]
        assert resume or scale.asnumpy() == scales[batch]
    return Run(start + start, losses, values(network.trainable_params()) + values(averages))


@cache
def run_of_mindcv(mode):
    return train(run_tail, tail_of_mindcv)


def test_tail_in_the_optimizer(mode):
    found = train(run_tail, tail_of_optimizer)
    assert loss_distance(found, run_of_mindcv(mode)) < LOSS_BOUND
    assert distance(found, run_of_mindcv(mode)) < BOUND


def test_the_decay_rate_of_averages_may_grow(mode):
    growing = partial(tail_of_optimizer, ema_decay=GrowingDecay(0.9, 1000))
    theirs = train(run_tail, partial(tail_of_mindcv, updates=1e3))
    assert distance(train(run_tail, growing), theirs) < BOUND
    assert distance(train(run_tail, tail_of_optimizer), theirs) > APART * BOUND


def test_another_tail_is_told_apart():
    ms.set_context(mode=ms.GRAPH_MODE)
    for options in ({"max_grad_norm": None}, {"ema_decay": 0.8}, {"ema_debias": True}):
        found = train(run_tail, partial(tail_of_optimizer, **options))
        assert distance(found, run_of_mindcv("graph")) > APART * BOUND, options


def test_tail_continues_from_a_checkpoint_of_mindcv(tmp_path):
    """`convert_checkpoint` and `load_state` read what MindCV wrote, moments and averages."""
    ms.set_context(mode=ms.GRAPH_MODE)
    written, converted = str(tmp_path / "mindcv.ckpt"), str(tmp_path / "ms_adam.ckpt")

    def resume(theirs, network, loss):
        ms.save_checkpoint(theirs, written)
        step, scale, averages = tail_of_optimizer(network, loss)
        ms_adam.convert_checkpoint(written, converted, step.optimizer)
        ms.load_param_into_net(step, ms.load_checkpoint(converted))
        loaded = tail_of_optimizer(vision_transformer(depth=0), loss)[0].optimizer
        ms_adam.load_state(loaded, written)
        for found in (averages, loaded.ema):
            for a, b in zip(values(found), values(theirs.ema_weight)):
                np.testing.assert_array_equal(a, b)
        for a, b in zip(values(loaded.moment2), values(step.optimizer.moment2)):
            np.testing.assert_array_equal(a, b)
        return step, scale, averages

    found = train(partial(run_tail, resume=resume), tail_of_mindcv)
    assert distance(found, run_of_mindcv("graph")) < BOUND


# --- where MindCV's AdamW and ms_adam differ -----------------------------------------------------


def test_accumulated_batches_count_as_steps_of_the_schedule_only_in_mindcv():
    """MindCV's AdamW advances its schedule with each batch, nn.Adam and ours with each update."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rates = [1e-2 / (1 + batch) for batch in range(2 * STEPS)]
    run = partial(trained, gradient_accumulation_steps=2)
    hold(
        run,
        handed_over(ms_adam.AdamW, rates[1::2], weight_decay=0.0),
        handed_over(MindCVAdamW, rates),
        control=handed_over(ms_adam.AdamW, rates, weight_decay=0.0),
    )
    hold(run, handed_over(ms_adam.Adam, rates, epsilon_hat=True), handed_over(nn.Adam, rates))


def test_mindcv_ignores_grad_centralization():
    def in_group(optimizer, centralize):
        return lambda parameters: optimizer(
            [{"params": parameters, "grad_centralization": centralize}], 1e-2
        )

    ms.set_context(mode=ms.GRAPH_MODE)
    adamw = partial(ms_adam.AdamW, weight_decay=0.0)
    hold(
        trained,
        handed_over(in_group(adamw, False)),
        handed_over(in_group(MindCVAdamW, True)),
        control=handed_over(in_group(adamw, True)),
    )


@pytest.mark.parametrize("accumulated, scheduled", [(1, False), (2, True)])
def test_converted_checkpoint(accumulated, scheduled, tmp_path):
    """Trains half with MindCV's AdamW, and half with ours from MindCV's checkpoint."""
    ms.set_context(mode=ms.GRAPH_MODE)
    half = STEPS // 2 * accumulated
    rates = [1e-2 / (1 + batch) for batch in range(2 * half)] if scheduled else 1e-2
    # Ours continues from MindCV's count of batches and counts updates.
    rates_of_ours = rates
    if scheduled:
        rates_of_ours = [0.0] * half + rates[half + accumulated - 1 :: accumulated]
    written, converted = str(tmp_path / "mindcv.ckpt"), str(tmp_path / "ms_adam.ckpt")
    run = partial(trained, gradient_accumulation_steps=accumulated)

    def ours(names):
        optimizer = ms_adam.AdamW(
            names["network"].trainable_params(), rates_of_ours, weight_decay=0.0
        )
        model = create_trainer(names["network"], names["loss"], optimizer, **names["options"])
        ms_adam.convert_checkpoint(written, converted, optimizer)  # its names are final now
        return model

    def both_halves(make):
        first = run(handed_over(MindCVAdamW, rates), last=half, save=written)
        second = run(make, first=half, load=converted)
        return Run(first.start, first.losses + second.losses, second.end)

    theirs = train(run, handed_over(MindCVAdamW, rates))
    assert distance(train(both_halves, ours), theirs) < BOUND


def test_mindcv_ships_no_tests():
    files = [str(file) for file in importlib.metadata.files("mindcv")]
    assert "mindcv/optim/adamw.py" in files and not [file for file in files if "test" in file]


# --- what does not run on a CPU ------------------------------------------------------------------


@pytest.mark.parametrize(
    "what, mode, features",
    [
        (
            "dynamic loss scaling with EMA, clipping or accumulation",
            "graph",
            {"ema": True, "loss_scale_type": "dynamic", "drop_overflow_update": True},
        ),
        (
            "dynamic loss scaling",
            "graph",
            {"loss_scale_type": "dynamic", "drop_overflow_update": True},
        ),
        ("accumulation in PyNative mode", "pynative", {"gradient_accumulation_steps": 2}),
    ],
    indirect=["mode"],
)
@pytest.mark.parametrize("optimizer", [nn.Adam, ms_adam.Adam])
def test_what_does_not_run(what, mode, features, optimizer):
    with pytest.raises((ValueError, TypeError), match=documented("MindCV", what)):
        trained(handed_over(optimizer), **features)
