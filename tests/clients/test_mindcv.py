"""ms_adam inside MindCV 0.3.0: create_trainer, its TrainStep, and create_optimizer."""

import importlib.metadata
from functools import partial
from types import SimpleNamespace

import mindspore as ms
import pytest
from harness import (
    BOUND,
    STEPS,
    Losses,
    Run,
    batches,
    distance,
    documented,
    hold,
    images,
    shown,
    train,
    values,
)
from mindcv.loss import create_loss
from mindcv.models.vit import VisionTransformer
from mindcv.optim import create_optimizer, optim_factory
from mindcv.utils.trainer_factory import create_trainer
from mindspore import nn

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


def vision_transformer():
    # Without biases: that of the keys cancels in the softmax, so its gradient is rounding noise,
    # which Adam scales up to whole steps.
    network = VisionTransformer(
        image_size=16,
        patch_size=8,
        in_channels=3,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=4,
        qkv_bias=False,
    )
    network.pretrained_cfg = {"classifier": "head"}  # MindCV distinguishes layers by it
    return network


def trained(make, loss_scale=1.0, first=0, last=None, load=None, save=None, **features):
    """Trains MindCV's vision transformer on some of the batches.

    `make` returns the trainer; it is given what the lines of docs/clients.md use, by name. `load`
    and `save` are the checkpoints before and after.
    """
    network = vision_transformer()
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
        partial(trained, **features),
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
    hold(
        trained, make(ms_adam.AdamW), make(MindCVAdamW), control=created(ms_adam.AdamW, monkeypatch)
    )


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
