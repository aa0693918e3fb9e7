"""The command ``ascmamba``.

Each subcommand is a module of its name with ``add_parser(subparsers)``, which
describes its arguments, and ``run(arguments)``, which returns the exit code
or raises :class:`~ascmamba_modules.command_line.options.CommandError`.  Only
``run`` imports PyTorch, so that ``--help`` and wrong usage answer at once.

Exit codes: 0, all is well; 1, it ran through but some files failed, and were
reported; 2, wrong usage or input, or a failure that stopped the run; 130,
interrupted from the keyboard.
"""

import argparse
import importlib
import os
import re
import sys

from ascmamba_modules import __version__
from ascmamba_modules.command_line.options import ERROR, CommandError
from ascmamba_modules.utils.files import printable

_SUBCOMMANDS = (
    *("classify", "timeline", "listen", "manifest", "teach"),
    *("review", "info", "export"),
)
_INTERRUPTED = 130
_EXIT_CODES = """\
exit codes:
  0    all is well
  1    some files failed and were reported
  2    wrong usage or input; nothing more was done
  130  interrupted from the keyboard
"""


def main(argv=None):
    """Runs the command.

    Arguments
    ---------
    argv : list, optional
        Arguments; those of the process if None.

    Returns
    -------
    int
        The exit code.

    Example
    -------
    >>> main(["classify"])  # doctest: +SKIP
    2
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help and wrong usage
        return stop.code
    if hasattr(sys.stdout, "reconfigure"):  # names of files that are no UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        return arguments.run(arguments)
    except (CommandError, ValueError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            # Who reads the output has had enough, as `| head` has.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ERROR
        text = "\n".join(map(printable, f"{error}".split("\n")))
        print(f"ascmamba: error: {text}", file=sys.stderr)
        return ERROR
    except RuntimeError as error:
        # CUDA's "out of memory", and "can't allocate memory" on a CPU.
        if not re.search("(out of|allocate) memory", f"{error}"):
            raise
        print(
            "ascmamba: error: not enough memory, take a smaller --batch-size: "
            + f"{error}".splitlines()[0],
            file=sys.stderr,
        )
        return ERROR
    except KeyboardInterrupt:
        print("ascmamba: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser():
    parser = argparse.ArgumentParser(
        prog="ascmamba",
        description="Acoustic scene classification with a trained model.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"ascmamba {__version__}"
    )
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for name in _SUBCOMMANDS:
        module = importlib.import_module(f"{__name__}.{name}")
        module.add_parser(subparsers)
        subparsers.choices[name].set_defaults(run=module.run)
    return parser
