"""The claims of an experiment on images, each judged by a measured number and a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ms_adam.lab.claims import HELD, NOT_HELD, NOT_MEASURED, Verdict, short

OURS = "ms_adam.Adam"
MINDSPORES = "mindspore.nn.Adam"


def judge(runs: Sequence[dict], modes: Sequence[dict], least_accuracy: float) -> list[Verdict]:
    """Judges every claim.

    Args:
        runs: The rows of `comparison.summarize_run`.
        modes: The rows of `comparison.compare_modes`.
        least_accuracy: What a network that trains must reach on the test images.
    """
    return [
        follows_algorithm1(runs),
        computes_epsilon_hat(runs),
        same_bits(modes, OURS),
        same_bits(modes, MINDSPORES),
        both_train(runs, least_accuracy),
        same_accuracy(runs),
    ]


_BOUND = (
    "The limit is what float32 roundings alone explain when all are at their largest and none "
    "cancel: 2^-24 x steps x (largest parameter + learning rate x (4 / (1 - beta1) + "
    "2 / (1 - beta2) + 8)) / way of the parameters. "
)


def follows_algorithm1(runs: Sequence[dict]) -> Verdict:
    claim = (
        f"{OURS} computes Algorithm 1 of Kingma & Ba 2015: fed the same gradients, float64 NumPy "
        "ends at the same parameters"
    )
    return _follows(claim, runs, OURS, "error_algorithm1", "Algorithm 1", "error_epsilon_hat")


def computes_epsilon_hat(runs: Sequence[dict]) -> Verdict:
    claim = (
        f"{MINDSPORES} does not compute Algorithm 1, which its page prints, but the epsilon-hat "
        "form of the paper's section 2"
    )
    return _follows(claim, runs, MINDSPORES, "error_epsilon_hat", "epsilon-hat", "error_algorithm1")


def _follows(
    claim: str, runs: Sequence[dict], optimizer: str, own: str, own_name: str, other: str
) -> Verdict:
    """One of the two formulas explains the run, and the other does not."""
    why = _BOUND + "The other formula must lie beyond it, or this experiment tells nothing."
    rows = [row for row in runs if row["optimizer"] == optimizer]
    if not rows:
        return Verdict(claim, NOT_MEASURED, f"no run of {optimizer}", "", why)
    # The claim is about every run, so the one that fits worst decides.
    worst = max(rows, key=lambda row: _ratio(row[own], row["rounding_bound"]))
    nearest = min(rows, key=lambda row: _ratio(row[other], row["rounding_bound"]))
    other_name = "epsilon-hat" if own_name == "Algorithm 1" else "Algorithm 1"
    measured = (
        f"{short(worst[own])} from {own_name}; {short(nearest[other])} from {other_name} "
        f"(the worst of {len(rows)} runs)"
    )
    limit = (
        f"at most {short(worst['rounding_bound'])} from {own_name}; "
        f"more than {short(nearest['rounding_bound'])} from {other_name}"
    )
    if not worst[own] <= worst["rounding_bound"]:
        status = NOT_HELD
    elif not nearest[other] > nearest["rounding_bound"]:
        status = NOT_MEASURED
    else:
        status = HELD
    return Verdict(claim, status, measured, limit, why)


def _ratio(error: float, bound: float) -> float:
    ratio = error / bound if bound else float("inf")
    return float("inf") if ratio != ratio else ratio  # NaN fits worst of all


def same_bits(modes: Sequence[dict], optimizer: str) -> Verdict:
    claim = f"{optimizer} gives the same bits in graph mode and in PyNative mode"
    why = (
        "Fed equal gradients, equal arithmetic gives equal bits, at every step. Where MindSpore's "
        "gradients themselves part between the modes, only the steps before that can be compared."
    )
    rows = [row for row in modes if row["optimizer"] == optimizer]
    if not rows:
        return Verdict(claim, NOT_MEASURED, f"no pair of runs of {optimizer}", "", why)
    measured, statuses = [], []
    for row in rows:
        comparable = row["steps"] if row["gradients_part"] is None else row["gradients_part"] - 1
        parted = row["parameters_part"]
        if parted is not None and parted <= comparable:
            statuses.append(NOT_HELD)
            measured.append(f"seed {row['seed']}: parameters part at step {parted}")
        elif comparable == 0:
            statuses.append(NOT_MEASURED)
            measured.append(f"seed {row['seed']}: the gradients part at step 1")
        else:
            statuses.append(HELD)
            gradients = "" if comparable == row["steps"] else "; then the gradients part"
            measured.append(
                f"seed {row['seed']}: {comparable} of {row['steps']} steps equal{gradients}"
            )
    status = next(s for s in (NOT_HELD, NOT_MEASURED, HELD) if s in statuses)
    return Verdict(claim, status, ", ".join(measured), "no bit differs", why)


def both_train(runs: Sequence[dict], least_accuracy: float) -> Verdict:
    claim = "Every optimizer trains the network, in every mode and from every seed"
    why = "The config's limit; a linear classifier reaches 88.0% on MNIST (LeCun et al. 1998)."
    worst = min(runs, key=lambda row: row["test_accuracy"])
    status = HELD if all(row["test_accuracy"] >= least_accuracy for row in runs) else NOT_HELD
    where = f"{worst['label']}, seed {worst['seed']}"
    measured = f"{worst['test_accuracy']:.1%} on test images at worst ({where})"
    return Verdict(claim, status, measured, f"at least {least_accuracy:.1%}", why)


def same_accuracy(runs: Sequence[dict]) -> Verdict:
    claim = f"{OURS} trains as well as {MINDSPORES}"
    why = (
        "Seeds differ only in first weights and batch order. A difference between the means that "
        "is smaller than what the seed alone makes is no difference between the optimizers."
    )
    means = {name: _accuracies(runs, name) for name in (OURS, MINDSPORES)}
    seeds = {row["seed"] for row in runs}
    if not all(means.values()) or len(seeds) < 2:
        return Verdict(claim, NOT_MEASURED, "needs both optimizers and two seeds", "", why)
    difference = abs(_mean(means[OURS]) - _mean(means[MINDSPORES]))
    spread = max(max(values) - min(values) for values in means.values())
    measured = (
        f"mean test accuracy {_mean(means[OURS]):.2%} and {_mean(means[MINDSPORES]):.2%}, "
        f"{100 * difference:.2f} points apart"
    )
    limit = f"at most {100 * spread:.2f} points, the spread over {len(seeds)} seeds"
    return Verdict(claim, HELD if difference <= spread else NOT_HELD, measured, limit, why)


def _accuracies(runs: Sequence[dict], optimizer: str) -> Optional[list[float]]:
    return [row["test_accuracy"] for row in runs if row["optimizer"] == optimizer]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
