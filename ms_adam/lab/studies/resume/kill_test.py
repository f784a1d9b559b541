"""Kills a training at random moments, resumes it, and compares its curves with undisturbed ones."""

from __future__ import annotations

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


def kill_test(
    run: InBatches, mode: str, out: Path, kills: int, seed: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Trains once undisturbed, then again and again with kill -9 and a resume.

    Three kills in four come while steps are made, after a number of steps and a part of one, so
    that a busy machine changes little; the fourth at any moment since the process started, when it
    reads its data or its checkpoint. The seed decides the moments. A training that
    gets to its end is compared with the undisturbed one, and the next begins. Many checkpoints make
    more kills meet the writing of one.

    The folder gets ``undisturbed``, ``killed-1`` and so on, ``config.yaml`` and ``kills.json``;
    those of an earlier test are removed.

    Returns:
        The content of ``kills.json``: ``kills``, see `_found`; and ``trainings``, with what differs
        in each, see `differing`.

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
    done: list[dict[str, Any]] = []
    trainings: list[list[str]] = []  # of each finished one, the curves that differ
    while len(done) < kills or done[-1]["training"] > len(trainings):
        number = len(trainings) + 1
        if number > _MOST_TRAININGS:
            raise ExperimentError(f"{len(trainings)} trainings were over before their kill")
        folder = out / f"killed-{number}"
        if len(done) == kills:  # the last training may go on to its end
            process = _train(job, folder)
        elif len(done) % 4 == 3:
            process = _train(job, folder, moments.uniform(0, whole.start_up + whole.steps / 2))
        else:
            after_steps = moments.randint(1, max(1, run.steps // 2))
            a_step = whole.steps / run.steps
            process = _train(job, folder, moments.uniform(0, a_step), after_steps)
        if done and done[-1]["training"] == number:
            done[-1]["resumed_after"] = process.resumed_after
            refuse_another_start(done[-1], process.killed, folder)
        if process.killed:
            done.append(kill := _found(number, folder))
            newest = f"checkpoint {kill['checkpoint']}" if kill["checkpoint"] else "no checkpoint"
            tell(
                f"kill {len(done)} of {kills}: training {number}, after step {kill['lines']} of "
                f"{run.steps}, {newest}{', one half written' if kill['half_written'] else ''}"
            )
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
        "kills": done,
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
    after_steps: int = 0,
) -> _Process:
    """Trains from what is in a folder, until the end or a kill -9 after so many seconds.

    They count from the moment when the process has made so many steps; without any, from its start.
    The job is that of `training.work`, without the folder.
    """
    log = folder.with_suffix(".log")
    content = {**job, "folder": str(folder)}
    began, first_step, resumed_after = time.monotonic(), None, None
    steps = 0
    with start(Job(TRAINING, folder.name, content, log)) as process:
        killer = threading.Timer(kill_after, process.kill)
        killer.daemon = True  # Ctrl-C does not wait for it
        if not after_steps:
            killer.start()
        try:
            for line in process.stdout:
                event = json.loads(line)
                resumed_after = event.get("resumed_after", resumed_after)
                if event["event"] == "progress":
                    first_step = first_step or time.monotonic()
                    steps += 1
                    if steps == after_steps:
                        killer.start()
        except BaseException:  # Ctrl-C, which does not reach the process
            process.kill()
            raise
        finally:
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


def _found(training: int, folder: Path) -> dict[str, Any]:
    """Looks at what the kill of a training left.

    Returns:
        ``training``, its number, from 1; ``lines``, whole ones in its loss.csv; ``checkpoint``, the
        step of its newest one, or None; ``half_written``, whether another was being written; and
        ``resumed_after``, the step after which the next process says that it goes on, None until
        then: it may start at the first step, or be killed before it says anything.
    """
    losses, checkpoints = folder / LOSS, folder / CHECKPOINTS
    steps = (int(path.stem[len("step-") :]) for path in checkpoints.glob("step-*.ckpt"))
    return {
        "training": training,
        "lines": max(0, losses.read_bytes().count(b"\n") - 1) if losses.exists() else 0,
        "checkpoint": max(steps, default=None),
        "half_written": any(checkpoints.glob("unfinished*")),
        "resumed_after": None,
    }


def refuse_another_start(kill: dict[str, Any], killed: bool, folder: Path) -> None:
    """Refuses a process that ignored its checkpoint: it would have the same curve anyway."""
    there, after = kill["checkpoint"], kill["resumed_after"]
    said_nothing_yet = killed and after is None
    if after != there and not said_nothing_yet:
        raise ExperimentError(
            f"{folder}: had checkpoint {there}, but the training went on after {after}"
        )


def differing(folder: Path, undisturbed: Path) -> list[str]:
    """Returns the names of the curves, and of the last checkpoint, that differ in any byte.

    The losses depend neither on averages of the weights nor on a loss scale that is a power of 2.
    """
    last = max((undisturbed / CHECKPOINTS).glob("step-*.ckpt"), default=None)
    names = _CURVES if last is None else (*_CURVES, f"{CHECKPOINTS}/{last.name}")
    return [
        name for name in names if (folder / name).read_bytes() != (undisturbed / name).read_bytes()
    ]
