"""``ascmamba teach``: own classes from a few clips."""

import os
import re
import sys
import time
from pathlib import Path

from ascmamba_modules.command_line.options import (
    CommandError,
    add_model_options,
    add_subparser,
    load_classifier,
)
from ascmamba_modules.command_line.recordings import audio_files, list_left_out

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
    add_model_options(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="model folder to write"
    )
    parser.add_argument(
        "--group",
        metavar="PATTERN",
        help="regular expression: files in whose names it finds the same text "
        "are cuts of one recording (default: each file is a recording)",
    )
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
        table = _folder_clips(arguments.clips, arguments.group)
    arguments.model = arguments.model or "sound_tags"
    classifier = load_classifier(arguments)
    from ascmamba_modules.data.sessions import find_sessions
    from ascmamba_modules.inference.teaching import teach

    score = teach(classifier, arguments.model, table, arguments.output)
    print(
        f"ascmamba: {len(table)} clips of {find_sessions(table).nunique()} "
        f"recordings, {time.monotonic() - start:.0f} s; macro accuracy on "
        f"recordings left out {score:.3f}; written to {arguments.output}",
        file=sys.stderr,
    )
    return 0


def _folder_clips(folder, group):
    import pandas as pd

    from ascmamba_modules.data.audio_files import inspect_audio
    from ascmamba_modules.data.manifest import COLUMNS

    try:
        pattern = re.compile(group or "")
    except re.error as error:
        raise CommandError(f"--group {group}: {error}") from None
    if not os.path.isdir(folder):
        raise CommandError(f"{folder}: no such folder")
    rows, left_out = [], {}
    for place in sorted(Path(folder).iterdir()):
        if not place.is_dir():
            continue
        for path in map(Path, audio_files(place, left_out)):
            found = pattern.search(path.stem) if group else None
            if group and not found:
                raise CommandError(f"--group {group} finds nothing in {path}")
            rows.append(
                {
                    "ID": str(path.relative_to(folder)),
                    "wav": str(path),
                    "duration": inspect_audio(path).duration,
                    "scene_label": place.name,
                    # Takes of the same name in two folders are two.
                    "session": f"{place.name} {found[0]}" if found else "",
                    "dataset": Path(folder).resolve().name,
                    "label_source": "human",
                }
            )
    if left_out:
        print(list_left_out(left_out, "ascmamba: "), file=sys.stderr)
    if not rows:
        raise CommandError(
            f"{folder}: no recordings in the folders in it; each is a class"
        )
    return pd.DataFrame(rows, columns=COLUMNS).fillna("")


def _manifest_clips(path):
    from ascmamba_modules.data.manifest import read_manifest

    table = read_manifest(path)
    used = table["split"].isin(["train", "valid", ""])
    return table[used & (table["scene_label"] != "")]
