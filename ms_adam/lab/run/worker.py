"""The worker's side of a worker process: it takes a job, reports events, and enters a mode.

Graph mode and PyNative mode are settings of a whole process, so each gets its own:
``python -m ms_adam.lab.run.worker``. The parent writes one JSON line to standard input:

    {"call": "module:function", "job": {...}}

The function is called with the job and an `Events`. The worker answers on standard output, one JSON
object a line; each has the key ``event``:

    {"event": "progress", "done": steps of all runs so far}
    {"event": "failed", "message": ...}          the last line, after an error

All other events are the function's own. Further lines on standard input are requests, see
`Events.requests`. What MindSpore and others print goes to standard error, which the parent keeps as
a log; the module is imported after this redirection.
"""

from __future__ import annotations

import importlib
import json
import operator
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Optional

from ms_adam.lab.errors import UserError

_SECONDS_BETWEEN_REPORTS = 0.2
_HEADING = re.compile(r"^-{10,}\n- .*\n-{10,}$", re.MULTILINE)


class Events:
    """Standard output, for events only; other output, that of C++ too, goes to the log."""

    def __init__(self):
        kept = os.dup(sys.stdout.fileno())
        self._stream = os.fdopen(kept, "w", encoding="utf-8", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._last_progress = 0.0

    def send(self, event: str, **values) -> None:
        """Sends an event with plain values."""
        self._stream.write(json.dumps({"event": event, **values}) + "\n")

    def progress(self, done: int, **values) -> None:
        """Sends the event "progress", at most five times a second."""
        now = time.monotonic()
        if now - self._last_progress >= _SECONDS_BETWEEN_REPORTS:
            self._last_progress = now
            self.send("progress", done=done, **values)

    def requests(self) -> Iterator[Any]:
        """Yields what `Worker.ask` sends, until the parent closes the stream."""
        for line in iter(sys.stdin.readline, ""):
            yield json.loads(line)


def main() -> int:
    """Does one job; returns the exit status of the process."""
    events = Events()
    try:
        given = json.loads(sys.stdin.readline())
        module, _, function = given["call"].partition(":")
        call = operator.attrgetter(function or "work")(importlib.import_module(module))
        call(given["job"], events)
    except Exception as error:  # the boundary of the process: message to the parent, trace to log
        traceback.print_exc()
        events.send("failed", message=message_of(error))
        return 1
    return 0


def message_of(error: BaseException) -> str:
    """Returns an error's class and message; of a UserError only the message."""
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return name + short_message(error)


def short_message(error: BaseException) -> str:
    """Returns an error's message without the sections that MindSpore adds.

    A section is a heading between two lines of hyphens and the text below it, such as a call stack.
    The log has them.
    """
    before, *sections = _HEADING.split(str(error))
    return (before.strip() or "".join(sections[:1]).strip()) or type(error).__name__


def enter(mode: str, options: Optional[dict] = None) -> None:
    """Puts the process into mode "graph" or "pynative", once, on the device that MindSpore chooses.

    The options are those of ``mindspore.set_context``; they replace the ones that are set here.
    """
    import mindspore

    settings = {"mode": mindspore.GRAPH_MODE}
    if mode == "pynative":
        # On two cores, launching operators one after the other in the calling thread is ten times
        # quicker than handing each small one to another thread and waiting; the numbers are equal.
        settings = {"mode": mindspore.PYNATIVE_MODE, "pynative_synchronize": True}
    mindspore.set_context(**{**settings, **(options or {})})


if __name__ == "__main__":
    sys.exit(main())
