"""Trainings on images with narrow state, held to float32 state from the same seeds."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from pydantic import Field

import ms_adam
from ms_adam.lab.claims import Claim, Measured
from ms_adam.lab.observers import Record, loss
from ms_adam.lab.problems.images import Split, load_data
from ms_adam.lab.problems.networks import MultiLayerPerceptron, held_out
from ms_adam.lab.run.config import Number, Once, OnImages, Section, Seeds, Share
from ms_adam.lab.run.study import Study
from ms_adam.lab.sides import Result, Run, Trainings, trains
from ms_adam.lab.targets import wrap
from ms_adam.lab.train import TrainStep, copies, fused_loss


class Side(NamedTuple):
    """The dtype of the parameters, and the optimizer's options."""

    dtype: str
    options: dict[str, Any]


SIDES = {
    "float32": Side("float32", {}),
    "bfloat16": Side("float32", {"state_dtype": "bfloat16"}),
    "int8": Side("float32", {"state_dtype": "int8"}),
    "masters": Side("bfloat16", {"master_weights": True}),
    "split": Side("bfloat16", {"master_weights": "split"}),
    "int8, split": Side("bfloat16", {"master_weights": "split", "state_dtype": "int8"}),
}
WIDE, MASTERS, SPLIT = "float32", "masters", "split"
_LEAST_SEEDS = 5


class Compare(Section):
    """Which sides train, from which seeds, and what counts as the same loss."""

    sides: Annotated[list[Literal[tuple(SIDES)]], Field(min_length=1), Once]
    seeds: Seeds
    factor: Annotated[Number, Field(gt=1)]
    least_accuracy: Share


class NarrowExperiment(OnImages):
    """A config. See ``configs/narrow.yaml`` for the meaning of each key."""

    study: Literal["narrow"]
    compare: Compare


def sides(experiment: NarrowExperiment) -> dict[str, list[str]]:
    """All sides train in graph mode; the acceptance matrix holds both modes to the same bits."""
    return dict.fromkeys(experiment.compare.sides, ["graph"])


class Perceptron(nn.Cell):
    """A `MultiLayerPerceptron` with parameters of any dtype, computed in float32."""

    def __init__(self, sizes, seed: int, dtype: str):
        super().__init__()
        first = MultiLayerPerceptron(sizes, seed).trainable_params()
        self.values = ParameterTuple(
            [Parameter(Tensor(p.asnumpy(), getattr(ms, dtype)), name=p.name) for p in first]
        )
        self.layers = len(sizes) - 1
        self.product, self.relu = ops.MatMul(transpose_b=True), ops.ReLU()

    def construct(self, x):
        for i in range(self.layers):
            weight = ops.cast(self.values[2 * i], ms.float32)
            bias = ops.cast(self.values[2 * i + 1], ms.float32)
            x = self.product(x if i == 0 else self.relu(x), weight) + bias
        return x


def masters(adam: nn.Optimizer) -> np.ndarray:
    """Returns the bits of all master weights."""
    state = ms_adam.gather_state(adam)
    found = [state[name].asnumpy() for name in state if name.startswith("master_weight.")]
    return np.concatenate([master.ravel() for master in found]).view(np.int32)


def training(experiment: NarrowExperiment, split: Split, name: str, seed: int) -> Run:
    """Builds the training of one side from one seed.

    Per step it keeps ``loss`` (before the update), per epoch ``test_loss`` and ``test_accuracy``.
    An optimizer with whole masters follows the split ones, fed with their gradients; per epoch
    ``unlike`` is the number of masters that differ.
    """
    side = SIDES[name]
    sizes = (split.train.pixels.shape[1], *experiment.model.hidden, split.classes)
    model = Perceptron(sizes, seed, side.dtype)
    adam = ms_adam.Adam(model.trainable_params(), **experiment.adam.model_dump(), **side.options)
    optimizer, follower = wrap(adam), None
    if name == SPLIT:
        own = copies(adam.parameters)
        follower = ms_adam.Adam(own, **experiment.adam.model_dump(), **SIDES[MASTERS].options)

    def position() -> np.ndarray:
        return np.concatenate([weight.ravel() for weight in optimizer.weights()])

    def after_epoch(_) -> dict[str, Any]:
        found = held_out(model, (split.test.inputs,), split.test.labels)
        if follower is not None:
            found["unlike"] = np.sum(masters(adam) != masters(follower))
        return found

    observers = [Record(loss), Record(after_epoch, experiment.steps_per_epoch)]
    examples = (split.train.inputs, split.train.targets)
    step = TrainStep(model, adam, fused_loss(), follower=follower)
    facts = {"optimizer": name, "backend": adam.backend}
    facts["state_bytes"] = optimizer.state_bytes() / sum(p.size for p in optimizer.parameters)
    return Run(experiment, examples, seed, step, position, observers, **facts)


def row(_: NarrowExperiment, result: Result) -> dict[str, Any]:
    """Makes the study's columns of a run.

    ``state_bytes`` for each parameter, loss and accuracy on the test images at the end, and
    ``unlike``, how many of the split masters differed from those of the follower at the end of an
    epoch; None of other sides.
    """
    arrays = result.arrays
    return {
        "state_bytes": result.facts["state_bytes"],
        "test_loss": float(arrays["test_loss"][-1]),
        "test_accuracy": float(arrays["test_accuracy"][-1]),
        "unlike": int(arrays["unlike"].sum()) if "unlike" in arrays else None,
    }


def more(_: NarrowExperiment, split: Split, __: list[Result]) -> dict[str, Any]:
    return {"images_sha256": split.fingerprint}


def log_ratios(runs: list[dict], side: str) -> np.ndarray:
    """Returns log(final loss / that of float32 state with the same seed), one for each seed."""
    wide, own = (
        {row["seed"]: float(row["final_loss"]) for row in runs if row["optimizer"] == name}
        for name in (WIDE, side)
    )  # float("nan") too, a word of results.json
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([np.log(np.divide(own[seed], wide[seed])) for seed in own if seed in wide])


def same_loss(side: str, entry: dict) -> Optional[Measured]:
    """Measures the factors between the final losses of a side and of float32 state."""
    logs, factor = log_ratios(entry["runs"], side), entry["config"]["compare"]["factor"]
    if len(logs) < _LEAST_SEEDS:
        return None
    least, largest = np.exp([logs.min(), logs.max()])
    held: Optional[bool] = None
    if not np.isfinite(logs).all() or least > factor or largest < 1 / factor:
        held = False
    elif least >= 1 / factor and largest <= factor:
        held = True
    return Measured(
        held,
        f"{least:.4f} to {largest:.4f} times the loss of float32, on {len(logs)} seeds; "
        f"{np.exp(logs.mean()):.4f} in the mean",
        f"from {1 / factor:.4f} to {factor:.4f} on all seeds",
    )


def same_bits(entry: dict) -> Optional[Measured]:
    """Measures whether split masters have the bits of whole ones that follow them."""
    found = [row["unlike"] for row in entry["runs"] if row["unlike"] is not None]
    if not found:
        return None
    measured = f"{sum(found)} masters differ, in {len(found)} runs"
    return Measured(sum(found) == 0, measured, "none differs")


_PAIRED = (
    "The factor is the config's. Both sides of a pair have first weights and batches of one seed, "
    "so that only the rounding of state and weights differs. All of n paired logarithms lie on one "
    "side of their median with probability 2 x 2^-n, so that the range of five covers it in 94%."
)
CLAIMS = [
    *(
        Claim(
            f"Training with {words} ends at the loss of float32 state",
            _PAIRED,
            f"needs both sides and {_LEAST_SEEDS} seeds",
            functools.partial(same_loss, side),
        )
        for side, words in (
            ("bfloat16", "moments in bfloat16"),
            ("int8", "moments in int8"),
            (SPLIT, "parameters in bfloat16 and split masters"),
            ("int8, split", "moments in int8, parameters in bfloat16 and split masters"),
        )
    ),
    Claim(
        "Fed the same gradients, split masters have the bits of master_weights=True",
        "A parameter and its 16 trailing bits are the master, so both compute with one number. The "
        "masters are compared after every epoch. Trained alone, both part: where two bfloat16 are "
        "equally near, the split parameter is the one away from zero.",
        "no run of split masters",
        same_bits,
    ),
    Claim(
        "Every side trains the network, from every seed",
        "The config's limit; a linear classifier reaches 88.0% on MNIST (LeCun et al. 1998).",
        "no run",
        lambda entry: trains(
            entry["runs"], entry["config"]["compare"]["least_accuracy"], "on test images"
        ),
    ),
]
TRAININGS = Trainings(__name__, NarrowExperiment, load_data, training, sides, row, more, CLAIMS)
STUDY = Study(
    "narrow", NarrowExperiment, TRAININGS.run, "ms_adam.lab.report.studies.narrow:write_page"
)
