"""``ascmamba classify``."""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    return subparsers.add_parser("classify")


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    raise NotImplementedError
