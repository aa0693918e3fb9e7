"""``ascmamba info``."""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    return subparsers.add_parser("info")


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    raise NotImplementedError
