"""The work of one rank: ``python -m ms_adam.lab.studies.ranks.training``.

Each step's batch is divided among the ranks in equal parts, in the order of the ranks. Gradients
are averaged over the ranks, and every rank makes the same update. Rank 0 saves checkpoints and
reports progress.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

import mindspore
import numpy as np
from mindspore import nn, ops

import ms_adam
from ms_adam.lab.observers import SaveCheckpoints
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.images import load_split
from ms_adam.lab.problems.networks import BagOfWords, MultiLayerPerceptron
from ms_adam.lab.problems.text import load_text_split
from ms_adam.lab.run.checkpoints import CheckpointFiles
from ms_adam.lab.studies.ranks.config import Images, Optimizer, Problem, RanksConfig
from ms_adam.lab.studies.ranks.rank import Ranks, serve
from ms_adam.lab.train import TrainStep, fused_loss, train

_TIMES = 9  # repetitions of each kind of message


class Case(NamedTuple):
    """One training of a launch."""

    problem: Problem
    optimizer: Optimizer
    sharded: bool

    @property
    def name(self) -> str:
        state = "sharded" if self.sharded else "whole"
        return f"{self.problem.name}-{self.optimizer.name}-{state}"


def cases(config: RanksConfig, workers: int) -> list[Case]:
    """Returns the trainings of a launch; one process has nothing to shard."""
    return [
        Case(problem, optimizer, sharded)
        for problem in config.problems
        for optimizer in config.optimizers
        for sharded in ([False, True] if workers > 1 else [False])
    ]


class Training:
    """One case on this rank, from its first step or from its newest checkpoint."""

    def __init__(self, config: RanksConfig, case: Case, mode: str, ranks: Ranks):
        self._config, self._ranks = config, ranks
        model, arrays = _problem(case.problem, mode, config.seed)
        self._batches = Batches(arrays, config.batch_size, config.seed, independent=True)
        self._parameters = list(model.trainable_params())
        self._names = [parameter.name for parameter in self._parameters]  # a Cell renames them
        lazy = {} if isinstance(case.problem, Images) else {"use_lazy": True}
        self._optimizer = getattr(ms_adam, case.optimizer.name)(
            self._parameters,
            case.optimizer.learning_rate,
            weight_decay=case.optimizer.weight_decay,
            shard_state=case.sharded,
            **lazy,
        )
        reducer = None
        if ranks.count > 1:
            reducer = nn.DistributedGradReducer(
                self._optimizer.parameters, mean=True, degree=ranks.count
            )
        self._step = TrainStep(model, self._optimizer, fused_loss(), reducer=reducer)
        self._files = CheckpointFiles(
            ranks.folder / "checkpoints" / case.name, config.checkpoints.keep
        )
        # What decides the weights of a step, in any launch.
        decisive = config.model_dump(
            mode="json", exclude={"title", "workers", "modes", "checkpoints", "message_sizes"}
        )
        self._description = {"case": case.name, "mode": mode, "run": decisive}

    def run(self, resume: bool, progress: Callable[[int], None]) -> dict[str, Any]:
        """Makes the steps that are left, and returns this rank's results."""
        steps, first = self._config.steps, self._restore() if resume else 0
        seconds: list[float] = []
        save = SaveCheckpoints(
            self._files, self._config.checkpoints.every_steps, steps, self._state, self._description
        )
        observers = [
            lambda step: seconds.append(step.seconds),
            lambda step: progress(step.number),
            save,
        ]
        train(self._step, self._parts(first, steps), observers, first)
        arrays, optimizer = list(self.values().values()), self._optimizer
        divides_rows = optimizer.capabilities.divides_rows
        return {
            "digest": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(),
            "state_bytes": sum(
                moment.nbytes for moment in (*optimizer.moment1, *optimizer.moment2)
            ),
            # Two moments of the largest part of a parameter that only one rank can keep.
            "undivided_bytes": 2
            * max(array[:1].nbytes if divides_rows else array.nbytes for array in arrays),
            "sizes": [array.size for array in arrays],
            "resumed_after": first or None,
            # The first steps compile.
            "step_ms": 1e3 * float(np.median(seconds[2:])) if len(seconds) > 4 else None,
            "backend": optimizer.backend,
        }

    def values(self) -> dict[str, np.ndarray]:
        """Returns copies of the parameters."""
        return dict(zip(self._names, (np.array(p.asnumpy()) for p in self._parameters)))

    def _parts(self, first: int, last: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields this rank's part of each batch; all ranks share one order of the examples."""
        for batch in self._batches.steps(first, last):
            yield tuple(np.split(array, self._ranks.count)[self._ranks.rank] for array in batch)

    def _state(self) -> Optional[dict[str, Any]]:
        state = ms_adam.gather_state(self._optimizer)  # every rank gives its share
        return (
            {**dict(zip(self._names, self._parameters)), **state} if self._ranks.rank == 0 else None
        )

    def _restore(self) -> int:
        """Restores the newest undamaged checkpoint; returns its number of steps."""
        # Rank 0 looks first and sets damaged files aside; then all find the same one.
        if self._ranks.rank == 0:
            self._files.newest_good()
        self._ranks.meet()
        checkpoint, _ = self._files.newest_good()
        if checkpoint is None or checkpoint.description != self._description:
            return 0
        for name, parameter in zip(self._names, self._parameters):
            value = np.array(checkpoint.parameters.pop(name).asnumpy())
            parameter.set_data(mindspore.Tensor(value))
        ms_adam.load_state(self._optimizer, checkpoint.parameters)
        return checkpoint.step


def _problem(problem: Problem, mode: str, seed: int) -> tuple[nn.Cell, list[np.ndarray]]:
    """Returns the model, and the arrays of the examples: the model's inputs, then the labels."""
    if isinstance(problem, Images):
        split = load_split(None, problem.train, 1, seed)
        sizes = [split.train.pixels.shape[1], *problem.hidden, split.classes]
        return MultiLayerPerceptron(sizes, seed), [split.train.inputs, split.train.targets]
    split = load_text_split(problem.words, problem.train, 1, seed)
    model = BagOfWords(split.rows, problem.width, mode == "graph", seed)
    bags = split.train
    return model, [bags.words, bags.shares, bags.labels]


def time_messages(sizes: list[int], ranks: Ranks) -> list[dict[str, Any]]:
    """Times messages of float32 numbers: medians, in milliseconds."""
    found = []
    for name, send in (
        ("AllReduce", ops.AllReduce()),
        ("AllGather", ops.AllGather()),
        ("Broadcast", ops.Broadcast(0)),
    ):
        for size in sizes:
            # Each rank gives its part to an AllGather, so that the result has the size.
            given = -(-size // ranks.count) if name == "AllGather" else size
            row = mindspore.Tensor(np.zeros(given, np.float32))
            seconds = []
            for _ in range(_TIMES):
                ranks.meet()
                started = time.perf_counter()
                sent = send((row,))[0] if name == "Broadcast" else send(row)
                sent.asnumpy()
                seconds.append(time.perf_counter() - started)
            median = 1e3 * float(np.median(seconds[1:]))
            found.append({"message": name, "numbers": size, "ms": median})
    return found


def work(job: dict[str, Any], ranks: Ranks) -> None:
    """Makes all trainings of a launch.

    Args:
        job: ``run`` (the config as plain values), ``mode``, ``resume``.
        ranks: This rank among the others.
    """
    config = RanksConfig.model_validate(job["run"])
    found: dict[str, Any] = {
        "cases": {},
        "messages": [],
        "device_target": mindspore.get_context("device_target"),
    }
    todo = cases(config, ranks.count)
    for before, case in enumerate(todo):

        def progress(done: int, before: int = before) -> None:
            steps = config.steps
            ranks.tell("progress", done=before * steps + done, total=len(todo) * steps)

        training = Training(config, case, job["mode"], ranks)
        found["cases"][case.name] = training.run(job["resume"], progress)
        if ranks.rank == 0:
            np.savez(ranks.folder / f"{case.name}.npz", **training.values())
    if ranks.count > 1 and job["mode"] == "graph":
        found["messages"] = time_messages(list(config.message_sizes), ranks)
    (ranks.folder / f"found_{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(serve(work))
