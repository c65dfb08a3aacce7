"""Errors that are the user's to mend: the command line prints them in one sentence and exits with 2."""


class UsageError(Exception):
    """What was asked for cannot be done as asked; the message names the input, its value and what is allowed."""
