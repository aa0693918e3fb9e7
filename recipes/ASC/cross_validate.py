#!/usr/bin/env python3
"""Cross-validation over folds of cities; the same command again goes on.

    python cross_validate.py hparams/finetune.yaml --manifest cas.csv \\
        --output results/cross_validation --folds 4 --channels 16

Each fold's cities are tested on by a training that has neither their labelled
nor their unlabelled clips, and whose epoch is chosen on sessions of the other
cities.  Every other option is for train.py.

Source: the scheme of the challenge's second-placed team (ASCMamba paper,
section 5), which the paper only names.
"""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold
from stages import (
    RECIPE,
    one_line_at_the_end,
    run_stages,
    training_stage,
    write_once,
)

from ascmamba_modules.data.manifest import read_manifest, write_manifest
from ascmamba_modules.data.sessions import LEVELS, find_groups
from ascmamba_modules.data.splits import DEVELOPMENT_SPLITS, split
from ascmamba_modules.evaluation.protocols import (
    COLUMNS,
    ScoredClips,
    mean_score,
)
from ascmamba_modules.utils.files import write_csv

RESULTS = "results.csv"


def make_folds(table, by, n_folds, seed):
    """Divides the labelled development clips into folds of whole groups.

    Development clips are those of split "train", "valid" or none; the others
    are left out.  A group is one of ``LEVELS``; scikit-learn's
    ``StratifiedGroupKFold`` makes the folds' classes as alike as whole groups
    allow.  Gives a manifest for each fold, by the names of its groups: its
    clips are "test", of the others a fifth of the sessions "valid", the rest
    "train".
    """
    table = table[table["split"].isin(DEVELOPMENT_SPLITS)]
    groups = find_groups(table)[by]
    labelled = table["scene_label"] != ""
    names = groups[labelled].unique()
    if not 2 <= n_folds <= len(names):
        raise ValueError(
            f"--folds {n_folds}: the labelled development clips are of "
            f"{len(names)} groups by {by}, choose from 2 to as many"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    classes = table.loc[labelled, "scene_label"]
    folds = {}
    for _, drawn in splitter.split(classes, classes, groups[labelled]):
        held_out = sorted(groups[labelled].iloc[drawn].unique())
        is_test = groups.isin(held_out)
        rest, _ = split(table[~is_test], "session", seed=seed)
        fold = table.assign(split="test")
        fold.loc[rest.index, "split"] = rest
        folds[", ".join(held_out)] = fold
    return folds


def write_folds(folds, output):
    """Writes the manifest of each fold; raises a ValueError if there is
    another."""
    paths = []
    for number, fold in enumerate(folds.values(), 1):
        path = output / f"fold_{number}.csv"
        write_once(path, partial(write_manifest, fold))
        paths.append(path)
    return paths


def list_trainings(hparams, paths, output, options):
    """The training of each fold."""
    trainings = []
    for number, path in enumerate(paths, 1):
        name, title = f"fold_{number}", f"train without fold {number}"
        files = {"manifest": path, "output_folder": output / name}
        trainings.append(training_stage(name, title, hparams, files, options))
    return trainings


def score(folds, output, model):
    """Scores the folds, each and together.

    The results (see :mod:`ascmamba_modules.evaluation.protocols`) have the
    conditions: each fold; their mean, with one standard deviation around it;
    all clips together, each answered by the training that has not seen its
    group.  Beside them a table of texts, a row a fold.
    """
    rows, shown, parts = [], [], []
    for number, (names, fold) in enumerate(folds.items(), 1):
        found = pd.read_csv(
            output / f"fold_{number}" / "test" / "predictions.csv",
            dtype={"ID": str},
            keep_default_na=False,
        ).set_index("ID")
        posteriors = found.filter(regex=r"^p\(.*\)$").astype(float)
        classes = [name[2:-1] for name in posteriors]
        clips = fold.set_index("ID", drop=False).loc[found.index]
        parts.append((clips, posteriors))
        scored = ScoredClips(clips, classes)
        scores = scored.scores(_log(posteriors))
        rows += [{"condition": f"fold {number}: {names}"} | s for s in scores]
        trained = fold[fold["split"] == "train"]["scene_label"]
        new = sorted(set(clips["scene_label"]) - set(trained))
        shown.append(
            {
                "fold": number,
                "held out": names,
                "clips": len(clips),
                "classes": clips["scene_label"].nunique(),
                "macro accuracy": f"{scores[0]['value']:.3f}",
                "of them without training clips": ", ".join(new),
            }
        )
    n, frame = sum(len(clips) for clips, _ in parts), pd.DataFrame(rows)
    for metric, values in frame.groupby("metric", sort=False)["value"]:
        mean = mean_score(metric, values, n)
        rows.append({"condition": "mean of the folds"} | mean)
    clips, posteriors = (pd.concat(part) for part in zip(*parts))
    together = ScoredClips(clips, classes)
    log_posteriors = _log(posteriors)
    rows += [
        {"condition": "all folds together"} | row
        for row in together.scores(log_posteriors)
        + together.recalls(log_posteriors)
    ]
    results = pd.DataFrame(rows, columns=COLUMNS)
    results[["model", "protocol"]] = model, "cross-validation"
    return results, pd.DataFrame(shown)


def _log(posteriors):
    # In the file the smallest ones are zeros.
    return np.log(posteriors.to_numpy().clip(min=np.finfo(float).tiny))


def run(args, options):
    """Runs what is left of the trainings, and scores them."""
    output = Path(args.output).absolute()
    table = read_manifest(args.manifest)
    folds = make_folds(table, args.by, args.folds, args.seed)
    hparams = Path(args.hparams)
    if not (RECIPE / hparams).exists():
        raise ValueError(f"{hparams}: file not found")
    output.mkdir(parents=True, exist_ok=True)
    paths = write_folds(folds, output)
    trainings = list_trainings(str(hparams), paths, output, options)
    run_stages(trainings, output, shlex.split(args.launcher))
    results, shown = score(folds, output, hparams.stem)
    write_csv(results, output / RESULTS)
    print(f"\n{shown.to_string(index=False)}\n")
    macro = results[results["metric"] == "macro_accuracy"]
    for name, text in (
        ("mean of the folds", "one standard deviation"),
        ("all folds together", "95 % by session"),
    ):
        row = macro[macro["condition"] == name].iloc[0]
        print(
            f"Macro accuracy, {name}: {row['value']:.3f} ({text}: "
            f"{row['lower']:.3f} to {row['upper']:.3f})"
        )
    print(f"Results: {output / RESULTS}")


def parse(arguments):
    """Reads the command line: our own options, and those for train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # else --out would not reach train.py
    )
    parser.add_argument("hparams", help="YAML file of a training")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--output", required=True, help="folder for everything")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument(
        "--by", choices=LEVELS, default="city", help="what stays together"
    )
    parser.add_argument("--seed", type=int, default=1986, help="of the folds")
    parser.add_argument(
        "--launcher",
        default="",
        help='starts the trainings, e.g. "torchrun --nproc_per_node=4"',
    )
    args, options = parser.parse_known_args(arguments)
    for name in ("output_folder", "data_folder"):
        if any(word.split("=")[0] == f"--{name}" for word in options):
            parser.error(f"--{name} is not for cross-validation")
    # No progress bars: what the trainings print goes to files.
    if "--noprogressbar" not in options:
        options.append("--noprogressbar")
    return args, options


def main(arguments):
    """Runs from the command line."""
    args, options = parse(arguments)
    with one_line_at_the_end():
        run(args, options)


if __name__ == "__main__":
    main(sys.argv[1:])
