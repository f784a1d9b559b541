"""One training that can be stopped at any moment and goes on with the same bits.

What a step computes follows from the parameters, the optimizer's state and the batch. The first two
are in the checkpoint. The batches of an epoch follow from the seed and the epoch's number alone, so
that no state of a random generator has to be kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import mindspore
import numpy as np
from mindspore import nn

import ms_adam
from ms_adam.lab.problems.images import Images, load_split
from ms_adam.lab.problems.networks import MultiLayerPerceptron
from ms_adam.lab.run import ExperimentError
from ms_adam.lab.run.checkpoints import Checkpoint, CheckpointFiles
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.run.environment import environment
from ms_adam.lab.run.mode_runs import Progress
from ms_adam.lab.run.results import SCHEMA, write_json
from ms_adam.lab.studies.resume.config import OptimizerSettings, TrainingRun
from ms_adam.lab.studies.resume.step_log import StepLog
from ms_adam.lab.train import TrainStep, fused_loss

LOSS = "loss.csv"
ACCURACY = "accuracy.csv"
RESULT = "train.json"
CHECKPOINTS = "checkpoints"

Tell = Callable[[str], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message tells where the training can go on."""


def train(
    run: TrainingRun, mode: str, out: Path, resume: bool, tell: Tell, progress: Progress
) -> dict:
    """Trains in the mode that the process is in, from the start or from the newest checkpoint.

    Writes into `out`: ``loss.csv`` (step, epoch, loss before the update), ``accuracy.csv`` (step,
    epoch, share of test images told right), ``checkpoints/step-*.ckpt``, and when all steps are
    done ``train.json``.

    Args:
        run: What to train, and how.
        mode: "graph" or "pynative": the mode that the process is in.
        out: The training's folder.
        resume: Whether to go on from what is in `out`; if that is nothing, from the start.
        tell: Is given messages for people: where it goes on, and what was damaged.
        progress: Is called after each step.

    Returns:
        The content of ``train.json``.

    Raises:
        ExperimentError: `out` holds a training and `resume` is not set, or another one; all its
            checkpoints are damaged; another process trains there; the loss is no longer finite.
        Interrupted: Ctrl-C.
    """
    started = time.perf_counter()
    with _alone(out):
        files = CheckpointFiles(out / CHECKPOINTS, run.checkpoints.keep)
        if not resume and (files.paths() or (out / LOSS).exists()):
            raise ExperimentError(
                f"{out} holds a training: --resume goes on with it; to start "
                "anew, name another folder with --out, or remove this one"
            )
        (out / RESULT).unlink(missing_ok=True)
        split = load_split(
            run.data.idx_directory, run.data.train, run.data.test, run.data.split_seed
        )
        description = describe(run, mode, split.fingerprint)
        sizes = [split.train.pixels.shape[1], *run.model.hidden, split.classes]
        model = MultiLayerPerceptron(sizes, run.training.seed)
        optimizer = _build_optimizer(run, model)
        # Under the names of now: a Cell that owns both, as TrainStep, puts its own before them.
        state = {**model.parameters_dict(), **optimizer.parameters_dict()}
        first = _restore(files, model, optimizer, description, tell) if resume else 0
        with contextlib.ExitStack() as stack:
            logs = [
                stack.enter_context(StepLog(out / name, ("step", "epoch", column), first))
                for name, column in ((LOSS, "loss"), (ACCURACY, "test_accuracy"))
            ]
            if logs[0].last_step < first:
                tell(
                    f"{out / LOSS} lacks the steps from {logs[0].last_step + 1} to {first}: they "
                    "are in the checkpoint, and the file goes on after them"
                )
            done = first
            try:
                for done in _steps(run, split, model, optimizer, first, logs):
                    progress(run.name, mode, done, run.steps)
                    if done % run.checkpoints.every_steps == 0 or done == run.steps:
                        for log in logs:  # first: a checkpoint never knows steps that no log has
                            log.sync()
                        files.save(done, state, description)
            except KeyboardInterrupt:
                kept = files.paths()
                raise Interrupted(
                    f"stopped after step {done} of {run.steps}; "
                    + (f"--resume goes on from {kept[0]}" if kept else "there is no checkpoint yet")
                ) from None
        content = _result(
            run,
            mode,
            out,
            first,
            optimizer,
            accuracy(model, split.test),
            split.fingerprint,
            time.perf_counter() - started,
        )
    return content


def epoch_batches(images: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The images of each batch of one epoch.

    Args:
        images: How many there are.
        batch_size: How many a batch has; those left over at the end are dropped.
        seed: Of the training.
        epoch: Its number, from 0.

    Returns:
        int64, shape (images // batch_size, batch_size).
    """
    # [seed, 1, epoch]: not the generator of the weights, which is that of [seed].
    order = np.random.default_rng([seed, 1, epoch]).permutation(images)
    return order[: images // batch_size * batch_size].reshape(-1, batch_size)


def describe(run: TrainingRun, mode: str, images_sha256: str) -> dict[str, Any]:
    """What a checkpoint belongs to. Where the images lie is not part of it."""
    config = run.model_dump(
        mode="json", exclude={"title": True, "checkpoints": True, "data": {"idx_directory"}}
    )
    return {"config": config, "images_sha256": images_sha256, "mode": mode}


def accuracy(model: nn.Cell, images: Images) -> np.float32:
    """The share of images whose class the model tells."""
    logits = model(mindspore.Tensor(images.inputs)).asnumpy()
    return np.float32(np.mean(np.argmax(logits, axis=1) == images.labels))


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two processes in one folder would mix their lines and files."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            # It goes with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExperimentError(f"{out}: another process trains in this folder") from None
        yield


def _steps(run, split, model, optimizer, first, logs) -> Iterator[int]:
    """Makes the steps after `first`, writes their lines, and yields how many are done."""
    losses, accuracies = logs
    step = TrainStep(model, optimizer, fused_loss())
    inputs, targets = split.train.inputs, split.train.targets
    epoch, batches = None, None
    for number in range(first, run.steps):
        if number // run.steps_per_epoch != epoch:
            epoch = number // run.steps_per_epoch
            batches = epoch_batches(len(inputs), run.training.batch_size, run.training.seed, epoch)
        batch = batches[number % run.steps_per_epoch]
        loss = step(mindspore.Tensor(inputs[batch]), mindspore.Tensor(targets[batch]))
        loss = np.float32(loss.asnumpy())
        if not np.isfinite(loss):
            raise ExperimentError(
                f"the loss of step {number + 1} is {loss}: a smaller "
                "optimizer.learning_rate or a max_grad_norm may help"
            )
        losses.write(number + 1, epoch + 1, loss)
        if (number + 1) % run.steps_per_epoch == 0:
            accuracies.write(number + 1, epoch + 1, accuracy(model, split.test))
        yield number + 1


def _build_optimizer(run: TrainingRun, model: nn.Cell) -> ms_adam.Adam:
    options = run.optimizer.model_dump(exclude={"name", "learning_rate_decay"})
    if run.optimizer.learning_rate_decay == "cosine":
        options["learning_rate"] = cosine(run.optimizer, run.steps)
    try:
        return getattr(ms_adam, run.optimizer.name)(model.trainable_params(), **options)
    except ValueError as error:  # options that are fine each, and not together or not here
        raise ConfigError(f"this optimizer cannot be made: {error}") from error


def cosine(settings: OptimizerSettings, steps: int) -> list[float]:
    """Learning rates that fall to 0 along half a cosine (Loshchilov & Hutter 2017, equation 5)."""
    return nn.cosine_decay_lr(0.0, settings.learning_rate, steps, 1, steps)


def _restore(files, model, optimizer, description, tell: Tell) -> int:
    """Puts model and optimizer where the newest good checkpoint was.

    Returns:
        How many steps had been made.
    """
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


def _refuse_another_training(checkpoint: Checkpoint, description: dict) -> None:
    there, here = (_leaves(every) for every in (checkpoint.description, description))
    differing = [
        key for key in sorted({*there, *here}) if key != "mode" and there.get(key) != here.get(key)
    ]
    if differing:
        lines = [
            f"{key.removeprefix('config.')} = {there.get(key)} there, {here.get(key)} here"
            for key in differing
        ]
        raise ExperimentError(
            "\n  ".join(
                [
                    f"{checkpoint.path}: is of another training, so --resume cannot go on from it:",
                    *lines,
                ]
            )
        )


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested mappings."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _leaves(inner, f"{prefix}.{key}" if prefix else key).items()
    }


def _result(run, mode, out, first, optimizer, test_accuracy, images_sha256, seconds) -> dict:
    losses = np.loadtxt(out / LOSS, delimiter=",", skiprows=1, ndmin=2)
    config = run.model_dump(mode="json")
    if run.data.idx_directory is not None:  # its name; the rest is this machine's business
        config["data"]["idx_directory"] = run.data.idx_directory.name
    content = {
        "schema": SCHEMA,
        "environment": environment(mindspore.get_context("device_target")),
        "results": [
            {
                "config": config,
                "mode": mode,
                "backend": optimizer.backend,
                "images_sha256": images_sha256,
                "steps": run.steps,
                "resumed_after_step": first or None,
                "first_loss": losses[0, 2],
                "last_loss": losses[-1, 2],
                "test_accuracy": float(test_accuracy),
                "seconds": seconds,  # of this process
            }
        ],
    }
    unfinished = out / f".{RESULT}"
    write_json(unfinished, content)
    os.replace(unfinished, out / RESULT)
    return content
