"""Sides: trainings of one problem that are compared, such as two optimizers in two modes.

A study describes itself by `Trainings`, and builds a `Run` for each side and seed, which a worker
trains. `trains` and `same_accuracy` measure claims that every such study makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import mindspore
import numpy as np

from ms_adam.lab.claims import Claim, Measured, judge
from ms_adam.lab.errors import Interrupted
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.run.config import InBatches
from ms_adam.lab.run.processes import work
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Progress, Session
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.train import Observer, train

REFERENCE = "float64 reference"  # the run whose parameters and moments are never rounded
SEED_SPREAD = (
    "Seeds differ only in first weights and batch order. A difference between the means that is "
    "smaller than what the seed alone makes is no difference between the optimizers."
)


class Run:
    """The training of one side from one seed; it goes on epoch by epoch.

    Args:
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


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run, read back from disk."""

    optimizer: str
    mode: str
    seed: int
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        return REFERENCE if self.optimizer == REFERENCE else f"{self.optimizer}, {self.mode}"

    def columns(self, config: InBatches) -> dict[str, Any]:
        """Makes the first columns of the row of a run; the loss is the last epoch's mean."""
        own = {key: getattr(self, key) for key in ("optimizer", "mode", "seed", "label")}
        losses = self.arrays["loss"]
        return {
            **own,
            **{key: self.facts[key] for key in ("file", "backend", "seconds")},
            "steps": len(losses),
            "final_loss": float(np.mean(losses[-config.steps_per_epoch :])),
        }


def read(folder: Path, facts: dict[str, Any]) -> Result:
    """Reads the arrays of a run."""
    with np.load(folder / facts["file"]) as arrays:
        return Result(facts["optimizer"], facts["mode"], facts["seed"], facts, dict(arrays))


@dataclasses.dataclass(frozen=True)
class Trainings:
    """How a study trains the sides of each of its configs, and judges them."""

    module: str  # of the study, which calls this TRAININGS
    form: type[InBatches]  # of its configs
    load_data: Callable[[Any], Any]  # of a config, before anything runs
    training: Callable[[Any, Any, str, int], Run]  # of config, data, side and seed
    sides: Callable[[Any], dict[str, list[str]]]  # {side: the modes that train it from each seed}
    row: Callable[[Any, Result], dict[str, Any]]  # the columns of a run besides `Result.columns`
    # Takes the config, its data and its runs in the order of the sides; returns what the config's
    # entry in ``results.json`` has besides, see `entry`.
    more: Callable[[Any, Any, list[Result]], dict[str, Any]]
    claims: Sequence[Claim]  # they measure the entry
    file: str = "{side}"  # what a run's file is called before the seed

    def run(self, configs: Sequence[InBatches], session: Session) -> dict[str, Any]:
        """Trains, and writes ``results.json`` and the arrays of each run.

        Results of an earlier call in the folder are replaced, and nothing else in it is touched.

        Raises:
            ExperimentError: Data are missing, or a worker failed.
            Interrupted: The user pressed Ctrl-C.
        """
        data = [self.load_data(config) for config in configs]
        session.out.mkdir(parents=True, exist_ok=True)
        for old in ("results.json", "index.html"):
            (session.out / old).unlink(missing_ok=True)
        entries, targets = [], []
        for config, of_config in zip(configs, data):
            folder = session.out / config.name
            facts = self.train(config, folder, session.progress)
            targets += [run["device_target"] for run in facts]
            entries.append(self.entry(config, of_config, [read(folder, run) for run in facts]))
        content = results(entries, targets)
        write_json(session.out / "results.json", content)
        return content

    def entry(self, config: InBatches, data: Any, runs: list[Result]) -> dict[str, Any]:
        """Makes the entry of a config in ``results.json``."""
        order = list(self.sides(config))
        runs = sorted(runs, key=lambda run: order.index(run.facts["side"]))  # modes keep theirs
        entry = {
            "experiment": config.name,
            "config": config.public(),
            "parameters": int(runs[0].arrays["final"].size),
            "runs": [{**run.columns(config), **self.row(config, run)} for run in runs],
            "pairs": compare_pairs(runs),
            **self.more(config, data, runs),
        }
        verdicts = [verdict.as_dict() for verdict in judge(self.claims, entry)]
        return {**entry, "verdicts": verdicts}

    def train(self, config: InBatches, folder: Path, progress: Progress) -> list[dict[str, Any]]:
        """Trains one config; returns the facts of each finished run.

        Modes run one after the other, so that each has the machine's cores for itself.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("*_seed*.npz"), *folder.glob("worker_*.log")):
            old.unlink()
        facts: list[dict[str, Any]] = []
        sides, seeds = defaultdict(list), len(config.compare.seeds)
        for side, modes in self.sides(config).items():
            for mode in modes:
                sides[mode].append(side)
        common = {"config": config.model_dump(mode="json"), "folder": str(folder)}
        try:
            for mode, names in sides.items():
                total = seeds * len(names) * config.steps
                progress(config.name, mode, 0, total)
                job = {**common, "mode": mode, "sides": names}
                call, log = f"{self.module}:TRAININGS.work", folder / f"worker_{mode}.log"
                events = work(call, mode, job, log)
                with contextlib.closing(events):
                    for event in events:
                        if event["event"] == "run":
                            facts.append(event)
                        progress(config.name, mode, event["done"], total)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped: {len(facts)} of {seeds * sum(map(len, sides.values()))} runs are kept "
                f"as .npz files in {folder}; no report was written"
            ) from None
        return facts

    def work(self, job: dict[str, Any], events: Events) -> None:
        """Does a worker's job: trains its sides from each seed of the config.

        The arrays of a finished run are written, and its facts are reported as the event "run".
        The sides of a seed take turns, an epoch each: changes of the machine's speed then meet all
        of them, and their times can be compared.
        """
        enter(job["mode"])
        config, mode = self.form.model_validate(job["config"]), job["mode"]
        data, done = self.load_data(config), 0

        def progress(_) -> None:
            nonlocal done
            done += 1
            events.progress(done)

        for seed in config.compare.seeds:
            of_seed = {side: self.training(config, data, side, seed) for side in job["sides"]}
            for _ in range(config.training.epochs):
                for run in of_seed.values():
                    run.epoch(progress)
            for side, run in of_seed.items():
                of_side = self.file.format(side=side.replace(" ", "-"), mode=mode)
                facts = {**run.facts(), "side": side, "mode": mode}
                facts["file"] = f"{of_side}_seed{seed}.npz"
                np.savez(Path(job["folder"]) / facts["file"], **run.arrays())
                target = mindspore.get_context("device_target")
                events.send("run", done=done, device_target=target, **facts)


def runs_of(entry: dict[str, Any], key: str, value: str) -> list[dict]:
    """Returns the rows of a side."""
    return [row for row in entry["runs"] if row[key] == value]


def compare_pairs(runs: Sequence[Result]) -> list[dict[str, Any]]:
    """Compares every two runs of one seed.

    Returns:
        One entry for each pair of labels. ``distance`` is the largest over the seeds of
        ||final a - final b|| / (the longer of the two distances from the first parameters), in the
        Euclidean norm: 0 means equal bits. ``loss`` is the largest difference between the losses of
        one step.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in sorted({run.seed for run in runs}):
        for a, b in itertools.combinations([run for run in runs if run.seed == seed], 2):
            loss = float(np.max(np.abs(a.arrays["loss"] - b.arrays["loss"])))
            pairs.setdefault((a.label, b.label), []).append((_distance(a, b), loss))
    return [
        {"a": a, "b": b, "distance": distance, "loss": loss}
        for (a, b), numbers in pairs.items()
        for distance, loss in [np.max(numbers, axis=0).tolist()]  # NaN if one is
    ]


def _distance(a: Result, b: Result) -> float:
    # Not the largest difference: the weight of a pixel that is almost always blank gets gradients
    # of rounding size, and Adam makes full steps of them. It would decide for 100,000 others.
    finals = [run.arrays["final"].astype(np.float64) for run in (a, b)]
    difference = np.linalg.norm(finals[0] - finals[1])
    way = max(np.linalg.norm(final - a.arrays["initial"]) for final in finals)
    return 0.0 if difference == 0 else float(np.divide(difference, way))


def first_difference(a: Result, b: Result, name: str) -> int | None:
    """Returns the first step (from 1) at which an array of two runs differs, or None."""
    different = np.flatnonzero(a.arrays[name] != b.arrays[name])
    return int(different[0]) + 1 if len(different) else None


def trains(rows: Sequence[dict], least: float, where: str, why: Optional[str] = None):
    """Measures the accuracy of the worst of the runs; None without runs."""
    if not rows:
        return None
    # NaN is not at least anything, and is neither more nor less than a number.
    worst = min(rows, key=lambda row: (row["test_accuracy"] >= least, row["test_accuracy"]))
    return Measured(
        worst["test_accuracy"] >= least,
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
