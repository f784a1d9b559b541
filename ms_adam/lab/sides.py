"""Sides: trainings of one problem that are compared, such as two optimizers in two modes.

A study builds a `Training` for each side and seed, which `take_turns` trains in a worker. `trains`
and `same_accuracy` measure claims that every such study makes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.claims import Claim, Measured, judge
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.run.config import InBatches
from ms_adam.lab.run.trainings import Result, Share, Trainings, report_run
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.train import Observer, train

SEED_SPREAD = (
    "Seeds differ only in first weights and batch order. A difference between the means that is "
    "smaller than what the seed alone makes is no difference between the optimizers."
)


class Training:
    """The training of one side from one seed; it goes on epoch by epoch.

    Args:
        config: What to train, and how.
        examples: NumPy arrays with one example a row; the seed decides the order of the batches.
        step: Called with the Tensors of each batch; see `train`.
        position: Copies all parameters into one array, kept as ``initial`` and ``final``.
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
        kept = [one.arrays() for one in self._observers if hasattr(one, "arrays")]
        ends = {"initial": self._initial, "final": self._position()}
        return {name: array for arrays in (*kept, ends) for name, array in arrays.items()}

    def facts(self) -> dict[str, Any]:
        return {**self._facts, "seconds": self._seconds}


def trainings(study: str, load_data: Callable, sides: Callable, evaluate: Callable) -> Trainings:
    """Returns how a study trains its configs, of which `sides` returns {mode: sides}."""

    def shares(config: InBatches) -> list[Share]:
        seeds, of = len(config.compare.seeds), sides(config)
        return [Share(mode, seeds * len(names), {"sides": names}) for mode, names in of.items()]

    return Trainings(f"ms_adam.lab.studies.{study}.training:work", load_data, shares, evaluate)


def take_turns(
    job: dict[str, Any],
    events: Events,
    form: type[InBatches],
    load_data: Callable[[Any], Any],
    build: Callable[[Any, Any, str, int], Training],
    file: str = "{side}",
) -> None:
    """Does a worker's job: trains its sides from each seed of the config, and reports the runs.

    The sides of a seed take turns, an epoch each: changes of the machine's speed then meet all of
    them, and their times can be compared. `build` takes config, data, side and seed; `file` is what
    a run's file is called before the seed.
    """
    enter(job["mode"])
    config = form.model_validate(job["config"])
    data, done = load_data(config), 0

    def progress(_) -> None:
        nonlocal done
        done += 1
        events.progress(done)

    for seed in config.compare.seeds:
        of_seed = {side: build(config, data, side, seed) for side in job["sides"]}
        for _ in range(config.training.epochs):
            for training in of_seed.values():
                training.epoch(progress)
        for side, training in of_seed.items():
            of_side = file.format(side=side.replace(" ", "-"), mode=job["mode"])
            name, arrays = f"{of_side}_seed{seed}", training.arrays()
            report_run(events, job, done, name, arrays, **training.facts())


def evaluated(claims: Iterable[Claim], entry: dict[str, Any]) -> dict[str, Any]:
    """Adds to a config's entry in ``results.json`` the verdicts on claims that measure it."""
    return {**entry, "verdicts": [verdict.as_dict() for verdict in judge(claims, entry)]}


def common(config: InBatches, result: Result) -> dict[str, Any]:
    """Makes the first columns of the row of a run; the loss is the last epoch's mean."""
    losses = result.arrays["loss"]
    final_loss = float(np.mean(losses[-config.steps_per_epoch :]))
    return {**result.columns, "steps": len(losses), "final_loss": final_loss}


def runs_of(entry: dict[str, Any], key: str, value: str) -> list[dict]:
    """Returns the rows of a side."""
    return [row for row in entry["runs"] if row[key] == value]


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
