"""The checkpoint files of a training: complete or absent, and damage is detected.

A file is written under another name, synced to disk, and renamed. It ends with the CRC32 that
MindSpore writes under ``crc_check=True``, which detects a file that was cut short or changed. It is
an ordinary checkpoint, which `mindspore.load_checkpoint` reads too.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, Optional

import mindspore
import numpy as np

from ms_adam.checkpoint import crc, read
from ms_adam.lab.errors import ExperimentError

_NAME = re.compile(r"^step-(\d{8,})\.ckpt$")
_DESCRIPTION = "training_run"  # an entry: JSON as uint8, which every version of MindSpore keeps


class CheckpointError(ExperimentError):
    """All checkpoints of a folder are damaged."""


class Checkpoint(NamedTuple):
    """A checkpoint, read back; see `CheckpointFiles.save` for its attributes."""

    path: Path
    step: int
    parameters: dict[str, Any]
    description: dict[str, Any]


class CheckpointFiles:
    """The checkpoints in one folder; one process at a time may write them.

    Args:
        folder: Made when something is saved.
        keep: Number of files kept; older ones are removed after a newer one is on the disk.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self._keep = keep

    def save(self, step: int, parameters: dict[str, Any], description: dict[str, Any]) -> Path:
        """Writes a checkpoint, which is complete on the disk when this returns.

        Args:
            step: Number of steps that have been made; part of the name.
            parameters: {name: Parameter} of model and optimizer.
            description: Plain values that describe the training.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = [{"name": name, "data": parameter} for name, parameter in parameters.items()]
        text = np.frombuffer(json.dumps(description).encode(), np.uint8).copy()
        entries.append({"name": _DESCRIPTION, "data": mindspore.Tensor(text)})
        unfinished = self.folder / "unfinished.ckpt"
        mindspore.save_checkpoint(entries, str(unfinished), crc_check=True)
        _to_disk(unfinished)
        path = self.folder / f"step-{step:08d}.ckpt"
        os.replace(unfinished, path)
        _to_disk(self.folder)  # the new name too
        for old in self.paths()[self._keep :]:
            old.unlink()
        return path

    def paths(self) -> list[Path]:
        """Returns the finished files, the newest first."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if _NAME.match(path.name))
        return sorted(found, key=_step_of, reverse=True)

    def newest_good(self) -> tuple[Optional[Checkpoint], list[str]]:
        """Reads the newest checkpoint that is not damaged.

        Damaged ones get the ending ``.damaged``, and do not count as files that are kept.

        Returns:
            The checkpoint, or None if there is no file; and a message about each damaged file.

        Raises:
            CheckpointError: There are files, and all are damaged.
        """
        messages = []
        for path in self.paths():
            try:
                return _read(path), messages
            except ValueError as error:
                path.rename(path.with_name(path.name + ".damaged"))
                messages.append(f"{error}; it is called {path.name}.damaged now")
        if messages:
            raise CheckpointError(
                "no checkpoint can be used (to start anew, leave --resume out and name another "
                "folder):" + "".join(f"\n  {message}" for message in messages)
            )
        return None, messages


def _read(path: Path) -> Checkpoint:
    if crc(path) is None:  # the mark of the CRC is damaged, or the file is not one of ours
        raise ValueError(f"{path}: is damaged: it does not end with a CRC")
    parameters = read(path)
    if _DESCRIPTION not in parameters:
        raise ValueError(f"{path}: is no checkpoint of ms-adam reproduce")
    description = json.loads(parameters.pop(_DESCRIPTION).asnumpy().tobytes())
    return Checkpoint(path, _step_of(path), parameters, description)


def _step_of(path: Path) -> int:
    return int(_NAME.match(path.name)[1])


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
