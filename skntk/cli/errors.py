"""What a command says when it cannot do what it was asked for."""


class CommandError(Exception):
    """Arguments or data that cannot be used; shown without a traceback."""
