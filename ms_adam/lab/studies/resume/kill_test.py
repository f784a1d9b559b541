"""Kills a training at random moments, resumes it, and holds its curve to an uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import yaml

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.processes import Job, start
from ms_adam.lab.run.results import results, write_json

if TYPE_CHECKING:
    from ms_adam.lab.studies.resume.study import TrainingRun

_CURVES = ("loss.csv", "accuracy.csv")
_SECONDS_BETWEEN_LOOKS = 0.002
_MOST_TRAININGS = 1000  # one that is over before the kill makes room for the next

Tell = Callable[[str], None]


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
    run: TrainingRun, mode: str, out: Path, kills: int, seed: int, tell: Tell
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
    _clear(out)
    content = run.model_dump(mode="json")
    (out / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    tell("the undisturbed training")
    undisturbed = out / "undisturbed"
    start_up, steps = _undisturbed(run, mode, undisturbed)
    moments = random.Random(seed)
    done: list[Kill] = []
    trainings: list[list[str]] = []  # of each finished one, the curves that differ
    while len(done) < kills or done[-1].training > len(trainings):
        number = len(trainings) + 1
        if number > _MOST_TRAININGS:
            raise ExperimentError(f"{len(trainings)} trainings were over before their kill")
        folder = out / f"killed-{number}"
        process, log = _start(run, mode, folder)
        if len(done) == kills:  # the last training may go on to its end
            process.wait()
            killed = False
        elif len(done) % 4 == 3:
            killed = _kill_after(process, moments.uniform(0, start_up + steps / 2))
        else:
            _wait_for_a_step(process, folder)
            killed = _kill_after(process, moments.uniform(0, steps / 2))
        if done and done[-1].training == number:
            done[-1].resumed_after = _resumed_after(log)
            _refuse_another_start(done[-1], killed, folder)
        if killed:
            done.append(Kill(number, _lines(folder), _newest(folder), _half_written(folder)))
            tell(_sentence(done, kills, run))
        elif process.returncode != 0:
            raise _ended_early("a", process, log)
        else:
            trainings.append(differing(folder, undisturbed))
            if not trainings[-1]:
                shutil.rmtree(folder)
    finished = json.loads((undisturbed / "train.json").read_text(encoding="utf-8"))
    entry = {
        "experiment": run.name,
        "mode": mode,
        "steps": run.steps,
        "steps_between_checkpoints": run.checkpoints.every_steps,
        "seed": seed,
        "kills": [dataclasses.asdict(kill) for kill in done],
        "trainings": [{"differing": differing} for differing in trainings],
    }
    content = results([entry], [finished["environment"]["device_target"]])
    write_json(out / "kills.json", content)
    return content


def _clear(out: Path) -> None:
    """Removes an earlier kill test, and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("undisturbed*", "killed-*", "config.yaml", "kills.json"):
        for path in out.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sentence(done: list[Kill], kills: int, run: TrainingRun) -> str:
    kill = done[-1]
    newest = "no checkpoint" if kill.checkpoint is None else f"checkpoint {kill.checkpoint}"
    half = ", one half written" if kill.half_written else ""
    return (
        f"kill {len(done)} of {kills}: training {kill.training}, after step {kill.lines} of "
        f"{run.steps}, {newest}{half}"
    )


def _refuse_another_start(kill: Kill, killed: bool, folder: Path) -> None:
    """A process that ignored its checkpoint would have the same curve, and resume nothing."""
    said_nothing_yet = killed and kill.resumed_after is None
    if kill.resumed_after != kill.checkpoint and not said_nothing_yet:
        raise ExperimentError(
            f"{folder}: had checkpoint {kill.checkpoint}, but the training went on after "
            f"{kill.resumed_after}"
        )


def _start(run: TrainingRun, mode: str, folder: Path) -> tuple[subprocess.Popen, Path]:
    """A process, and the file of what it says."""
    log = folder.with_suffix(".log")
    content = {"config": run.model_dump(mode="json"), "mode": mode, "folder": str(folder)}
    job = Job("ms_adam.lab.studies.resume.training:work", folder.name, content, log)
    return start(job, events_to_log=True), log


def _undisturbed(run: TrainingRun, mode: str, folder: Path) -> tuple[float, float]:
    """Seconds before the first step, and from then to the end."""
    started = time.monotonic()
    process, log = _start(run, mode, folder)
    _wait_for_a_step(process, folder)
    first = time.monotonic()
    if process.wait() != 0:
        raise _ended_early("the undisturbed", process, log)
    return first - started, time.monotonic() - first


def _ended_early(which: str, process: subprocess.Popen, log: Path) -> ExperimentError:
    return ExperimentError(
        f"{which} training ended with exit status {process.returncode}; its messages: {log}"
    )


def _wait_for_a_step(process: subprocess.Popen, folder: Path) -> None:
    """Returns when the process has written a line of its own, or has ended."""
    log = folder / _CURVES[0]
    before = _size(log)
    while process.poll() is None:
        now = _size(log)
        # It first cuts off the lines after its checkpoint; a line more is a step.
        if now > before:
            return
        before = now
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """Kills a process unless it ends before that; whether it was killed."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


def _lines(folder: Path) -> int:
    path = folder / _CURVES[0]
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def _half_written(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("unfinished*"))


def _newest(folder: Path) -> Optional[int]:
    names = (folder / "checkpoints").glob("step-*.ckpt")
    return max((int(path.stem[len("step-") :]) for path in names), default=None)


def _resumed_after(log: Path) -> Optional[int]:
    match = re.search(r'"message": "goes on after step (\d+),', log.read_text(errors="replace"))
    return int(match[1]) if match else None


def differing(folder: Path, undisturbed: Path) -> list[str]:
    """Returns the names of the curves that differ in any byte."""
    return [
        name
        for name in _CURVES
        if (folder / name).read_bytes() != (undisturbed / name).read_bytes()
    ]
