"""The claims of the study on images. They measure a config's entry in ``results.json``."""

from __future__ import annotations

import functools
import math
from typing import Optional

import numpy as np

from ms_adam.lab.claims import Claim, Measured, short
from ms_adam.lab.measure import memory, path_bounds
from ms_adam.lab.run.config import AdamSettings
from ms_adam.lab.sides import SEED_SPREAD, runs_of, same_accuracy, trains

OURS = "ms_adam.Adam"
MINDSPORES = "mindspore.nn.Adam"


def rounding_bound(
    settings: AdamSettings, steps: int, initial: np.ndarray, final: np.ndarray
) -> float:
    """Returns how far float32 roundings alone can take a run from its float64 shadow.

    This is `measure.path_bounds` with constant terms: w, the largest parameter, and the learning
    rate, which is about the size of an update (Kingma & Ba 2015, section 2.1). A step rounds

    - the new parameter once;
    - the first moment 4 times (two products, one sum, its coefficients), which it remembers for
      1 / (1 - beta1) steps; the second moment likewise, and the square root halves what it passes
      on; 8 more roundings are in the bias corrections, the root, the sum, the quotient and the
      product.

    With all of them at their largest, in one direction, at every step, and relative to the distance
    d that the parameters went, the bound after T steps is, with u = 2^-24,

        u T (w + lr (4 / (1 - beta1) + 2 / (1 - beta2) + 8)) / d

    Real roundings partly cancel, so a sound optimizer stays well below it.
    """
    largest = max(np.max(np.abs(initial)), np.max(np.abs(final)))
    roundings = 4 * memory(settings.beta1) + 2 * memory(settings.beta2) + 8
    (of_a_step,) = path_bounds(largest, settings.learning_rate, roundings)
    return float(steps * of_a_step / np.max(np.abs(final - initial)))


def explains(optimizer: str, own: str, other: str, entry: dict) -> Optional[Measured]:
    """Measures whether one of the two formulas explains every run, and the other one none."""
    columns = {"Algorithm 1": "error_algorithm1", "epsilon-hat": "error_epsilon_hat"}
    rows = runs_of(entry, "optimizer", optimizer)
    if not rows:
        return None

    def share(row: dict, formula: str) -> float:
        share = row[columns[formula]] / (row["rounding_bound"] or float("nan"))
        return float("inf") if math.isnan(share) else share  # NaN fits worst of all

    # The claim is about every run, so the one that fits worst decides.
    worst = max(rows, key=lambda row: share(row, own))
    nearest = min(rows, key=lambda row: share(row, other))
    error, distance = worst[columns[own]], nearest[columns[other]]
    held: Optional[bool] = None
    if not error <= worst["rounding_bound"]:
        held = False
    elif distance > nearest["rounding_bound"]:
        held = True
    return Measured(
        held,
        f"{short(error)} from {own}; {short(distance)} from {other} "
        f"(the worst of {len(rows)} runs)",
        f"at most {short(worst['rounding_bound'])} from {own}; "
        f"more than {short(nearest['rounding_bound'])} from {other}",
    )


def same_bits(optimizer: str, entry: dict) -> Optional[Measured]:
    """Measures whether both modes give the same bits as long as their gradients have the same."""
    held, measured = [], []
    for row in entry["modes"]:
        if row["optimizer"] != optimizer:
            continue
        comparable = row["steps"] if row["gradients_part"] is None else row["gradients_part"] - 1
        parted = row["parameters_part"]
        if parted is not None and parted <= comparable:
            held.append(False)
            words = f"parameters part at step {parted}"
        elif comparable == 0:
            held.append(None)
            words = "the gradients part at step 1"
        else:
            held.append(True)
            then = "" if comparable == row["steps"] else "; then the gradients part"
            words = f"{comparable} of {row['steps']} steps equal{then}"
        measured.append(f"seed {row['seed']}: {words}")
    if not held:
        return None
    return Measured(
        next(one for one in (False, None, True) if one in held),
        ", ".join(measured),
        "no bit differs",
    )


def as_accurate(entry: dict) -> Optional[Measured]:
    both = (runs_of(entry, "optimizer", name) for name in (OURS, MINDSPORES))
    return same_accuracy(*both, "test accuracy")


_FORMULA = (
    "The limit is what float32 roundings alone explain when all are at their largest and none "
    "cancel: 2^-24 x steps x (largest parameter + learning rate x (4 / (1 - beta1) + "
    "2 / (1 - beta2) + 8)) / way of the parameters. The other formula must lie beyond it, or this "
    "experiment tells nothing."
)
_BITS = (
    "Fed equal gradients, equal arithmetic gives equal bits, at every step. Where MindSpore's "
    "gradients themselves part between the modes, only the steps before that can be compared."
)
CLAIMS = [
    Claim(
        f"{OURS} computes Algorithm 1 of Kingma & Ba 2015: fed the same gradients, float64 NumPy "
        "ends at the same parameters",
        _FORMULA,
        f"no run of {OURS}",
        functools.partial(explains, OURS, "Algorithm 1", "epsilon-hat"),
    ),
    Claim(
        f"{MINDSPORES} does not compute Algorithm 1, which its page prints, but the epsilon-hat "
        "form of the paper's section 2",
        _FORMULA,
        f"no run of {MINDSPORES}",
        functools.partial(explains, MINDSPORES, "epsilon-hat", "Algorithm 1"),
    ),
    *(
        Claim(
            f"{optimizer} gives the same bits in graph mode and in PyNative mode",
            _BITS,
            f"no pair of runs of {optimizer}",
            functools.partial(same_bits, optimizer),
        )
        for optimizer in (OURS, MINDSPORES)
    ),
    Claim(
        "Every optimizer trains the network, in every mode and from every seed",
        "The config's limit; a linear classifier reaches 88.0% on MNIST (LeCun et al. 1998).",
        "no run",
        lambda entry: trains(
            entry["runs"], entry["config"]["compare"]["least_accuracy"], "on test images"
        ),
    ),
    Claim(
        f"{OURS} trains as well as {MINDSPORES}",
        SEED_SPREAD,
        "needs both optimizers and two seeds",
        as_accurate,
    ),
]
