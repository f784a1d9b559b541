"""Trains twice from the same start, with another optimizer each time, and compares the runs."""

import re
from pathlib import Path
from typing import List, NamedTuple

import mindspore as ms
import numpy as np

import ms_adam

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
STEPS = 12  # of the optimizer, at least
BOUND = 1e-5  # float32 rounding, amplified by the training; measured up to 5e-6
APART = 10  # another formula differs by at least this many times the bound


class Run(NamedTuple):
    """One training: what it started from, its losses, and what it ended with."""

    start: List[np.ndarray]
    losses: List[float]
    end: List[np.ndarray]


class WithoutBiasCorrection(ms_adam.AdamW):
    """Another formula than any client's, for controls."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, bias_correction=False, **keywords)


class Losses(ms.Callback):
    """Collects the loss of each step of `Model.train`."""

    def __init__(self):
        super().__init__()
        self.values = []

    def step_end(self, run_context):
        self.values.append(scalar(run_context.original_args().net_outputs))


def shown(package, number=0):
    """A block of code that docs/clients.md shows for a package."""
    section = re.search(rf"^## {package}$(.*?)(?=^## )", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```\w+\n(.*?)^```", section.group(1), re.MULTILINE | re.DOTALL)[number]


def documented(package, what):
    """The error that docs/clients.md gives for what does not run, as a regular expression."""
    row = re.search(
        rf"^\| {re.escape(package)} \| {re.escape(what)} \| `(.+)` \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    return re.escape(row.group(1))


def scalar(loss):
    """The loss that a training step returns, alone or first of several outputs."""
    return float((loss[0] if isinstance(loss, (tuple, list)) else loss).asnumpy().reshape(()))


def values(parameters):
    """Copies of the parameters' values."""
    return [parameter.asnumpy().copy() for parameter in parameters]


def images(count=8 * STEPS, classes=4, channels=3, size=16):
    """Random images with labels that a network can learn: each class has a brightness."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count).astype(np.int32)
    pixels = random.standard_normal((count, channels, size, size)).astype(np.float32)
    return pixels + labels[:, None, None, None].astype(np.float32), labels


def batches(*columns, size=8):
    """A dataset over arrays, in their order."""
    return ms.dataset.NumpySlicesDataset(columns, shuffle=False).batch(size)


def train(run, make):
    """Runs `run(make)` from the seed that all runs share."""
    ms.set_seed(1)
    np.random.seed(1)
    return run(make)


def distance(ours, theirs):
    """How far two runs are apart: in all weights, in units of their displacement, and in losses.

    The norm is over all weights together: a single weight near 1 is moved by 0.1 and rounded by
    6e-8 in each step, which is not the optimizers' doing.
    """
    for a, b in zip(ours.start, theirs.start):
        np.testing.assert_array_equal(a, b)
    start, a, b = (
        np.concatenate([array.astype(np.float64).ravel() for array in arrays])
        for arrays in (theirs.start, ours.end, theirs.end)
    )
    weights = np.linalg.norm(a - b) / np.linalg.norm(b - start)
    a, b = np.array(ours.losses), np.array(theirs.losses)
    assert a.shape == b.shape and len(b) >= STEPS and len(set(b)) > STEPS // 2
    return max(weights, np.max(np.abs(a - b) / np.abs(b)))


def hold(run, ours, theirs, control=None, bound=BOUND):
    """Asserts that two optimizers make the same training of `run`, and a control another one.

    Args:
        run: takes a function that makes the optimizer, trains, and returns a `Run`.
        ours, theirs: make the optimizers that are compared.
        control: makes an optimizer of another formula, which the comparison must tell apart.
    """
    reference = train(run, theirs)
    found = distance(train(run, ours), reference)
    assert found < bound, found
    if control is not None:
        found = distance(train(run, control), reference)
        assert found > APART * bound, found
