"""One training that can be stopped at any moment and goes on with the same bits.

What a step computes follows from the parameters, the optimizer's state and the batch. The first two
are in the checkpoint. The batches of an epoch follow from the seed and the epoch's number, so no
state of a random generator has to be kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import mindspore
import numpy as np
from mindspore import nn

import ms_adam
from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.observers import SaveCheckpoints, refuse_infinite_loss
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.images import load_split
from ms_adam.lab.problems.networks import MultiLayerPerceptron, accuracy
from ms_adam.lab.run.checkpoints import Checkpoint, CheckpointFiles
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Progress
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.studies.resume.step_log import StepLog
from ms_adam.lab.studies.resume.study import TrainingRun
from ms_adam.lab.train import Step, TrainStep, fused_loss, train

LOSS = "loss.csv"
ACCURACY = "accuracy.csv"
RESULT = "train.json"
CHECKPOINTS = "checkpoints"

Tell = Callable[[str], None]


def work(job: dict[str, Any], events: Events) -> None:
    """Trains in a worker process, from the newest checkpoint if there is one.

    Args:
        job: ``config``, ``mode``, ``folder``.
        events: Is sent what `train_run` tells, as the event "told".
    """
    enter(job["mode"])
    train_run(
        TrainingRun.model_validate(job["config"]),
        job["mode"],
        Path(job["folder"]),
        True,
        lambda message: events.send("told", message=message),
        lambda *_: None,
    )


def train_run(
    run: TrainingRun, mode: str, out: Path, resume: bool, tell: Tell, progress: Progress
) -> dict[str, Any]:
    """Trains in the mode that the process is in, from the start or from the newest checkpoint.

    Writes into `out`: ``loss.csv`` (step, epoch, loss before the update), ``accuracy.csv`` (step,
    epoch, share of test images classified correctly), ``checkpoints/step-*.ckpt``, and after the
    last step ``train.json``.

    Args:
        run: What to train, and how.
        mode: "graph" or "pynative": the mode that the process is in.
        out: The training's folder.
        resume: Whether to go on from what is in `out`; if that is nothing, from the start.
        tell: Shows where it goes on, and what was damaged.
        progress: Called after each step.

    Returns:
        The content of ``train.json``.

    Raises:
        ExperimentError: `out` holds a training and `resume` is not set, or another one; all its
            checkpoints are damaged; another process trains there; the loss is not finite.
        Interrupted: Ctrl-C.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(out))
        files = CheckpointFiles(out / CHECKPOINTS, run.checkpoints.keep)
        if not resume and (files.paths() or (out / LOSS).exists()):
            raise ExperimentError(
                f"{out} holds a training: --resume goes on with it; to start anew, name another "
                "folder with --out, or remove this one"
            )
        (out / RESULT).unlink(missing_ok=True)
        data = run.data
        split = load_split(data.idx_directory, data.train, data.test, data.split_seed)
        description = describe(run, mode, split.fingerprint)
        sizes = [split.train.pixels.shape[1], *run.model.hidden, split.classes]
        model = MultiLayerPerceptron(sizes, run.training.seed)
        optimizer = _build_optimizer(run, model)
        # Under the present names: TrainStep, a Cell that owns both, puts its own before them.
        state = {**model.parameters_dict(), **optimizer.parameters_dict()}
        first = done = _restore(files, model, optimizer, description, tell) if resume else 0
        losses, accuracies = logs = [
            stack.enter_context(StepLog(out / name, ("step", "epoch", column), first))
            for name, column in ((LOSS, "loss"), (ACCURACY, "test_accuracy"))
        ]
        if losses.last_step < first:
            tell(
                f"{out / LOSS} lacks the steps from {losses.last_step + 1} to {first}: they are in "
                "the checkpoint, and the file goes on after them"
            )

        def write(step: Step) -> None:
            nonlocal done
            done = step.number
            epoch = (done - 1) // run.steps_per_epoch + 1
            losses.write(done, epoch, step.loss)
            if done % run.steps_per_epoch == 0:
                accuracies.write(done, epoch, np.float32(accuracy(model, split.test)))
            progress(run.name, mode, done, run.steps)

        every = run.checkpoints.every_steps
        save = SaveCheckpoints(files, every, run.steps, lambda: state, description, logs)
        arrays, schedule = (split.train.inputs, split.train.targets), run.training
        batches = Batches(arrays, schedule.batch_size, schedule.seed, independent=True)
        step = TrainStep(model, optimizer, fused_loss())
        try:
            observers = [refuse_infinite_loss, write, save]
            train(step, batches.steps(first, run.steps), observers, first)
        except KeyboardInterrupt:
            kept = files.paths()
            raise Interrupted(
                f"stopped after step {done} of {run.steps}; "
                + (f"--resume goes on from {kept[0]}" if kept else "there is no checkpoint yet")
            ) from None
        curve = np.loadtxt(out / LOSS, delimiter=",", skiprows=1, ndmin=2)
        entry = {
            "config": run.public(),
            "mode": mode,
            "backend": optimizer.backend,
            "images_sha256": split.fingerprint,
            "steps": run.steps,
            "resumed_after_step": first or None,
            "first_loss": curve[0, 2],
            "last_loss": curve[-1, 2],
            "test_accuracy": float(np.float32(accuracy(model, split.test))),
            "seconds": time.perf_counter() - started,  # of this process
        }
        content = results([entry], [mindspore.get_context("device_target")])
        write_json(out / RESULT, content)
    return content


def describe(run: TrainingRun, mode: str, images_sha256: str) -> dict[str, Any]:
    """Describes what a checkpoint belongs to. The place of the images is not part of it."""
    config = run.model_dump(
        mode="json", exclude={"title": True, "checkpoints": True, "data": {"idx_directory"}}
    )
    return {"config": config, "images_sha256": images_sha256, "mode": mode}


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps a second process out of the folder: the two would mix their lines and files."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            # The lock ends with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExperimentError(f"{out}: another process trains in this folder") from None
        yield


def _build_optimizer(run: TrainingRun, model: nn.Cell) -> ms_adam.Adam:
    options = run.optimizer.model_dump(exclude={"name", "learning_rate_decay"})
    if run.optimizer.learning_rate_decay == "cosine":
        options["learning_rate"] = cosine(run.optimizer.learning_rate, run.steps)
    try:
        return getattr(ms_adam, run.optimizer.name)(model.trainable_params(), **options)
    except ValueError as error:  # options that are each allowed, but not together or not here
        raise ConfigError(f"this optimizer cannot be made: {error}") from error


def cosine(learning_rate: float, steps: int) -> list[float]:
    """Learning rates that fall to 0 along half a cosine (Loshchilov & Hutter 2017, equation 5)."""
    return nn.cosine_decay_lr(0.0, learning_rate, steps, 1, steps)


def _restore(
    files: CheckpointFiles,
    model: nn.Cell,
    optimizer: nn.Optimizer,
    description: dict[str, Any],
    tell: Tell,
) -> int:
    """Restores model and optimizer from the newest good checkpoint; returns its step."""
    checkpoint, messages = files.newest_good()
    for message in messages:
        tell(message)
    if checkpoint is None:
        tell(f"{files.folder} holds no checkpoint: the training starts at the first step")
        return 0
    _refuse_another_training(checkpoint, description)
    not_loaded, _ = mindspore.load_param_into_net(model, checkpoint.parameters)
    if not_loaded:
        raise ExperimentError(f"{checkpoint.path}: lacks {', '.join(not_loaded)}")
    ms_adam.load_state(optimizer, checkpoint.parameters)
    tell(
        f"goes on after step {checkpoint.step}, from {checkpoint.path}"
        + (", the last good checkpoint" if messages else "")
    )
    mode = checkpoint.description["mode"]
    if mode != description["mode"]:
        tell(f"the steps so far were made in {mode} mode")
    return checkpoint.step


def _refuse_another_training(checkpoint: Checkpoint, description: dict[str, Any]) -> None:
    there, here = (dict(_leaves(one)) for one in (checkpoint.description, description))
    lines = [
        f"\n  {key.removeprefix('config.')} = {there.get(key)} there, {here.get(key)} here"
        for key in sorted({*there, *here})
        if key != "mode" and there.get(key) != here.get(key)
    ]
    if lines:
        raise ExperimentError(
            f"{checkpoint.path}: is of another training, so --resume cannot go on from it:"
            + "".join(lines)
        )


def _leaves(value: Any, *keys: str) -> Iterator[tuple[str, Any]]:
    """Yields ("a.b", value) for each value of nested mappings."""
    if not isinstance(value, dict):
        yield ".".join(keys), value
        return
    for key, inner in value.items():
        yield from _leaves(inner, *keys, key)
