"""The errors that commands show without a stack trace."""


class UserError(Exception):
    """The user can correct this; the message says what was given and what is allowed."""


class ExperimentError(UserError):
    """A config that cannot be run, or a run that ended early."""


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C; the message says what was kept and where it can go on."""
