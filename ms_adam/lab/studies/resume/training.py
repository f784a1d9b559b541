"""One training that can be stopped at any moment and goes on with the same bits.

What a step computes follows from the parameters, the optimizer's state and the batch. The first two
are in the checkpoint. The batches of an epoch follow from the seed and the epoch's number, so no
state of a random generator has to be kept.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import amp, nn, ops

import ms_adam
from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.observers import SaveCheckpoints, refuse_infinite_loss
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.images import load_data
from ms_adam.lab.problems.networks import MultiLayerPerceptron, accuracy
from ms_adam.lab.run.checkpoints import CheckpointFiles
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.run.processes import locked
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.studies.resume import ACCURACY, CHECKPOINTS, LOSS, RESULT
from ms_adam.lab.studies.resume.step_log import StepLog
from ms_adam.lab.studies.resume.study import TrainingRun
from ms_adam.lab.train import Step, TrainStep, fused_loss, train

_SCALE_FACTOR, _SCALE_WINDOW = 2, 50  # of a dynamic loss scale


class ScaledStep(TrainStep):
    """A step with a scaled loss; its output is the loss itself."""

    def __init__(self, model, optimizer, loss, scaler):
        super().__init__(model, optimizer, loss)
        self.scaler, weights = scaler, optimizer.parameters
        self.value_and_grad = mindspore.value_and_grad(self.scaled, None, weights, has_aux=True)

    def scaled(self, *batch):
        loss = self.forward(*batch)
        return self.scaler.scale(loss), loss

    def construct(self, *batch):
        (_, loss), gradients = self.value_and_grad(*batch)
        return ops.depend(loss, self.optimizer(gradients))


def work(job: dict[str, Any], events: Events) -> None:
    """Trains in a worker process, from the start or from the newest checkpoint.

    Writes into the folder: ``loss.csv`` (step, epoch, loss before the update), ``accuracy.csv``
    (step, epoch, share of test images classified correctly, with averaged weights if there are
    any), ``checkpoints/step-*.ckpt``, and after the last step ``train.json``.

    Args:
        job: ``config``, ``mode``, ``folder``; and ``resume``: whether to go on from what is in the
            folder; if that is nothing, from the start.
        events: Gets "told" with a ``message`` for the user, where the training goes on (then with
            ``resumed_after`` too) or what was damaged; and "progress" after each step.

    Raises:
        ExperimentError: The folder holds a training and ``resume`` is not set, or another one; all
            its checkpoints are damaged; another process trains there; the loss is not finite.
    """
    started = time.perf_counter()
    enter(job["mode"])
    run, out = TrainingRun.model_validate(job["config"]), Path(job["folder"])
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(locked(out / ".lock")):  # two would mix their lines and files
            raise ExperimentError(f"{out}: another process trains in this folder")
        files = CheckpointFiles(out / CHECKPOINTS, run.checkpoints.keep)
        if not job["resume"] and (files.paths() or (out / LOSS).exists()):
            raise ExperimentError(
                f"{out} holds a training: --resume goes on with it; to start anew, name another "
                "folder with --out, or remove this one"
            )
        schedule, split = run.training, load_data(run)
        # What a checkpoint belongs to. The place of the images is not part of it.
        unimportant = {"title": True, "checkpoints": True, "data": {"idx_directory"}}
        description = {
            "config": run.model_dump(mode="json", exclude=unimportant),
            "images_sha256": split.fingerprint,
            "mode": job["mode"],
        }
        sizes = [split.train.pixels.shape[1], *run.model.hidden, split.classes]
        model = MultiLayerPerceptron(sizes, schedule.seed)
        optimizer = _build_optimizer(run, model)
        # Under the present names: TrainStep, a Cell that owns both, puts its own before them.
        state = {**model.parameters_dict(), **optimizer.parameters_dict()}
        first = _restore(files, model, optimizer, description, events) if job["resume"] else 0
        (out / RESULT).unlink(missing_ok=True)  # nothing can be refused any more
        losses, accuracies = logs = [
            stack.enter_context(StepLog(out / name, ("step", "epoch", column), first))
            for name, column in ((LOSS, "loss"), (ACCURACY, "test_accuracy"))
        ]
        if losses.last_step < first:
            message = (
                f"{out / LOSS} lacks the steps from {losses.last_step + 1} to {first}: they are in "
                "the checkpoint, and the file goes on after them"
            )
            events.send("told", message=message)

        def test_accuracy() -> np.float32:
            averages = contextlib.nullcontext()
            if run.optimizer.ema_decay is not None:
                averages = ms_adam.averaged(optimizer)
            with averages:
                return np.float32(accuracy(model, split.test))

        def write(step: Step) -> None:
            epoch = (step.number - 1) // run.steps_per_epoch + 1
            losses.write(step.number, epoch, step.loss)
            if step.number % run.steps_per_epoch == 0:
                accuracies.write(step.number, epoch, test_accuracy())
            events.send("progress", done=step.number)

        every = run.checkpoints.every_steps
        save = SaveCheckpoints(files, every, run.steps, lambda: state, description, logs)
        arrays = (split.train.inputs, split.train.targets)
        batches = Batches(arrays, schedule.batch_size, schedule.seed, independent=True)
        observers = [refuse_infinite_loss, write, save]
        if run.optimizer.dynamic_loss_scale is None:
            step = TrainStep(model, optimizer, fused_loss())
        else:
            step = ScaledStep(model, optimizer, fused_loss(), optimizer.loss_scale)
        train(step, batches.steps(first, run.steps), observers, first)
        curve = np.loadtxt(out / LOSS, delimiter=",", skiprows=1, ndmin=2)
        entry = {
            "config": run.public(),
            "mode": job["mode"],
            "backend": optimizer.backend,
            "images_sha256": split.fingerprint,
            "steps": run.steps,
            "resumed_after_step": first or None,
            "first_loss": curve[0, 2],
            "last_loss": curve[-1, 2],
            "test_accuracy": float(test_accuracy()),
            "seconds": time.perf_counter() - started,  # of this process
        }
        write_json(out / RESULT, results([entry], [mindspore.get_context("device_target")]))


def _build_optimizer(run: TrainingRun, model: nn.Cell) -> ms_adam.Adam:
    ours = {"name", "learning_rate_decay", "dynamic_loss_scale"}
    options = run.optimizer.model_dump(exclude=ours)
    if run.optimizer.learning_rate_decay == "cosine":
        # A rate for each update; the last may not come, but calls that accumulate for it read one.
        updates = -(-run.steps // run.optimizer.accumulate_steps)
        options["learning_rate"] = cosine(run.optimizer.learning_rate, updates)
    first_scale = run.optimizer.dynamic_loss_scale
    if first_scale is not None:
        options["loss_scale"] = amp.DynamicLossScaler(first_scale, _SCALE_FACTOR, _SCALE_WINDOW)
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
    events: Events,
) -> int:
    """Restores model and optimizer from the newest good checkpoint; returns its step."""
    checkpoint, damaged = files.newest_good()
    for message in damaged:
        events.send("told", message=message)
    if checkpoint is None:
        message = f"{files.folder} holds no checkpoint: the training starts at the first step"
        events.send("told", message=message)
        return 0
    there, here = _leaves(checkpoint.description), _leaves(description)
    if different := sorted(
        f"\n  {key.removeprefix('config.')} = {there.get(key)} there, {here.get(key)} here"
        for key in {*there, *here} - {"mode"}
        if there.get(key) != here.get(key)
    ):
        raise ExperimentError(
            f"{checkpoint.path}: is of another training, so --resume cannot go on from it:"
            + "".join(different)
        )
    not_loaded, _ = mindspore.load_param_into_net(model, checkpoint.parameters)
    if not_loaded:
        raise ExperimentError(f"{checkpoint.path}: lacks {', '.join(not_loaded)}")
    ms_adam.load_state(optimizer, checkpoint.parameters)
    message = f"goes on after step {checkpoint.step}, from {checkpoint.path}"
    message += ", the last good checkpoint" if damaged else ""
    events.send("told", message=message, resumed_after=checkpoint.step)
    if there["mode"] != here["mode"]:
        events.send("told", message=f"the steps so far were made in {there['mode']} mode")
    return checkpoint.step


def _leaves(value: Any, *keys: str) -> dict[str, Any]:
    """Returns {"a.b": value} for each value of nested mappings."""
    if not isinstance(value, dict):
        return {".".join(keys): value}
    inner = (_leaves(item, *keys, key).items() for key, item in value.items())
    return {key: leaf for leaves in inner for key, leaf in leaves}
