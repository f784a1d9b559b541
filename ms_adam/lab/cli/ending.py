"""How a command ends: exit statuses, and errors without a stack trace."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback

import typer

from ms_adam.lab.errors import UserError

NOT_HELD = 1
ERROR = 2
NOT_AVAILABLE = 3
INTERRUPTED = 130  # what shells give for Ctrl-C

DEBUG = typer.Option(False, "--debug", help="Show the stack trace of an error.")


@contextlib.contextmanager
def errors_told(debug: bool):
    """Turns what is raised within into one message and an exit status.

    SIGTERM is taken as Ctrl-C, so that worker processes are ended too.
    """

    def stop(*_) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "stopped", debug, INTERRUPTED)
    except (UserError, OSError) as error:
        _fail(str(error), debug)
    except Exception as error:  # a fault of ours; still no stack trace unless it is asked for
        _fail(f"{type(error).__name__}: {error} (--debug shows where)", debug)


def _fail(message: str, debug: bool, status: int = ERROR) -> None:
    if debug:
        traceback.print_exc()
    print(f"ms-adam: {message}", file=sys.stderr)
    raise typer.Exit(status)
