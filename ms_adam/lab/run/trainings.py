"""Many trainings of one config: a worker for each mode, and what the runs leave on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run.config import InBatches, refuse_equal_names
from ms_adam.lab.run.processes import work
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Progress, Session
from ms_adam.lab.run.worker import Events

REFERENCE = "float64 reference"  # the run whose parameters and moments are never rounded


class Share(NamedTuple):
    """What the worker of one mode does."""

    mode: str  # "graph" or "pynative"
    runs: int  # number of trainings
    more: dict[str, Any] = {}  # for the worker, besides the config, the mode and the folder


@dataclasses.dataclass(frozen=True)
class Trainings:
    """How a study trains each of its configs."""

    # "module:function" of the worker, which reports each run by `report_run`. Its job is
    # ``config``, ``mode``, ``folder`` and `Share.more`.
    work: str
    prepare: Callable[[Any], Any]  # loads a config's data, before anything runs
    shares: Callable[[Any], Sequence[Share]]  # what a config asks of each mode
    # Takes the config, its data and its runs; returns its entry in ``results.json``.
    evaluate: Callable[[Any, Any, list[Result]], dict[str, Any]]

    def run(self, configs: Sequence[InBatches], session: Session) -> dict[str, Any]:
        """Trains, and writes ``results.json`` and the arrays of each run.

        Results of an earlier call in the folder are replaced, and nothing else in it is touched.

        Raises:
            ExperimentError: Two configs have one name, data are missing, or a worker failed.
            Interrupted: The user pressed Ctrl-C.
        """
        refuse_equal_names(configs)
        data = [self.prepare(config) for config in configs]
        session.out.mkdir(parents=True, exist_ok=True)
        for old in ("results.json", "index.html"):
            (session.out / old).unlink(missing_ok=True)
        entries, targets = [], []
        for config, of_config in zip(configs, data):
            folder = session.out / config.name
            facts = self.train(config, folder, session.progress)
            targets += [run["device_target"] for run in facts]
            entries.append(self.evaluate(config, of_config, [read(folder, run) for run in facts]))
        content = results(entries, targets)
        write_json(session.out / "results.json", content)
        return content

    def train(self, config: InBatches, folder: Path, progress: Progress) -> list[dict[str, Any]]:
        """Trains one config; returns the facts of each finished run.

        Modes run one after the other, so that each has the machine's cores for itself.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("*_seed*.npz"), *folder.glob("worker_*.log")):
            old.unlink()
        facts: list[dict[str, Any]] = []
        shares = self.shares(config)
        common = {"config": config.model_dump(mode="json"), "folder": str(folder)}
        try:
            for mode, runs, more in shares:
                total = runs * config.steps
                progress(config.name, mode, 0, total)
                job = {**common, "mode": mode, **more}
                events = work(self.work, mode, job, folder / f"worker_{mode}.log")
                with contextlib.closing(events):
                    for event in events:
                        if event["event"] == "run":
                            facts.append(event)
                        progress(config.name, mode, event["done"], total)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped: {len(facts)} of {sum(share.runs for share in shares)} runs are kept as "
                f".npz files in {folder}; no report was written"
            ) from None
        return facts


def report_run(
    events: Events, job: dict[str, Any], done: int, name: str, arrays: dict[str, Any], **facts: Any
) -> None:
    """Called by a worker: writes the arrays of a finished run and reports its facts.

    Args:
        events: Where to report.
        job: The worker's job.
        done: Steps of all runs so far.
        name: Of the file, unique in the config.
        arrays: NumPy's; `compare_pairs` needs ``loss``, ``initial`` and ``final``.
        facts: ``optimizer``, ``seed``, ``seconds``, ``backend``, and others.
    """
    import mindspore

    facts.update(mode=job["mode"], file=f"{name}.npz")
    np.savez(Path(job["folder"]) / facts["file"], **arrays)
    events.send("run", done=done, device_target=mindspore.get_context("device_target"), **facts)


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

    @property
    def columns(self) -> dict[str, Any]:
        """The first columns of the row of any run."""
        own = {key: getattr(self, key) for key in ("optimizer", "mode", "seed", "label")}
        return {**own, **{key: self.facts[key] for key in ("file", "backend", "seconds")}}


def read(folder: Path, facts: dict[str, Any]) -> Result:
    """Reads the arrays of a run."""
    with np.load(folder / facts["file"]) as arrays:
        return Result(facts["optimizer"], facts["mode"], facts["seed"], facts, dict(arrays))


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
        {"a": a, "b": b, "distance": max(distances), "loss": max(losses)}
        for (a, b), numbers in pairs.items()
        for distances, losses in [zip(*numbers)]
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
