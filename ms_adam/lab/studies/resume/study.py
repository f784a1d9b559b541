"""One training that can be stopped at any moment, and the test that kills it.

Without the option ``kills`` it trains in the mode that the option ``mode`` says; with it, it is
killed so many times.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional

from pydantic import Field

from ms_adam.lab.claims import HELD, NOT_HELD, Verdict
from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.config import (
    Backend,
    Checkpoints,
    Count,
    Data,
    InBatches,
    Model,
    NotNegative,
    Number,
    Positive,
    Rate,
    Section,
    Seed,
)
from ms_adam.lab.run.processes import work
from ms_adam.lab.run.study import Session, Study
from ms_adam.lab.studies.resume import CHECKPOINTS, RESULT, TRAINING, kill_test


class Schedule(Section):
    """Number of epochs, of images in a batch, and the seed of weights and batches."""

    epochs: Count
    batch_size: Count
    seed: Seed


class OptimizerSettings(Section):
    """Arguments of ``ms_adam.Adam`` and ``ms_adam.AdamW`` under their own names, and two others."""

    name: Literal["Adam", "AdamW"]
    learning_rate: Positive
    learning_rate_decay: Literal["none", "cosine"]
    beta1: Rate
    beta2: Rate
    eps: Positive
    weight_decay: NotNegative
    max_grad_norm: Optional[Positive]
    use_nesterov: bool
    use_amsgrad: bool
    epsilon_hat: bool
    bias_correction: bool
    ema_decay: Optional[Rate]
    accumulate_steps: Count
    dynamic_loss_scale: Optional[Annotated[Number, Field(ge=1)]]
    backend: Backend
    flat_state: bool


class TrainingRun(InBatches):
    """A config. See ``configs/resume.yaml`` for the meaning of each key."""

    study: Literal["resume"]
    data: Data
    model: Model
    training: Schedule
    optimizer: OptimizerSettings
    checkpoints: Checkpoints


def run(configs: Sequence[TrainingRun], session: Session) -> dict[str, Any]:
    """Trains, or kills a training; returns the content of train.json or kills.json.

    Raises:
        ExperimentError: There are several configs, options that do not go together, or the training
            refuses or fails.
        Interrupted: Ctrl-C.
    """
    if len(configs) > 1:
        raise ExperimentError(
            f"a training has a folder of its own, so name one config; there are {len(configs)}"
        )
    (config,), options, out = configs, session.options, session.out
    mode = options.get("mode", "graph")
    for option, key in (("every", "checkpoints.every_steps"), ("seed", "training.seed")):
        if option in options and "kills" not in options:
            raise ExperimentError(f"--{option}: only with --kills; here the config's {key} counts")
    if "kills" in options:
        if "resume" in options:
            raise ExperimentError("--resume: not with --kills, which begins a test anew")
        changes = {"every_steps": options.get("every", 5)}  # few, so that kills meet the writing
        checkpoints = config.checkpoints.model_copy(update=changes)
        config = config.model_copy(update={"checkpoints": checkpoints})
        seed = options.get("seed", 0)
        return kill_test.kill_test(config, mode, out, options["kills"], seed, session.tell)
    job = {"config": config.model_dump(mode="json"), "mode": mode, "folder": str(out)}
    job["resume"] = options.get("resume", False)
    out.mkdir(parents=True, exist_ok=True)
    done = 0
    try:
        with contextlib.closing(work(TRAINING, mode, job, out / f"worker_{mode}.log")) as events:
            for event in events:
                if event["event"] == "told":
                    session.tell(event["message"])
                else:
                    done = event["done"]
                    session.progress(config.name, mode, done, config.steps)
    except KeyboardInterrupt:
        newest = max((out / CHECKPOINTS).glob("step-*.ckpt"), default=None)
        raise Interrupted(
            f"stopped after step {done} of {config.steps}; "
            + (f"--resume goes on from {newest}" if newest else "there is no checkpoint yet")
        ) from None
    return json.loads((out / RESULT).read_text(encoding="utf-8"))


def verdicts(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the verdict of a kill test; a training claims nothing."""
    trainings = content["results"][0].get("trainings")
    if trainings is None:
        return []
    names = [f"killed-{i}" for i, training in enumerate(trainings, 1) if training["differing"]]
    equal = f"{len(trainings)} of {len(trainings)} trainings are equal"
    verdict = Verdict(
        "A killed training that is resumed has the losses, the accuracies and the last checkpoint "
        "of an undisturbed one",
        NOT_HELD if names else HELD,
        f"these differ: {', '.join(names)}" if names else equal,
        "no byte differs",
        "A step follows from parameters, state and batch; a checkpoint holds the first two, and "
        "the batches of an epoch follow from the seed and the epoch's number.",
    )
    return [verdict.as_dict()]


def summary(content: dict[str, Any]) -> str:
    """Returns the result of a training or a kill test in words."""
    (result,) = content["results"]
    if "trainings" not in result:
        return (
            f"{result['steps']} steps, backend {result['backend']}: loss "
            f"{result['first_loss']:.4g} at first, {result['last_loss']:.4g} at last; "
            f"{result['test_accuracy']:.1%} of the test images classified correctly."
        )
    kills, trainings = result["kills"], result["trainings"]
    halves = sum(kill["half_written"] for kill in kills)
    begun = sum(kill["resumed_after"] is not None for kill in kills)
    equal = sum(not training["differing"] for training in trainings)
    return (
        f"{len(kills)} kills in {len(trainings)} trainings of {result['steps']} steps; {halves} "
        f"while a checkpoint was being written; {begun} times a checkpoint was there to go on "
        f"from. Curves and last checkpoint are those of the undisturbed training, bit for bit, in "
        f"{equal} of {len(trainings)}."
    )


STUDY = Study(
    "resume",
    TrainingRun,
    run,
    "ms_adam.lab.report.studies.resume:write_page",
    ("mode", "resume", "kills", "every", "seed"),
    verdicts,
    summary,
)
