"""The work of one rank: ``python -m ms_adam.lab.studies.ranks.training``.

Each step's batch is divided among the ranks in equal parts, in the order of the ranks. Gradients
are averaged over the ranks, and every rank makes the same update. Rank 0 saves checkpoints and
reports progress.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
import time
from typing import Any, Optional

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
from ms_adam.lab.run.rank import Ranks, serve
from ms_adam.lab.studies.ranks.study import Images, Optimizer, Problem, RanksConfig
from ms_adam.lab.train import Observer, Step, TrainStep, fused_loss, train

_TIMES = 9  # repetitions of each kind of message


def work(job: dict[str, Any], ranks: Ranks) -> None:
    """Makes all trainings of a launch.

    The job is ``run`` (the config as plain values), ``mode`` and ``resume``.
    """
    config = RanksConfig.model_validate(job["run"])
    states = ("whole", "sharded") if ranks.count > 1 else ("whole",)  # one has nothing to shard
    todo = list(itertools.product(config.problems, config.optimizers, states))
    trainings = []
    for before, (problem, optimizer, state) in enumerate(todo):

        def tell(step: Step, before: int = before) -> None:
            done, total = before * config.steps + step.number, len(todo) * config.steps
            ranks.progress(done, total=total)

        trainings.append(_train(config, problem, optimizer, state, job, ranks, tell))
    found = {
        "trainings": trainings,
        "messages": [],
        "device_target": mindspore.get_context("device_target"),
    }
    if ranks.count > 1 and job["mode"] == "graph":
        found["messages"] = time_messages(config.message_sizes, ranks)
    (ranks.folder / f"found_{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _train(
    config: RanksConfig,
    problem: Problem,
    settings: Optimizer,
    state: str,
    job: dict[str, Any],
    ranks: Ranks,
    tell: Observer,
) -> dict[str, Any]:
    """Makes one training, from its first step or its newest checkpoint; returns what it found."""
    model, arrays = _problem(problem, job["mode"], config.seed)
    optimizer = getattr(ms_adam, settings.name)(
        model.trainable_params(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        shard_state=state == "sharded",
        use_lazy=not isinstance(problem, Images),
    )
    name = f"{problem.name}-{settings.name}-{state}"
    # What decides the weights of a step, in any launch.
    unimportant = {"title", "workers", "modes", "checkpoints", "message_sizes"}
    decisive = config.model_dump(mode="json", exclude=unimportant)
    description = {"case": name, "mode": job["mode"], "run": decisive}
    files = CheckpointFiles(ranks.folder / "checkpoints" / name, config.checkpoints.keep)
    first = _restore(files, model, optimizer, description, ranks) if job["resume"] else 0
    weights = {p.name: p for p in model.trainable_params()}  # a Cell, such as TrainStep, renames

    def save() -> Optional[dict[str, Any]]:
        gathered = ms_adam.gather_state(optimizer)  # every rank gives its share
        return {**weights, **gathered} if ranks.rank == 0 else None

    reducer = None
    if ranks.count > 1:
        reducer = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=ranks.count)
    seconds: list[float] = []
    observers = [
        lambda step: seconds.append(step.seconds),
        tell,
        SaveCheckpoints(files, config.checkpoints.every_steps, config.steps, save, description),
    ]
    # All ranks share one order of the examples; each takes its part of a batch.
    batches = Batches(arrays, config.batch_size, config.seed, independent=True)
    parts = (
        tuple(np.split(array, ranks.count)[ranks.rank] for array in batch)
        for batch in batches.steps(first, config.steps)
    )
    train(TrainStep(model, optimizer, fused_loss(), reducer=reducer), parts, observers, first)
    values = {key: np.array(parameter.asnumpy()) for key, parameter in weights.items()}
    if ranks.rank == 0:
        np.savez(ranks.folder / f"{name}.npz", **values)
    divides_rows = optimizer.capabilities.divides_rows
    largest = max((v[:1] if divides_rows else v).nbytes for v in values.values())
    moments = (*optimizer.moment1, *optimizer.moment2)
    return {
        "problem": problem.name,
        "optimizer": settings.name,
        "state": state,
        "backend": optimizer.backend,
        "sizes": [value.size for value in values.values()],
        # Two moments of the largest part of a parameter that only one rank can keep.
        "undivided_bytes": 2 * largest,
        # The first steps compile.
        "step_ms": 1e3 * float(np.median(seconds[2:])) if len(seconds) > 4 else None,
        "resumed_after": first or None,
        "digest": hashlib.sha256(b"".join(v.tobytes() for v in values.values())).hexdigest(),
        "state_bytes": sum(moment.nbytes for moment in moments),
    }


def _restore(
    files: CheckpointFiles, model: nn.Cell, optimizer: nn.Cell, description: dict, ranks: Ranks
) -> int:
    """Restores the newest undamaged checkpoint; returns its number of steps.

    Checkpoints of another config are removed. Their steps may be later than those of this training,
    whose own checkpoints would then count as the oldest.
    """
    with ranks.zero_first():  # it puts files aside or away; then all find the same one
        checkpoint, _ = files.newest_good()
        if checkpoint is not None and checkpoint.description != description:
            shutil.rmtree(files.folder)
            checkpoint = None
    if checkpoint is None:
        return 0
    mindspore.load_param_into_net(model, checkpoint.parameters)
    ms_adam.load_state(optimizer, checkpoint.parameters)
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
    broadcast = ops.Broadcast(0)
    kinds = {
        "AllReduce": ops.AllReduce(),
        "AllGather": ops.AllGather(),
        "Broadcast": lambda row: broadcast((row,))[0],
    }
    found = []
    for (name, send), size in itertools.product(kinds.items(), sizes):
        # Each rank gives its part to an AllGather, so that the result has the size.
        given = -(-size // ranks.count) if name == "AllGather" else size
        row = mindspore.Tensor(np.zeros(given, np.float32))
        seconds = []
        for _ in range(_TIMES):
            ranks.meet()
            started = time.perf_counter()
            send(row).asnumpy()
            seconds.append(time.perf_counter() - started)
        median = 1e3 * float(np.median(seconds[1:]))
        found.append({"message": name, "numbers": size, "ms": median})
    return found


if __name__ == "__main__":
    sys.exit(serve(work))
