"""Trains twice from the same start with different optimizers and compares the runs."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import ops

import ms_adam
from ms_adam import reference

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
STEPS = 12  # of the optimizer, at least
BOUND = 1e-5  # float32 rounding, amplified by the training; measured up to 5e-6
LOSS_BOUND = 1e-6  # of the losses alone, where only the tail of a step is replaced
APART = 10  # another formula differs by at least this many times the bound


class Run(NamedTuple):
    """One training: its initial weights, its losses and its final weights."""

    start: list[np.ndarray]
    losses: list[float]
    end: list[np.ndarray]


class WithoutBiasCorrection(ms_adam.AdamW):
    """A formula that no client has, for controls."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, bias_correction=False, **keywords)


class Losses(ms.Callback):
    """Records the loss of each step of `Model.train`."""

    def __init__(self):
        super().__init__()
        self.values = []

    def step_end(self, run_context):
        self.values.append(scalar(run_context.original_args().net_outputs))


def shown(package, number=0):
    """Returns a block of code in docs/clients.md for a package."""
    section = re.search(rf"^## {package}$(.*?)(?=^## )", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```\w+\n(.*?)^```", section.group(1), re.MULTILINE | re.DOTALL)[number]


def module(source):
    """Imports code from a file of its own: MindSpore compiles nothing that stands in none."""
    path = Path.cwd() / f"block_in_{Path.cwd().name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    block = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(block)
    return block


class OverflowOnCPU:
    """The check for overflow of a `nn.TrainOneStepWithLossScaleCell`, so that it runs on a CPU."""

    def get_overflow_status(self, status, compute_output):
        finite = True
        for gradient in compute_output:
            finite = ops.logical_and(finite, ops.isfinite(gradient).all())
        return ops.logical_not(finite)


def loss_scales(overflows, window=4):
    """Yields the loss scale after each step, 1024 before the first, as MindSpore adjusts it."""
    scale, counter = 1024.0, 0
    for overflow in overflows:
        scale, counter = reference.adjust_loss_scale(scale, counter, not overflow, 2, window)
        yield scale


def documented(package, what):
    """Returns an error from the last table of docs/clients.md, as a regular expression."""
    row = re.search(
        rf"^\| {re.escape(package)} \| {re.escape(what)} \| `(.+)` \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    return re.escape(row.group(1))


def scalar(loss):
    """Returns the loss from the output of a training step: the output or its first element."""
    return float((loss[0] if isinstance(loss, (tuple, list)) else loss).asnumpy().reshape(()))


def values(parameters):
    """Returns copies of the parameters' values."""
    return [parameter.asnumpy().copy() for parameter in parameters]


def images(count=8 * STEPS, classes=4, channels=3, size=16):
    """Returns random images and labels; each class has its own brightness."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count).astype(np.int32)
    pixels = random.standard_normal((count, channels, size, size)).astype(np.float32)
    return pixels + labels[:, None, None, None].astype(np.float32), labels


def batches(*columns, size=8):
    """Returns a dataset over arrays, in their order."""
    return ms.dataset.NumpySlicesDataset(columns, shuffle=False).batch(size)


def train(run, make):
    """Calls `run(make)` with the seed that all runs share."""
    ms.set_seed(1)
    np.random.seed(1)
    return run(make)


def distance(ours, theirs):
    """Returns the larger of two distances: of all weights over their displacement, of the losses.

    The norm is over all weights together. For a single weight near 1, which moves by 0.1, rounding
    by 6e-8 in each step would dominate.
    """
    for a, b in zip(ours.start, theirs.start):
        np.testing.assert_array_equal(a, b)
    start, a, b = (
        np.concatenate([array.astype(np.float64).ravel() for array in arrays])
        for arrays in (theirs.start, ours.end, theirs.end)
    )
    weights = np.linalg.norm(a - b) / np.linalg.norm(b - start)
    return max(weights, loss_distance(ours, theirs))


def loss_distance(ours, theirs):
    """Returns the largest relative difference of a loss."""
    a, b = np.array(ours.losses), np.array(theirs.losses)
    assert a.shape == b.shape and len(b) >= STEPS and len(set(b)) > STEPS // 2
    return np.max(np.abs(a - b) / np.abs(b))


def hold(run, ours, theirs, control=None, bound=BOUND):
    """Asserts that two optimizers give the same training and that a control does not.

    Args:
        run: trains with the optimizer that its argument makes; returns a `Run`.
        ours, theirs: make the optimizers that are compared.
        control: makes an optimizer with a different formula, which must fail the comparison.
    """
    expected = train(run, theirs)
    found = distance(train(run, ours), expected)
    assert found < bound, found
    if control is not None:
        found = distance(train(run, control), expected)
        assert found > APART * bound, found
