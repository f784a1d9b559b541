"""What one rank does: ``python -m ms_adam.lab.studies.ranks.training``.

The batch of a step is divided among the ranks in equal parts, in the order of the ranks; gradients
are averaged over the ranks; every rank makes the same update. Rank 0 saves checkpoints and tells how
far it is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any, NamedTuple

import mindspore
import numpy as np
from mindspore import nn, ops

import ms_adam
from ms_adam.lab.problems.images import load_split
from ms_adam.lab.problems.networks import BagOfWords, MultiLayerPerceptron
from ms_adam.lab.problems.text import load_text_split
from ms_adam.lab.run.checkpoints import CheckpointFiles
from ms_adam.lab.studies.ranks.config import Distributed, Images, Optimizer, Problem
from ms_adam.lab.studies.ranks.rank import Ranks, serve
from ms_adam.lab.train import fused_loss

_TIMES = 9  # that each kind of message is sent


class Case(NamedTuple):
    """One training of a launch."""

    problem: Problem
    optimizer: Optimizer
    sharded: bool

    @property
    def name(self) -> str:
        return "-".join(
            [self.problem.name, self.optimizer.name, "sharded" if self.sharded else "whole"]
        )


def cases(run: Distributed, workers: int) -> list[Case]:
    """The trainings of a launch; one process has nothing to shard."""
    return [
        Case(problem, optimizer, sharded)
        for problem in run.problems
        for optimizer in run.optimizers
        for sharded in ([False, True] if workers > 1 else [False])
    ]


class Step(nn.Cell):
    """One data-parallel step: gradients of this rank's part of the batch, their mean, the update.

    Args:
        model: Is called with the inputs of the batch.
        optimizer: Updates its parameters.
        ranks: How many ranks there are.
    """

    def __init__(self, model: nn.Cell, optimizer: nn.Optimizer, ranks: int):
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.loss = fused_loss()
        self.value_and_grad = mindspore.value_and_grad(self.forward, None, optimizer.parameters)
        self.reduced = ranks > 1
        if self.reduced:
            self.reducer = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=ranks)

    def forward(self, labels, *inputs):
        return self.loss(self.model(*inputs), labels)

    def construct(self, labels, *inputs):
        loss, gradients = self.value_and_grad(labels, *inputs)
        if self.reduced:
            gradients = self.reducer(gradients)
        return ops.depend(loss, self.optimizer(gradients))


class Training:
    """One case on this rank, from its first step or from its newest checkpoint."""

    def __init__(self, run: Distributed, case: Case, mode: str, ranks: Ranks):
        self._run, self._case, self._ranks = run, case, ranks
        model, self._labels, self._inputs = _problem(case.problem, mode, run.seed)
        self.parameters = list(model.trainable_params())
        lazy = {} if isinstance(case.problem, Images) else {"use_lazy": True}
        self.optimizer = getattr(ms_adam, case.optimizer.name)(
            self.parameters,
            case.optimizer.learning_rate,
            weight_decay=case.optimizer.weight_decay,
            shard_state=case.sharded,
            **lazy,
        )
        self._names = [
            parameter.name for parameter in self.parameters
        ]  # before a Cell renames them
        self._step = Step(model, self.optimizer, ranks.count)
        self._files = CheckpointFiles(
            ranks.folder / "checkpoints" / case.name, run.checkpoints.keep
        )
        # Which steps go with which weights, wherever they were made.
        config = run.model_dump(
            mode="json", exclude={"title", "workers", "modes", "checkpoints", "message_sizes"}
        )
        self._description = {"case": case.name, "mode": mode, "run": config}

    def go(self, resume: bool, progress) -> dict[str, Any]:
        """Makes the steps that are left, and returns what came of them on this rank."""
        done = self._restored() if resume else 0
        resumed_after = done
        seconds = []
        for number in range(done, self._run.steps):
            part = self._part(number)
            batch = [mindspore.Tensor(array[part]) for array in (self._labels, *self._inputs)]
            started = time.perf_counter()
            float(self._step(*batch).asnumpy())  # waits until the step is made
            seconds.append(time.perf_counter() - started)
            progress(number + 1)
            if (
                number + 1
            ) % self._run.checkpoints.every_steps == 0 or number + 1 == self._run.steps:
                self._save(number + 1)
        arrays = [np.array(parameter.asnumpy()) for parameter in self.parameters]
        return {
            "digest": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(),
            "state_bytes": sum(
                moment.nbytes for moment in (*self.optimizer.moment1, *self.optimizer.moment2)
            ),
            # Of two moments, for the largest part of a parameter that one rank keeps as a whole.
            "undivided_bytes": 2
            * max(
                array[:1].nbytes if self.optimizer.capabilities.divides_rows else array.nbytes for array in arrays
            ),
            "sizes": [array.size for array in arrays],
            "resumed_after": resumed_after or None,
            # The first steps compile.
            "step_ms": 1e3 * float(np.median(seconds[2:])) if len(seconds) > 4 else None,
            "backend": self.optimizer.backend,
        }

    def values(self) -> dict[str, np.ndarray]:
        return dict(zip(self._names, (np.array(p.asnumpy()) for p in self.parameters)))

    def _part(self, number: int) -> np.ndarray:
        """The examples that this rank has in a step; the steps of all ranks share one order."""
        batch_size = self._run.batch_size
        per_epoch = len(self._labels) // batch_size
        # [seed, 1, epoch]: not the generator of the weights, which is that of [seed].
        order = np.random.default_rng([self._run.seed, 1, number // per_epoch])
        batch = order.permutation(len(self._labels))[number % per_epoch * batch_size :][:batch_size]
        return np.split(batch, self._ranks.count)[self._ranks.rank]

    def _save(self, step: int) -> None:
        state = ms_adam.gather_state(self.optimizer)  # every rank gives its share
        if self._ranks.rank == 0:
            model = dict(zip(self._names, self.parameters))
            self._files.save(step, {**model, **state}, self._description)

    def _restored(self) -> int:
        """Puts parameters and state where the newest good checkpoint was; its number of steps."""
        # Rank 0 looks first, and sets damaged files aside; then all find the same one.
        if self._ranks.rank == 0:
            self._files.newest_good()
        self._ranks.meet()
        checkpoint, _ = self._files.newest_good()
        if checkpoint is None or checkpoint.description != self._description:
            return 0
        for name, parameter in zip(self._names, self.parameters):
            parameter.set_data(
                mindspore.Tensor(np.array(checkpoint.parameters.pop(name).asnumpy()))
            )
        ms_adam.load_state(self.optimizer, checkpoint.parameters)
        return checkpoint.step


def _problem(
    problem: Problem, mode: str, seed: int
) -> tuple[nn.Cell, np.ndarray, list[np.ndarray]]:
    """The model, the labels, and what the model is called with."""
    if isinstance(problem, Images):
        split = load_split(None, problem.train, 1, seed)
        sizes = [split.train.pixels.shape[1], *problem.hidden, split.classes]
        return MultiLayerPerceptron(sizes, seed), split.train.targets, [split.train.inputs]
    split = load_text_split(problem.words, problem.train, 1, seed)
    model = BagOfWords(split.rows, problem.width, mode == "graph", seed)
    bags = split.train
    return model, bags.labels, [bags.words, bags.shares]


def time_messages(sizes: list[int], ranks: Ranks) -> list[dict[str, Any]]:
    """How long messages of so many float32 numbers take: medians, in milliseconds."""
    found = []
    for name, send in (
        ("AllReduce", ops.AllReduce()),
        ("AllGather", ops.AllGather()),
        ("Broadcast", ops.Broadcast(0)),
    ):
        for size in sizes:
            # Of an AllGather each rank gives its part, so that what comes out has the size.
            given = -(-size // ranks.count) if name == "AllGather" else size
            row = mindspore.Tensor(np.zeros(given, np.float32))
            seconds = []
            for _ in range(_TIMES):
                ranks.meet()
                started = time.perf_counter()
                sent = send((row,))[0] if name == "Broadcast" else send(row)
                sent.asnumpy()
                seconds.append(time.perf_counter() - started)
            found.append(
                {"message": name, "numbers": size, "ms": 1e3 * float(np.median(seconds[1:]))}
            )
    return found


def work(job: dict, ranks: Ranks) -> None:
    """All trainings of a launch.

    Args:
        job: ``run`` (the config as plain values), ``mode``, ``resume``.
        ranks: This rank among the others.
    """
    run = Distributed.model_validate(job["run"])
    found: dict[str, Any] = {
        "cases": {},
        "messages": [],
        "device_target": mindspore.get_context("device_target"),
    }
    todo = cases(run, ranks.count)
    for before, case in enumerate(todo):

        def progress(done: int, before: int = before) -> None:
            ranks.tell("progress", done=before * run.steps + done, total=len(todo) * run.steps)

        training = Training(run, case, job["mode"], ranks)
        found["cases"][case.name] = training.go(job["resume"], progress)
        if ranks.rank == 0:
            np.savez(ranks.folder / f"{case.name}.npz", **training.values())
    if ranks.count > 1 and job["mode"] == "graph":
        found["messages"] = time_messages(list(run.message_sizes), ranks)
    (ranks.folder / f"found_{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(serve(work))
