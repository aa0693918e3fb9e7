"""``ascmamba export``."""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    return subparsers.add_parser("export")


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    raise NotImplementedError
