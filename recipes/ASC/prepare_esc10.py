#!/usr/bin/env python3
"""Writes manifests of ESC-10: real recordings to try the recipe on.

    python prepare_esc10.py path/to/esc10 --fold 1 --output esc10_fold1.csv

The set (CC BY) holds 400 clips of ten classes in five folds, in which clips
of one source recording stay together.  The folder holds ``meta.csv``
(filename, fold, category) and ``audio/``.  From the larger ESC-50, whose
``meta/esc50.csv`` has the same columns and a mark for ESC-10, the ten classes
are taken.

Source: K. J. Piczak, "ESC: Dataset for Environmental Sound Classification",
ACM Multimedia 2015.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from corpus import (
    add_max_problems,
    check_output,
    find_file,
    read_table,
    run_preparation,
    write_corpus,
)

FOLDS = (1, 2, 3, 4, 5)


def read_metadata(folder):
    """Reads filename, fold and category of the clips of ESC-10, from its own
    folder or that of ESC-50."""
    for name in ("meta.csv", "meta/esc50.csv"):
        if (folder / name).exists():
            columns = ["filename", "fold", "category"]
            if name.startswith("meta/"):  # of all ESC-50
                columns.append("esc10")
            table = read_table(folder / name, columns)
            if "esc10" in table:
                table = table[table["esc10"] == "True"]
            return table.assign(fold=pd.to_numeric(table["fold"]))
    raise FileNotFoundError(
        f"No meta.csv or meta/esc50.csv in {folder}: give the folder of "
        "ESC-10 or ESC-50 as it was unpacked."
    )


def prepare_esc10(folder, fold, output, valid_fold=None, max_problems=0.01):
    """Writes the manifest in which one fold is the test set.

    Arguments
    ---------
    folder : str or pathlib.Path
        The unpacked data set.
    fold : int
        The fold to test on, 1 to 5.
    output : str or pathlib.Path
        The manifest to write.
    valid_fold : int, optional
        Another fold to validate on; by default all the rest is for training.
    max_problems : float
        Share of clips that may be missing or unusable.

    Returns
    -------
    pandas.DataFrame
        The manifest.
    """
    check_output(output)
    folder = Path(folder).resolve()
    for number in (fold, valid_fold):
        if number is not None and number not in FOLDS:
            raise ValueError(f"ESC-10 has folds 1 to 5, not {number}.")
    if fold == valid_fold:
        raise ValueError("The fold to validate on must not be the test fold.")
    metadata = read_metadata(folder)
    splits = {fold: "test", valid_fold: "valid"}
    rows = pd.DataFrame(
        {
            "ID": [Path(name).stem for name in metadata["filename"]],
            "wav": [
                str(find_file(folder / "audio" / name))
                for name in metadata["filename"]
            ],
            "scene_label": metadata["category"],
            "location": "",
            "record_time": "",
            # "1-17367-A.ogg": fold, source recording, take.
            "session": [n.split("-")[1] for n in metadata["filename"]],
            "dataset": "ESC-10",
            "split": [splits.get(f, "train") for f in metadata["fold"]],
            "label_source": "human",
        }
    )
    return write_corpus(rows, output, "folds", max_problems=max_problems)


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The set: https://github.com/karolpiczak/ESC-50 (with ESC-10)",
    )
    parser.add_argument("folder", help="ESC-10 or ESC-50, unpacked")
    parser.add_argument("--fold", type=int, default=1, help="test fold, 1 to 5")
    parser.add_argument("--valid-fold", type=int, help="fold to validate on")
    parser.add_argument("--output", default="esc10.csv", help="the manifest")
    add_max_problems(parser)
    run_preparation(parser, arguments, prepare_esc10)


if __name__ == "__main__":
    main(sys.argv[1:])
