"""The error that commands show without a stack trace."""


class UserError(Exception):
    """Something that the user can put right; the message says what was given and what is allowed."""
