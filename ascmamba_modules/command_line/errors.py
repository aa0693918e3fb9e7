"""How a subcommand says that it cannot go on."""

ERROR = 2
SOME_FAILED = 1


class CommandError(Exception):
    """Stops the command with exit code 2 and one message.

    Arguments
    ---------
    message : str
        What is wrong and the remedy; printed after "ascmamba: error: ".

    Example
    -------
    >>> raise CommandError("clip.wav: file not found")
    Traceback (most recent call last):
        ...
    ascmamba_modules.command_line.errors.CommandError: clip.wav: file not found
    """
