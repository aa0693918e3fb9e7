#!/usr/bin/env python3
"""Writes the manifest of stage 1: TAU and CochlScene with unified classes.

    python prepare_pretraining.py --tau DIR --cochlscene DIR --output all.csv

The classes of the two corpora are merged into the ten of the ASCMamba paper's
Table 1 (``unified_scenes.csv``), and the clips of each are counted beside
those of the paper.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from corpus import (
    add_max_problems,
    check_output,
    print_counts,
    run_command,
    unified_scenes,
)
from prepare_cochlscene import prepare_cochlscene
from prepare_tau import prepare_tau
from speechbrain.utils.logger import get_logger

from ascmamba_modules.data.manifest import write_manifest

logger = get_logger(__name__)

SPLITS = {
    "all": "every clip is for training, as in the paper",
    "own": "TAU's fold1 and CochlScene's own",
    "random": "80/20 train and valid, stratified by class",
    "session": "80/20, no place (TAU) or recording person in both",
}


def prepare_pretraining(
    tau_folder,
    cochlscene_folder,
    output,
    split="all",
    max_problems=0.01,
    seed=0,
):
    """Writes the manifest of the unified pre-training set.

    Arguments
    ---------
    tau_folder, cochlscene_folder : str or Path
        The corpora, or the folders in which they were unpacked.
    output : str or Path
        The manifest to write.  What is known of each corpus stands beside
        it, in files that begin with its name.
    split : str
        One of ``SPLITS``.
    max_problems : float
        Share of clips that may be missing or unusable.
    seed : int
        Seed of a random split.

    Returns
    -------
    pandas.DataFrame
        The manifest.
    """
    check_output(output)
    output = Path(output)
    parts = [
        prepare(
            folder,
            output.with_name(f"{output.stem}_{name}.csv"),
            own if split == "own" else split,
            True,
            max_problems,
            seed,
        )
        for prepare, folder, name, own in (
            (prepare_tau, tau_folder, "tau", "fold1"),
            (prepare_cochlscene, cochlscene_folder, "cochlscene", "official"),
        )
    ]
    table = pd.concat(parts, ignore_index=True)
    write_manifest(table, output)
    counts = compare_with_paper(table)
    different = counts.index[counts["clips"] != counts["paper"]]
    if len(different):
        logger.warning(
            "Other numbers of clips than in the paper's Table 1: %s",
            ", ".join(different),
        )
    return table


def compare_with_paper(table):
    """Counts the clips of each class beside the paper's Table 1.

    A row a class, and Total: clips of TAU and of CochlScene, their sum, the
    sum in the paper and the difference.
    """
    scenes = unified_scenes()
    paper = scenes[scenes["unified"] != ""].groupby("unified")["clips"].sum()
    datasets = table["dataset"].str.removeprefix("synthetic ")
    counts = pd.crosstab(table["scene_label"], datasets)
    counts = counts.reindex(
        index=paper.index,
        columns=["TAU 2020 Mobile", "CochlScene"],
        fill_value=0,
    )
    counts["clips"] = counts.sum(axis=1)
    counts["paper"] = paper.astype(int)
    counts.loc["Total"] = counts.sum()
    counts["difference"] = counts["clips"] - counts["paper"]
    return counts.rename_axis(index="class", columns=None)


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="How to get the corpora: see prepare_tau.py --help and "
        "prepare_cochlscene.py --help.",
    )
    parser.add_argument("--tau", required=True, help="TAU as unpacked")
    parser.add_argument("--cochlscene", required=True, help="CochlScene too")
    parser.add_argument("--output", required=True, help="manifest to write")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="all",
        help="; ".join(f"{name}: {text}" for name, text in SPLITS.items())
        + " (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    add_max_problems(parser)
    args = parser.parse_args(arguments)

    def work():
        """Prepares both corpora and compares them with the paper."""
        table = prepare_pretraining(
            args.tau,
            args.cochlscene,
            args.output,
            args.split,
            args.max_problems,
            args.seed,
        )
        print(f"\n{compare_with_paper(table).to_string()}")
        print_counts(table, args.output)

    run_command(work)


if __name__ == "__main__":
    main(sys.argv[1:])
