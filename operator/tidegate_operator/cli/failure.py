"""The one error that the command line shows as a line of its own."""


class CommandError(Exception):
    """What a person can act on: which file, setting or request, and what was wrong with it."""
