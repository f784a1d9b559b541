"""A CSV file with a line for each step, to which a resumed training appends."""

from __future__ import annotations

import os
from pathlib import Path


class StepLog:
    """Appends lines; the first column is the step. Use as a context manager.

    A line survives the process when `write` returns, and the machine when `sync` returns.

    Args:
        path: The file; made if it is missing.
        columns: Their names. The first is "step".
        step: Lines of later steps are cut off, and so is everything after an incomplete line.

    Attributes:
        last_step: The step of the last line that was left; less than `step` if lines are missing.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], step: int):
        header = ",".join(columns).encode() + b"\n"
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._file.seek(0)
        first, *lines = self._file.read().splitlines(keepends=True) or [b""]
        self.last_step, end = 0, len(header)
        for line in lines if first == header else ():
            number, *others = line.split(b",")
            whole = line.endswith(b"\n") and len(others) == len(columns) - 1
            if not (whole and number.isdigit() and self.last_step < int(number) <= step):
                break
            self.last_step, end = int(number), end + len(line)
        if first == header:
            self._file.truncate(end)
        else:
            self._file.truncate(0)
            self._file.write(header)

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, *values) -> None:
        """Appends a line. float32 values are read back exactly."""
        self._file.write(",".join(map(str, values)).encode() + b"\n")

    def sync(self) -> None:
        os.fsync(self._file.fileno())
