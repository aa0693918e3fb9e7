"""``ascmamba teach``: own classes from a few clips."""

import os
import sys
import time

from ascmamba_modules.command_line.options import (
    CommandError,
    add_model_options,
    add_subparser,
    load_classifier,
)
from ascmamba_modules.command_line.recordings import (
    add_group_option,
    class_folders,
)

_DESCRIPTION = """\
Gives a model classes of your own, learned from a few clips of each.  The model
itself stays as it is; a linear classifier is fitted to what it hears.  The
result is a model folder for every other command.

How much the classifier is regularised is chosen by leaving recordings out, and
so is the score measured that is printed.
"""
_EXAMPLES = """\
  ascmamba teach my_sounds/ --output my_model     # a folder for each class
  ascmamba teach my_sounds/ --output my_model --group '^[^_]+'
  ascmamba teach manifest.csv --model results/finetune/1986 --output my_model
"""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "teach",
        "own classes from a few clips",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "clips",
        metavar="FOLDER|MANIFEST",
        help="folder with a folder of audio files for each class, or a "
        "manifest (.csv), whose test clips are left out",
    )
    add_model_options(parser, default="sound_tags")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="model folder to write"
    )
    add_group_option(parser)
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    start = time.monotonic()
    if os.path.exists(arguments.output):
        raise CommandError(f"--output: {arguments.output} exists already")
    if arguments.clips.lower().endswith(".csv"):
        if arguments.group is not None:
            raise CommandError(
                "--group is for folders; a manifest has the column session"
            )
        table = _manifest_clips(arguments.clips)
    else:
        table = class_folders(arguments.clips, arguments.group)
    arguments.model = arguments.model or "sound_tags"
    classifier = load_classifier(arguments)
    from ascmamba_modules.data.sessions import find_sessions
    from ascmamba_modules.teaching import teach

    score = teach(classifier, arguments.model, table, arguments.output)
    print(
        f"ascmamba: {len(table)} clips of {find_sessions(table).nunique()} "
        f"recordings, {time.monotonic() - start:.0f} s; macro accuracy on "
        f"recordings left out {score:.3f}; written to {arguments.output}",
        file=sys.stderr,
    )
    return 0


def _manifest_clips(path):
    from ascmamba_modules.data.manifest import read_manifest

    table = read_manifest(path)
    used = table["split"].isin(["train", "valid", ""])
    return table[used & (table["scene_label"] != "")]
