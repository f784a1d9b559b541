"""What a worker does besides its work: it takes a job, tells how it goes, and enters a mode.

Graph mode and PyNative mode are settings of a whole process, so each gets its own. The runner
writes one JSON job to standard input; the worker answers on standard output, an object a line:

    {"event": "progress", "done": steps of all runs so far}
    {"event": "run", "done": ..., "optimizer", "mode", "seed", "file", "device_target", ...facts}
    {"event": "failed", "message": ...}          the last line, if something went wrong

What MindSpore itself prints goes to standard error, which the runner keeps as a log.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from typing import Callable, Optional

from ms_adam.lab.errors import UserError

_SECONDS_BETWEEN_REPORTS = 0.2
_HEADING = re.compile(r"^-{10,}\n- .*\n-{10,}$", re.MULTILINE)


class Events:
    """Standard output for events alone; whatever else prints, C++ included, goes to the log."""

    def __init__(self):
        kept = os.dup(sys.stdout.fileno())
        self._stream = os.fdopen(kept, "w", encoding="utf-8", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._last_progress = 0.0

    def send(self, event: str, **values) -> None:
        self._stream.write(json.dumps({"event": event, **values}) + "\n")

    def progress(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _SECONDS_BETWEEN_REPORTS:
            self._last_progress = now
            self.send("progress", done=done)


def serve(work: Callable[[dict, Events], None]) -> int:
    """Does one job and tells how it went; the exit status of the process."""
    events = Events()
    try:
        work(json.load(sys.stdin), events)
    except Exception as error:  # the boundary of the process: told to the runner, trace to the log
        traceback.print_exc()
        named = isinstance(error, UserError)  # its message needs no name of a class
        message = told(error) if named else f"{type(error).__name__}: {told(error)}"
        events.send("failed", message=message)
        return 1
    return 0


def told(error: BaseException) -> str:
    """What an error says, without the sections that MindSpore adds (call stacks; the log has them).

    A section is a heading between two lines of hyphens, and what follows it.
    """
    before, *sections = _HEADING.split(str(error))
    return (before.strip() or "".join(sections[:1]).strip()) or type(error).__name__


def enter(mode: str, options: Optional[dict] = None) -> None:
    """Puts the process into a mode, once and for all, on the device that MindSpore chooses.

    Args:
        mode: "graph" or "pynative".
        options: Of ``mindspore.set_context``, in place of what is set here.
    """
    import mindspore

    if mode == "graph":
        settings = {"mode": mindspore.GRAPH_MODE}
    else:
        # On two cores, launching operators one after the other in the calling thread is ten times
        # quicker than handing each small one to another thread and waiting; the numbers are equal.
        settings = {"mode": mindspore.PYNATIVE_MODE, "pynative_synchronize": True}
    mindspore.set_context(**{**settings, **(options or {})})
