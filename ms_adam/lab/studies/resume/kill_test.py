"""Kills a training at random moments, resumes it, and compares its curves with undisturbed ones."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import yaml

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.config import InBatches
from ms_adam.lab.run.processes import Job, start
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.studies.resume import ACCURACY, CHECKPOINTS, LOSS, RESULT, TRAINING

_CURVES = (LOSS, ACCURACY)
_MOST_TRAININGS = 1000  # one that is over before the kill makes room for the next


@dataclasses.dataclass
class Kill:
    """One kill -9.

    Attributes:
        training: The number of the training, from 1.
        lines: Whole lines in its loss.csv.
        checkpoint: The step of its newest checkpoint; None if there was none.
        half_written: Whether a checkpoint was being written.
        resumed_after: The step after which the next process said it goes on; None if it said
            nothing: it started at the first step, or was itself killed before.
    """

    training: int
    lines: int
    checkpoint: Optional[int]
    half_written: bool
    resumed_after: Optional[int] = None


def kill_test(
    run: InBatches, mode: str, out: Path, kills: int, seed: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Trains once undisturbed, then again and again with kill -9 and a resume.

    Three kills in four come while steps are made, the fourth at any moment since the process
    started, when it reads its data or its checkpoint. A training that gets to its end is compared
    with the undisturbed one, and the next begins.

    Args:
        run: What to train; many checkpoints make more kills meet the writing of one.
        mode: "graph" or "pynative".
        out: Gets ``undisturbed``, ``killed-1`` and so on, ``config.yaml`` and ``kills.json``. Those
            of an earlier test are removed.
        kills: How many.
        seed: Decides the moments.
        tell: Is given a line about each kill.

    Returns:
        The content of ``kills.json``: ``kills``; and ``trainings``, with what differs in each.

    Raises:
        ExperimentError: A training ended by itself before its last step, or did not go on from a
            checkpoint that was there.
    """
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("undisturbed*", "killed-*", "config.yaml", "kills.json"):  # nothing else
        for path in out.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = run.model_dump(mode="json")
    (out / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    job = {"config": config, "mode": mode, "resume": True}
    tell("the undisturbed training")
    undisturbed, moments = out / "undisturbed", random.Random(seed)
    whole = _train(job, undisturbed)
    done: list[Kill] = []
    trainings: list[list[str]] = []  # of each finished one, the curves that differ
    while len(done) < kills or done[-1].training > len(trainings):
        number = len(trainings) + 1
        if number > _MOST_TRAININGS:
            raise ExperimentError(f"{len(trainings)} trainings were over before their kill")
        folder = out / f"killed-{number}"
        if len(done) == kills:  # the last training may go on to its end
            process = _train(job, folder)
        elif len(done) % 4 == 3:
            process = _train(job, folder, moments.uniform(0, whole.start_up + whole.steps / 2))
        else:
            process = _train(job, folder, moments.uniform(0, whole.steps / 2), from_start=False)
        if done and done[-1].training == number:
            done[-1].resumed_after = process.resumed_after
            refuse_another_start(done[-1], process.killed, folder)
        if process.killed:
            done.append(_found(number, folder))
            tell(f"kill {len(done)} of {kills}: {_sentence(done[-1], run.steps)}")
        else:
            trainings.append(differing(folder, undisturbed))
            if not trainings[-1]:
                shutil.rmtree(folder)
    finished = json.loads((undisturbed / RESULT).read_text(encoding="utf-8"))
    entry = {
        "experiment": run.name,
        "mode": mode,
        "steps": run.steps,
        "steps_between_checkpoints": config["checkpoints"]["every_steps"],
        "seed": seed,
        "kills": [dataclasses.asdict(kill) for kill in done],
        "trainings": [{"differing": names} for names in trainings],
    }
    content = results([entry], [finished["environment"]["device_target"]])
    write_json(out / "kills.json", content)
    return content


class _Process(NamedTuple):
    """A process that has ended: how, what it said, and the seconds to its first step and after."""

    killed: bool
    resumed_after: Optional[int]
    start_up: float
    steps: float


def _train(
    job: dict[str, Any],
    folder: Path,
    kill_after: float = threading.TIMEOUT_MAX,
    *,
    from_start: bool = True,
) -> _Process:
    """Trains from what is in a folder, until the end or a kill -9.

    Args:
        job: That of `training.work`, without the folder.
        folder: Its log has the same name.
        kill_after: Seconds.
        from_start: Whether they count from the start of the process, or from its first step.
    """
    log = folder.with_suffix(".log")
    content = {**job, "folder": str(folder)}
    began, first_step, resumed_after = time.monotonic(), None, None
    with start(Job(TRAINING, folder.name, content, log)) as process:
        killer = threading.Timer(kill_after, process.kill)
        killer.daemon = True  # Ctrl-C does not wait for it
        if from_start:
            killer.start()
        for line in process.stdout:
            event = json.loads(line)
            resumed_after = event.get("resumed_after", resumed_after)
            if event["event"] == "progress" and first_step is None:
                first_step = time.monotonic()
                if not from_start:
                    killer.start()
        killer.cancel()
    if process.returncode not in (0, -signal.SIGKILL):
        raise ExperimentError(
            f"the training '{folder.name}' ended with exit status {process.returncode}; its "
            f"messages: {log}"
        )
    ended = time.monotonic()
    first_step = first_step or ended
    killed = process.returncode != 0
    return _Process(killed, resumed_after, first_step - began, ended - first_step)


def _found(training: int, folder: Path) -> Kill:
    """Looks at what a killed process left."""
    losses, checkpoints = folder / LOSS, folder / CHECKPOINTS
    steps = (int(path.stem[len("step-") :]) for path in checkpoints.glob("step-*.ckpt"))
    return Kill(
        training,
        max(0, losses.read_bytes().count(b"\n") - 1) if losses.exists() else 0,
        max(steps, default=None),
        any(checkpoints.glob("unfinished*")),
    )


def _sentence(kill: Kill, steps: int) -> str:
    newest = "no checkpoint" if kill.checkpoint is None else f"checkpoint {kill.checkpoint}"
    half = ", one half written" if kill.half_written else ""
    return f"training {kill.training}, after step {kill.lines} of {steps}, {newest}{half}"


def refuse_another_start(kill: Kill, killed: bool, folder: Path) -> None:
    """Refuses a process that ignored its checkpoint: it would have the same curve anyway."""
    said_nothing_yet = killed and kill.resumed_after is None
    if kill.resumed_after != kill.checkpoint and not said_nothing_yet:
        raise ExperimentError(
            f"{folder}: had checkpoint {kill.checkpoint}, but the training went on after "
            f"{kill.resumed_after}"
        )


def differing(folder: Path, undisturbed: Path) -> list[str]:
    """Returns the names of the curves that differ in any byte."""
    return [
        name
        for name in _CURVES
        if (folder / name).read_bytes() != (undisturbed / name).read_bytes()
    ]
