"""ms_adam inside MindCV 0.3.0: create_trainer, its TrainStep, and create_optimizer."""

import importlib.metadata
from functools import partial

import mindspore as ms
import pytest
from mindcv.loss import create_loss
from mindcv.models.vit import VisionTransformer
from mindcv.optim import create_optimizer, optim_factory
from mindcv.utils.trainer_factory import create_trainer
from mindspore import nn

import ms_adam
from harness import STEPS, Losses, Run, batches, documented, hold, images, values

MindCVAdamW = optim_factory.AdamW

ALL = {"ema": True, "ema_decay": 0.9, "clip_grad": True, "clip_value": 0.5, "loss_scale": 1024.0,
       "gradient_accumulation_steps": 2}
FEATURES = {  # of create_trainer; MindCV cannot accumulate gradients in PyNative mode
    "graph": [{"loss_scale": 1024.0}, ALL],
    "pynative": [{"loss_scale": 1024.0},
                 {key: value for key, value in ALL.items() if "accumulation" not in key}],
}
CASES = [pytest.param(mode, features, id=f"{mode}-{'all' if len(features) > 1 else 'plain'}")
         for mode, cases in FEATURES.items() for features in cases]
in_modes = pytest.mark.parametrize("mode, features", CASES, indirect=["mode"])


def vision_transformer():
    # The bias of the keys cancels in the softmax: its gradient is rounding noise, which Adam scales
    # up to whole steps. So the network has none.
    network = VisionTransformer(image_size=16, patch_size=8, in_channels=3, embed_dim=16, depth=1,
                                num_heads=2, num_classes=4, qkv_bias=False)
    network.pretrained_cfg = {"classifier": "head"}  # by which MindCV tells layers apart
    return network


def trained(make, loss_scale=1.0, **features):
    """Trains MindCV's vision transformer with `create_trainer`; `make` is given the network."""
    network = vision_transformer()
    start = values(network.trainable_params())
    model = create_trainer(network, create_loss("CE"), make(network), {"acc"}, amp_level="O0",
                           amp_cast_list=None, loss_scale=loss_scale,
                           **{"loss_scale_type": "fixed", **features})
    count = 8 * STEPS * features.get("gradient_accumulation_steps", 1)
    losses = Losses()
    model.train(1, batches(*images(count)), callbacks=[losses], dataset_sink_mode=False)
    averages = values(model.train_network.ema_weight) if "ema" in features else []
    return Run(start + start[:len(averages)], losses.values,
               values(network.trainable_params()) + averages)


def scale_of(features):
    """The loss scale that the optimizer must divide by: MindCV's TrainStep does it itself."""
    return features.get("loss_scale", 1.0) if len(features) == 1 else 1.0


def created(optimizer, monkeypatch, **options):
    """Makes create_optimizer("adamw") use another class than MindCV's."""
    def make(network):
        with monkeypatch.context() as patch:
            patch.setattr(optim_factory, "AdamW", optimizer)
            made = create_optimizer(network, "adamw", **{"lr": 1e-2, "weight_decay": 0.05,
                                                         **options})
        assert type(made) is optimizer
        return made
    return make


@in_modes
def test_optimizer_handed_to_create_trainer(features, mode):
    loss_scale = scale_of(features)

    def ours(network):
        return ms_adam.Adam(network.trainable_params(), 1e-2, loss_scale=loss_scale,
                            epsilon_hat=True)

    hold(partial(trained, **features), ours,
         lambda network: nn.Adam(network.trainable_params(), 1e-2, loss_scale=loss_scale),
         control=lambda network: ms_adam.Adam(network.trainable_params(), 1e-2,
                                              loss_scale=loss_scale))


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


@pytest.mark.parametrize("mode, option",
                         [("pynative", "layer decay"), *(("graph", option) for option in OPTIONS)],
                         indirect=["mode"])
def test_options_of_create_optimizer(option, mode, monkeypatch):
    make = partial(created, monkeypatch=monkeypatch, **OPTIONS[option])
    hold(trained, make(ms_adam.AdamW), make(MindCVAdamW),
         control=created(ms_adam.AdamW, monkeypatch))


# --- where MindCV's AdamW and ms_adam differ -----------------------------------------------------


def adamw(optimizer, groups=lambda network: network.trainable_params(), rates=1e-2):
    return lambda network: optimizer(groups(network), rates, weight_decay=0.05)


def test_accumulated_batches_count_as_steps_of_the_schedule_only_in_mindcv():
    """MindCV's AdamW advances its schedule with each batch, nn.Adam and ours with each update."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rates = [1e-2 / (1 + batch) for batch in range(2 * STEPS)]
    hold(partial(trained, gradient_accumulation_steps=2),
         adamw(ms_adam.AdamW, rates=rates[1::2]), adamw(MindCVAdamW, rates=rates),
         control=adamw(ms_adam.AdamW, rates=rates))


def test_mindcv_ignores_grad_centralization():
    def groups(network, centralize):
        return [{"params": network.trainable_params(), "grad_centralization": centralize}]

    ms.set_context(mode=ms.GRAPH_MODE)
    hold(trained, adamw(ms_adam.AdamW, partial(groups, centralize=False)),
         adamw(MindCVAdamW, partial(groups, centralize=True)),
         control=adamw(ms_adam.AdamW, partial(groups, centralize=True)))


def test_mindcv_ships_no_tests():
    """Its tests/modules/test_optim.py, which could be run with the class exchanged, is not there."""
    files = [str(file) for file in importlib.metadata.files("mindcv")]
    assert "mindcv/optim/adamw.py" in files and not [file for file in files if "test" in file]


# --- what does not run on a CPU ------------------------------------------------------------------


@pytest.mark.parametrize("what, mode, features", [
    ("dynamic loss scaling, with EMA, clipping or accumulation", "graph",
     {"ema": True, "loss_scale_type": "dynamic", "drop_overflow_update": True}),
    ("dynamic loss scaling", "graph",
     {"loss_scale_type": "dynamic", "drop_overflow_update": True}),
    ("accumulation in PyNative mode", "pynative", {"gradient_accumulation_steps": 2}),
], indirect=["mode"])
@pytest.mark.parametrize("optimizer", [nn.Adam, ms_adam.Adam])
def test_refused(what, mode, features, optimizer):
    with pytest.raises((ValueError, TypeError), match=documented("MindCV", what)):
        trained(lambda network: optimizer(network.trainable_params()), **features)
