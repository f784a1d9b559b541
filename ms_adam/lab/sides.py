"""Sides: trainings of one problem that are compared, such as two optimizers in two modes.

A study builds a `Training` for each side and seed, its worker lets them take turns by `take_turns`,
and `trains` and `same_accuracy` measure claims that every such study makes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.claims import Measured
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.run.config import InBatches
from ms_adam.lab.run.trainings import report_run
from ms_adam.lab.run.worker import Events
from ms_adam.lab.train import Observer, train

SEED_SPREAD = (
    "Seeds differ only in first weights and batch order. A difference between the means that is "
    "smaller than what the seed alone makes is no difference between the optimizers."
)


class Training:
    """The training of one side from one seed; it goes on epoch by epoch.

    Args:
        config: What to train, and how.
        examples: NumPy arrays with one example a row.
        seed: Decides the order of the batches.
        step: Called with the Tensors of each batch; see `train`.
        position: Copies all parameters into one array.
        observers: Called after each step. What those with a method `arrays` return is kept.
        facts: ``optimizer``, ``backend`` and others; kept as JSON.
    """

    def __init__(
        self,
        config: InBatches,
        examples: Sequence[np.ndarray],
        seed: int,
        step: Callable,
        position: Callable[[], np.ndarray],
        observers: Sequence[Observer],
        **facts: Any,
    ):
        self._step, self._position, self._observers = step, position, observers
        self._batches = Batches(examples, config.training.batch_size, seed).steps()
        self._per_epoch, self._done, self._seconds = config.steps_per_epoch, 0, 0.0
        self._initial, self._facts = position(), {**facts, "seed": seed}

    def epoch(self, progress: Observer) -> None:
        """Trains for an epoch; `progress` is called after each step."""
        started = time.perf_counter()
        batches = itertools.islice(self._batches, self._per_epoch)
        self._done = train(self._step, batches, [*self._observers, progress], self._done)
        self._seconds += time.perf_counter() - started

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what is kept as .npz: what observers measured, ``initial`` and ``final``."""
        kept = [one.arrays() for one in self._observers if hasattr(one, "arrays")]
        ends = {"initial": self._initial, "final": self._position()}
        return {name: array for arrays in (*kept, ends) for name, array in arrays.items()}

    def facts(self) -> dict[str, Any]:
        return {**self._facts, "seconds": self._seconds}


def take_turns(
    job: dict[str, Any],
    events: Events,
    config: InBatches,
    sides: dict[str, Callable[[int], Training]],
) -> None:
    """Trains sides from each seed of the config, and reports their runs.

    The sides of a seed take turns, an epoch each: changes of the machine's speed then meet all of
    them, and their times can be compared.

    Args:
        job: The worker's, as `Trainings` has it.
        events: Where to report.
        config: What is trained.
        sides: Builds the training from a seed, by the name that files start with.
    """
    done = 0

    def progress(_) -> None:
        nonlocal done
        done += 1
        events.progress(done)

    for seed in config.compare.seeds:
        trainings = {name: build(seed) for name, build in sides.items()}
        for _ in range(config.training.epochs):
            for training in trainings.values():
                training.epoch(progress)
        for name, training in trainings.items():
            file, arrays = f"{name}_seed{seed}", training.arrays()
            report_run(events, job, done, file, arrays, **training.facts())


def trains(rows: Sequence[dict], least: float, where: str, why: Optional[str] = None):
    """Measures the accuracy of the worst of the runs; None without runs."""
    if not rows:
        return None
    worst = min(rows, key=lambda row: row["test_accuracy"])
    return Measured(
        all(row["test_accuracy"] >= least for row in rows),
        f"{worst['test_accuracy']:.1%} {where} at worst ({worst['label']}, seed {worst['seed']})",
        f"at least {least:.1%}",
        why,
    )


def same_accuracy(
    rows: Sequence[dict], other_rows: Sequence[dict], name: str
) -> Optional[Measured]:
    """Measures the difference between the mean accuracies of two sides over their seeds."""
    seeds = min(len({row["seed"] for row in of_side}) for of_side in (rows, other_rows))
    if seeds < 2:
        return None
    own, other = ([row["test_accuracy"] for row in of_side] for of_side in (rows, other_rows))
    means = statistics.fmean(own), statistics.fmean(other)
    difference = means[0] - means[1]
    spread = max(max(values) - min(values) for values in (own, other))
    return Measured(
        abs(difference) <= spread,
        f"mean {name} {means[0]:.2%} and {means[1]:.2%}: {100 * difference:+.2f} points",
        f"at most {100 * spread:.2f} points apart, the spread over {seeds} seeds",
    )
