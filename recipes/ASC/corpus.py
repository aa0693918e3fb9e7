"""What the preparation of every corpus does: find, check, split, report."""

import argparse
import logging
import os
import sys
from pathlib import Path

import pandas as pd
from speechbrain.utils.logger import get_logger

from ascmamba_modules.data.audio_files import inspect_audio_files
from ascmamba_modules.data.manifest import ManifestError, write_manifest
from ascmamba_modules.data.splits import (
    SPLITS,
    split as split_by,
)
from ascmamba_modules.utils.files import write_csv

logger = get_logger(__name__)

SYNTHETIC = "SYNTHETIC.txt"
# What is known of the licences, by the names in the column dataset.
LICENCES = {
    "TAU 2020 Mobile": "non-commercial use only (Zenodo 3819968)",
    "CAS 2023": "metadata MIT; audio not known (Zenodo 10616533)",
    "CochlScene": "not known (Zenodo 7080122)",
    "ESC-10": "Creative Commons Attribution 3.0",
}
UNIFIED_SCENES = Path(__file__).with_name("unified_scenes.csv")
# A clip of another length than most by more than this share is reported.
_USUAL_DURATION = 0.1


def find_corpus(folder, name, wanted, instructions):
    """Finds a corpus in a folder or one level below it, where it is called
    ``name``, by the files and folders that it holds.  Raises a
    FileNotFoundError that says what was expected and what was found."""
    folder = Path(folder).absolute()
    for place in (folder, folder / name):
        if all((place / part).exists() for part in wanted):
            return place
    place = folder / name if (folder / name).is_dir() else folder
    found = "there is no such folder"
    if place.is_dir():
        names = sorted(path.name for path in place.iterdir())
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        found = f"found {', '.join(names[:8]) or 'nothing'}{more}"
    raise FileNotFoundError(
        f"{place}: expected {' and '.join(wanted)}, {found}.\n{instructions}"
    )


def wave_files(folder, pattern):
    """Lists the WAVE files of a corpus, whatever the case of their suffix.

    Without the ``._`` files that macOS writes beside others on foreign
    disks.
    """
    return [
        path
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() == ".wav" and not path.name.startswith(".")
    ]


def find_file(path):
    """Finds a file of a corpus' table, whose suffix may be written in the
    other case; gives the path as it is if there is none."""
    other = path.with_suffix(path.suffix.swapcase())
    return other if other.exists() and not path.exists() else path


def provenance(folder, dataset):
    """Says what a corpus is and where its labels are from: ``dataset`` and
    ``label_source`` of its clips.  Those of the demo (``SYNTHETIC.txt`` lies in
    the folder or beside it) are synthetic."""
    if any((place / SYNTHETIC).exists() for place in (folder, folder.parent)):
        return {"dataset": f"synthetic {dataset}", "label_source": "synthetic"}
    return {"dataset": dataset, "label_source": "human"}


def read_table(path, columns, separator=","):
    """Reads columns of a corpus' own CSV file, UTF-8 with or without a
    byte-order mark, as stripped texts, and ``line``, the line in the file.
    Raises a ManifestError if it is not a CSV file with these columns."""
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
        )
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        raise ManifestError(path, [f"not a CSV file: {error}"])
    missing = [name for name in columns if name not in table]
    if missing:
        raise ManifestError(
            path,
            [
                f"missing column '{name}'; the first line is "
                f"{separator.join(map(str, table.columns))!r}"
                for name in missing
            ],
        )
    table = table[list(columns)].fillna("").map(str.strip)
    table["line"] = table.index + 2
    return table[table[columns[0]] != ""].reset_index(drop=True)


def check_no_duplicates(path, table):
    """Raises a ManifestError if two lines of a table from :func:`read_table`
    have the same filename."""
    first = table.drop_duplicates("filename").set_index("filename")["line"]
    again = table[table.duplicated("filename")]
    problems = [
        f"line {row.line}: second row for {row.filename}, first on line "
        f"{first[row.filename]}"
        for row in again.itertuples()
    ]
    if problems:
        raise ManifestError(path, problems)


def check_output(output):
    """Raises an OSError, before any work, if a file cannot be written."""
    output = Path(output).absolute()
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise PermissionError(f"--output {output}: the folder is read-only")


def drop_unusable_clips(table, output, max_problems, problems=()):
    """Checks all audio files and leaves out those that cannot be used; gives
    the rows that stay, with their duration in seconds.

    Beside the manifest stand ``*_problems.csv``, which names each clip that
    is left out and each odd one, and ``*_audio.csv``, with which a second
    run skips what has not changed.  ``problems`` were found already:
    dictionaries with ID, wav and problem.  Raises a ManifestError if more than
    the share ``max_problems`` is unusable; the report is written all the same.
    """
    output = Path(output)
    total = len(table) + len(problems)
    index = output.with_name(f"{output.stem}_audio.csv")
    report = output.with_name(f"{output.stem}_problems.csv")
    found = inspect_audio_files(table["wav"], index).set_index(table.index)
    table = table.assign(
        duration=found["duration"].round(3), problem=found["problem"]
    )
    usable = table["problem"] == ""
    usual = table.loc[usable, "duration"].median()
    odd = usable & ((table["duration"] / usual - 1).abs() > _USUAL_DURATION)
    table.loc[odd, "problem"] = [
        f"{seconds:.2f} s long, most are {usual:.2f} s"
        for seconds in table.loc[odd, "duration"]
    ]
    table["left_out"] = ~usable
    found_before = pd.DataFrame(problems, columns=["ID", "wav", "problem"])
    found_before["left_out"] = True
    rows = pd.concat([found_before, table[~usable], table[odd]])
    write_csv(rows[["ID", "wav", "problem", "left_out"]], report)

    bad = rows["left_out"].sum()
    if bad > max_problems * total:
        lines = [f"{row.ID}: {row.problem}" for row in rows.itertuples()]
        raise ManifestError(
            report,
            [
                f"{bad} of {total} clips cannot be used. If the download is "
                "not complete fetch the rest; to go on without them pass "
                f"--max-problems {min(1, bad / total + 0.005):.2f}",
                *lines[:bad],
            ],
        )
    if len(rows):
        logger.warning(
            "%d clips left out, %d odd ones kept: %s", bad, odd.sum(), report
        )
    kept = found[usable]
    logger.info(
        "Rates in Hz %s, channels %s, seconds %.2f to %.2f",
        *(_counts(kept["rate"]), _counts(kept["channels"])),
        *(kept["duration"].min(), kept["duration"].max()),
    )
    table = table.drop(columns=["problem", "left_out"])
    return table[usable].reset_index(drop=True)


def write_corpus(
    rows,
    output,
    split,
    unified=None,
    max_problems=0.01,
    seed=0,
    problems=(),
):
    """Unifies the classes, checks the audio, splits, and writes the manifest.

    ``split`` is one of ``ascmamba_modules.data.splits.SPLITS``; with any other
    name the splits of the rows stay.  ``unified`` is the corpus whose classes
    become the pre-training set's, see :func:`to_unified`; by default they stay.
    See :func:`drop_unusable_clips` for ``max_problems`` and ``problems``.
    """
    if unified:
        rows = to_unified(rows, unified)
    table = drop_unusable_clips(rows, output, max_problems, problems)
    if split in SPLITS:
        table["split"], _ = split_by(table, split, seed=seed)
    write_manifest(table, output)
    return table


def _counts(values):
    counts = values.value_counts().to_dict()
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def unified_scenes():
    """Reads the classes of the pre-training set, after Table 1 of the paper.

    The paper gives the classes and the sums; that whole classes of these two
    names were merged, from all devices and splits, follows from the counts:
    TAU's are known, and what remains of each sum is CochlScene's.

    Columns: corpus, scene (its name there), clips (how many there are), and
    unified, the class that it is part of; "" for those that have no place
    among the ten.

    Example
    -------
    >>> scenes = unified_scenes()
    >>> scenes["scene"][scenes["unified"] == "Metro"].tolist()
    ['metro', 'Subway']
    """
    return pd.read_csv(UNIFIED_SCENES).fillna({"unified": ""})


def scenes_of(corpus):
    """Gives the unified class of each class of "TAU" or "CochlScene", by the
    corpus' own name; "" for those that have no place.

    Example
    -------
    >>> scenes_of("TAU")["street_traffic"]
    'Traffic street'
    """
    table = unified_scenes()
    table = table[table["corpus"] == corpus]
    return dict(zip(table["scene"], table["unified"]))


def to_unified(table, corpus):
    """Renames the classes of a corpus, and drops rows of those that have no
    place; see :func:`scenes_of`.

    Example
    -------
    >>> rows = pd.DataFrame({"scene_label": ["Subway", "Kitchen"]})
    >>> to_unified(rows, "CochlScene")["scene_label"].tolist()
    ['Metro']
    """
    labels = table["scene_label"].map(scenes_of(corpus)).fillna("")
    return table.assign(scene_label=labels)[labels != ""]


def print_counts(table, output):
    """Prints how many clips of each class are in each split."""
    labels = table["scene_label"].replace("", "(unlabelled)")
    splits = table["split"].replace("", "(none)")
    counts = pd.crosstab(labels, splits, margins=True, margins_name="all")
    print(f"\n{counts.rename_axis(index='class', columns=None).to_string()}")
    print(f"\n{output}: {len(table)} clips")


def make_parser(description, instructions, splits, default_split):
    """Makes a parser with the options that the challenge's corpora share.

    ``splits`` has a description by name.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=instructions,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="the corpus as unpacked")
    parser.add_argument("--output", required=True, help="manifest to write")
    parser.add_argument(
        "--split",
        choices=splits,
        default=default_split,
        help="; ".join(f"{name}: {text}" for name, text in splits.items())
        + " (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    add_max_problems(parser)
    parser.add_argument(
        "--download",
        action="store_true",
        help="first fetch what is missing into the folder",
    )
    return parser


def add_max_problems(parser):
    """Adds the option that says how many clips may be unusable."""
    parser.add_argument(
        "--max-problems",
        type=float,
        default=0.01,
        help="share of clips that may be missing or unusable (default: "
        "%(default)s)",
    )


def add_unified(parser):
    """Adds the option to use the unified classes."""
    parser.add_argument(
        "--unified",
        action="store_true",
        help="the pre-training set's classes instead of the corpus' own",
    )


def run_command(work):
    """Calls ``work()``; what users can mend ends it with one message."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        work()
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


def run_preparation(parser, arguments, prepare, download=None):
    """Runs the command of a corpus: fetches it if asked to, calls ``prepare``
    with the other options, and prints the counts of the manifest it returns."""
    options = vars(parser.parse_args(arguments))

    def work():
        """Fetches and prepares the corpus."""
        check_output(options["output"])
        if options.pop("download", False):
            download(options["folder"])
        print_counts(prepare(**options), options["output"])

    run_command(work)
