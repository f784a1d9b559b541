"""Keeps the wrappers of `follow` out of the traceback with which a watched script ends."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType
from typing import Optional

_OURS = os.path.dirname(__file__) + os.sep
# Functions of `follow` that call what the script called, which may refuse the arguments.
_PASSING_ON = ("run", "wrapped", "__new__")


def hide() -> None:
    """Takes our frames out of what the present hooks for uncaught exceptions are given.

    A hook that the script sets afterwards takes the place of ours.
    """
    of_process, of_thread = sys.excepthook, threading.excepthook

    def excepthook(kind, error, trace):
        cut(error)
        of_process(kind, error, without_ours(trace))

    def thread_excepthook(arguments):
        cut(arguments.exc_value)
        trace = without_ours(arguments.exc_traceback)
        kind, error, thread = arguments.exc_type, arguments.exc_value, arguments.thread
        of_thread(threading.ExceptHookArgs((kind, error, trace, thread)))

    sys.excepthook, threading.excepthook = excepthook, thread_excepthook


def cut(error: Optional[BaseException]) -> None:
    """Takes our frames out of the traceback of an error and of those that it is printed with."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if one is None or any(one is other for other in seen):
            continue
        seen.append(one)
        one.__traceback__ = without_ours(one.__traceback__)
        left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def without_ours(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """A traceback without our frames; all of it if the error is one of ours."""
    kept, code, entry = [], None, trace
    while entry is not None:
        code = entry.tb_frame.f_code
        if not code.co_filename.startswith(_OURS):
            kept.append(entry)
        entry = entry.tb_next
    if not kept or (code.co_filename.startswith(_OURS) and code.co_name not in _PASSING_ON):
        return trace
    for entry, following in zip(kept, [*kept[1:], None]):
        entry.tb_next = following
    return kept[0]
