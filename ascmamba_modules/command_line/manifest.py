"""``ascmamba manifest``: from a folder for each class to a manifest."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from ascmamba_modules.command_line.options import (
    SOME_FAILED,
    CommandError,
    add_skip_errors,
    add_subparser,
    check_output,
)
from ascmamba_modules.command_line.recordings import (
    add_group_option,
    class_folders,
    labelled_files,
)

_DESCRIPTION = """\
Writes the manifest of a folder that has a folder of audio files for each class,
or of the labels that 'ascmamba review' saves, to train on.  The cuts of a
recording are not divided between the splits: say with --group what tells them.
Prints the clips of each class and split, and the command that trains.
"""
_EXAMPLES = """\
  ascmamba manifest my_sounds/ --output my.csv
  ascmamba manifest my_sounds/ --output my.csv --group '^[^_]+' --times
  ascmamba manifest my_sounds/ --output my.csv --valid 0.3 --test 0
  ascmamba manifest --labels review.csv --output my.csv
"""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "manifest",
        "a manifest of your own recordings, to train on",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="the folder"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="FILE.csv",
        help="labels of 'ascmamba review', besides the folder's or alone",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE.csv", help="file to write"
    )
    for name, use in (("valid", "validate"), ("test", "test")):
        parser.add_argument(
            f"--{name}",
            type=_share,
            default=0.2,
            metavar="SHARE",
            help=f"share of the clips to {use} on (default: 0.2)",
        )
    add_group_option(parser)
    parser.add_argument(
        "--times",
        action="store_true",
        help="read the time of recording from names such as "
        "20230421_183000.WAV; it is the recorder's clock (an AudioMoth's is "
        "UTC unless it was set otherwise)",
    )
    add_skip_errors(parser)
    return parser


def _share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return value


_share.__name__ = "share"  # argparse: "invalid share value"


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    check_output(arguments.output, (".csv",), arguments.labels or ())
    shares = {"test": arguments.test, "valid": arguments.valid}
    if sum(shares.values()) >= 1:
        raise CommandError("--valid and --test leave nothing to train on")
    if not arguments.folder and not arguments.labels:
        raise CommandError("name a folder, or --labels")
    from ascmamba_modules.data.manifest import write_manifest
    from ascmamba_modules.data.place_and_time import time_in_name
    from ascmamba_modules.inference.file_batches import raise_problems

    table = _find_clips(arguments)
    if not arguments.skip_errors:
        raise_problems(list(table["wav"]), list(table["problem"]))
    bad = table[table["problem"] != ""]
    for row in bad.itertuples():
        print(f"ascmamba: {row.wav}: {row.problem}", file=sys.stderr)
    table = table[table["problem"] == ""]
    table["duration"] = table["duration"].round(3)
    if arguments.times:
        names = [os.path.basename(path) for path in table["wav"]]
        table["record_time"] = list(map(time_in_name, names))
        unknown = (table["record_time"] == "").sum()
        print(
            f"ascmamba: {unknown} of {len(table)} names tell no time",
            file=sys.stderr,
        )
    table["split"] = _splits(table, shares)
    write_manifest(table, arguments.output)
    _print(table, arguments.output)
    return SOME_FAILED if len(bad) else 0


def _find_clips(arguments):
    """Rows of the folder and of the labels; a label comes before a folder."""
    import pandas as pd

    tables = [
        labelled_files(path, arguments.group) for path in arguments.labels or ()
    ]
    if arguments.folder:
        tables.append(class_folders(arguments.folder, arguments.group))
    table = pd.concat(tables, ignore_index=True)
    differing = table.groupby("wav")["scene_label"].nunique()
    if differing.max() > 1:
        path = differing.idxmax()
        names = table.loc[table["wav"] == path, "scene_label"].unique()
        raise CommandError(
            f"{path} is labelled {' and '.join(names)}: leave one out"
        )
    return table.drop_duplicates("wav", ignore_index=True)


def _splits(table, shares):
    """The column ``split``: clips of a recording together."""
    from ascmamba_modules.data.sessions import find_sessions
    from ascmamba_modules.data.splits import split

    shares = {name: share for name, share in shares.items() if share}
    counts = find_sessions(table).groupby(table["scene_label"]).nunique()
    if len(counts) < 2:
        raise CommandError(
            f"there is one class only, {counts.index[0]}: a training needs two"
            if len(counts)
            else "no file can be used"
        )
    few = counts[counts <= len(shares)]
    if len(few):
        listed = ", ".join(f"'{name}' ({n})" for name, n in few.items())
        raise CommandError(
            f"too few recordings for {len(shares) + 1} splits: {listed}; "
            "record more, leave the class out, or say --test 0 or --valid 0"
        )
    table, rest = table.assign(split=""), 1.0
    for name, share in shares.items():
        column, _ = split(table, "session", share / rest)
        # "test" is no development split: the next round leaves it alone.
        table["split"] = column.replace("valid", name)
        rest -= share
    return table["split"].replace("", "train")


def _print(table, output):
    import pandas as pd

    from ascmamba_modules.data.manifest import TRAINING_SPLITS
    from ascmamba_modules.data.sessions import find_sessions

    counts = pd.crosstab(table["scene_label"], table["split"])
    names = [name for name in TRAINING_SPLITS if name in counts]
    recordings = find_sessions(table).groupby(table["scene_label"]).nunique()
    counts = counts[names].assign(recordings=recordings)
    counts.loc["all"] = counts.sum()
    print(counts.rename_axis(None).rename_axis(None, axis=1).to_string())
    for label, row in counts[names].iterrows():
        for name in row.index[row == 0]:
            print(
                f"ascmamba: '{label}' has no {name} clips: most of it is one "
                "recording",
                file=sys.stderr,
            )
    command = ["python", "train.py", "hparams/finetune.yaml"]
    command += ["--manifest", os.path.abspath(output)]
    command += ["--scene_labels", "null"]  # those of the manifest
    command += ["--output_folder", f"results/{Path(output).stem}"]
    print(f"\nTo train on it, in recipes/ASC:\n  {shlex.join(command)}")
