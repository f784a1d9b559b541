"""Scripts in the style of MindSpore's tutorials, each with the optimizer replaced."""

from functools import partial

import pytest
from harness import hold
from mindspore import nn
from tutorials import dcgan, gan, lstm, mixed_precision, transfer, vit

import ms_adam

MODES = {
    gan: ["graph", "pynative"],
    dcgan: ["pynative"],
    lstm: ["graph", "pynative"],
    vit: ["graph", "pynative"],
    mixed_precision: ["pynative"],
    transfer: ["graph", "pynative"],
}


@pytest.mark.parametrize(
    "tutorial, mode",
    [(tutorial, mode) for tutorial, modes in MODES.items() for mode in modes],
    ids=lambda value: getattr(value, "__name__", value).split(".")[-1],
    indirect=["mode"],
)
def test_same_numbers_as_nn_adam(tutorial, mode):
    control = partial(ms_adam.Adam, bias_correction=False) if mode == MODES[tutorial][0] else None
    hold(tutorial.train, partial(ms_adam.Adam, epsilon_hat=True), nn.Adam, control)
