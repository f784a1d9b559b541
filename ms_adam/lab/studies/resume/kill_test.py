"""Kills a training at random moments, resumes it, and compares its curves with undisturbed ones."""

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
from typing import Any, Callable, Optional

import yaml

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.config import InBatches
from ms_adam.lab.run.processes import Job, start
from ms_adam.lab.run.results import results, write_json

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
    run: InBatches, mode: str, out: Path, kills: int, seed: int, tell: Tell
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
    config = run.model_dump(mode="json")
    (out / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tell("the undisturbed training")
    undisturbed, started = _Training(config, mode, out / "undisturbed"), time.monotonic()
    undisturbed.wait_for_a_step()
    start_up = time.monotonic() - started
    undisturbed.wait_for_the_end()
    steps = time.monotonic() - started - start_up
    moments = random.Random(seed)
    done: list[Kill] = []
    trainings: list[list[str]] = []  # of each finished one, the curves that differ
    while len(done) < kills or done[-1].training > len(trainings):
        number = len(trainings) + 1
        if number > _MOST_TRAININGS:
            raise ExperimentError(f"{len(trainings)} trainings were over before their kill")
        training = _Training(config, mode, out / f"killed-{number}")
        killed = False
        if len(done) == kills:  # the last training may go on to its end
            training.process.wait()
        elif len(done) % 4 == 3:
            killed = training.kill_after(moments.uniform(0, start_up + steps / 2))
        else:
            training.wait_for_a_step()
            killed = training.kill_after(moments.uniform(0, steps / 2))
        if done and done[-1].training == number:
            done[-1].resumed_after = training.resumed_after()
            refuse_another_start(done[-1], killed, training.folder)
        if killed:
            done.append(training.as_killed(number))
            tell(_sentence(done, kills, run.steps))
        else:
            training.wait_for_the_end()
            trainings.append(differing(training.folder, undisturbed.folder))
            if not trainings[-1]:
                shutil.rmtree(training.folder)
    finished = json.loads((undisturbed.folder / "train.json").read_text(encoding="utf-8"))
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


class _Training:
    """A process that trains in a folder, from what is there."""

    def __init__(self, config: dict[str, Any], mode: str, folder: Path):
        self.folder, self._log = folder, folder.with_suffix(".log")
        content = {"config": config, "mode": mode, "folder": str(folder)}
        job = Job("ms_adam.lab.studies.resume.training:work", folder.name, content, self._log)
        self.process = start(job, events_to_log=True)

    def wait_for_a_step(self) -> None:
        """Returns when the process has written a line of its own, or has ended."""
        before = self._size()
        while self.process.poll() is None:
            now = self._size()
            # It first cuts off the lines after its checkpoint; a line more is a step.
            if now > before:
                return
            before = now
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def wait_for_the_end(self) -> None:
        if self.process.wait() != 0:
            raise ExperimentError(
                f"the training '{self.folder.name}' ended with exit status "
                f"{self.process.returncode}; its messages: {self._log}"
            )

    def kill_after(self, seconds: float) -> bool:
        """Kills the process unless it ends before that; whether it was killed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        return self.process.returncode == -signal.SIGKILL

    def as_killed(self, number: int) -> Kill:
        lines, checkpoints = self.folder / _CURVES[0], self.folder / "checkpoints"
        names = checkpoints.glob("step-*.ckpt")
        return Kill(
            number,
            max(0, lines.read_bytes().count(b"\n") - 1) if lines.exists() else 0,
            max((int(path.stem[len("step-") :]) for path in names), default=None),
            any(checkpoints.glob("unfinished*")),
        )

    def resumed_after(self) -> Optional[int]:
        said = self._log.read_text(errors="replace")
        match = re.search(r'"message": "goes on after step (\d+),', said)
        return int(match[1]) if match else None

    def _size(self) -> int:
        try:
            return (self.folder / _CURVES[0]).stat().st_size
        except FileNotFoundError:
            return 0


def _clear(out: Path) -> None:
    """Removes an earlier kill test, and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("undisturbed*", "killed-*", "config.yaml", "kills.json"):
        for path in out.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sentence(done: list[Kill], kills: int, steps: int) -> str:
    kill = done[-1]
    newest = "no checkpoint" if kill.checkpoint is None else f"checkpoint {kill.checkpoint}"
    half = ", one half written" if kill.half_written else ""
    return (
        f"kill {len(done)} of {kills}: training {kill.training}, after step {kill.lines} of "
        f"{steps}, {newest}{half}"
    )


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
