"""How hard the demo world is: random split, unseen session, unseen city.

    python benchmarks/demo_difficulty.py --seeds 0 1 2

Mean and deviation of each mel band and a support vector machine stand in for
a model; all development clips count as labelled.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import markdown_table
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from speechbrain.dataio.preprocess import AudioNormalizer

sys.path.append(str(Path(__file__).parents[1] / "recipes" / "ASC"))
from demo.make_corpora import make_demo_corpora
from prepare_cas import prepare_cas, read_truth

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.evaluation import macro_accuracy
from ascmamba_modules.features import LogMel


@torch.no_grad()
def statistics(paths):
    """Mean and deviation of the mel bands of clips.

    Arguments
    ---------
    paths : list
        Audio files.

    Returns
    -------
    numpy.ndarray
        Values in dB (clips, 2 x bands).
    """
    features, normalizer = LogMel(), AudioNormalizer(44100)
    rows = []
    for path in paths:
        values = features(load_audio(path, normalizer)[None])[0]
        rows.append(torch.cat([values.mean(0), values.std(0)]).numpy())
    return np.stack(rows)


def difficulty(seed):
    """Scores of one world.

    Arguments
    ---------
    seed : int
        Its seed.

    Returns
    -------
    dict
        Macro accuracies (0 to 1) by what is held out.
    """
    with tempfile.TemporaryDirectory() as folder:
        make_demo_corpora(folder, seed=seed)
        table = prepare_cas(folder, f"{folder}/cas.csv")
        truth = read_truth(f"{folder}/truth.csv")
        table["truth"] = table["ID"].map(truth)
        table = table[table["split"] != "evaluation"]
        inputs = statistics(table["wav"])
    model = make_pipeline(StandardScaler(), SVC(C=10))
    ways = {
        "random": (KFold(5, shuffle=True, random_state=0), None),
        "session": (GroupKFold(5), table["session"]),
        "city": (LeaveOneGroupOut(), table["location"]),
    }
    # A class of one city cannot be told where that city is held out.
    n_cities = table.groupby("truth")["location"].nunique()
    several = table["truth"].map(n_cities).to_numpy() > 1
    scores = {}
    for name, (folds, groups) in ways.items():
        answers = cross_val_predict(
            model, inputs, table["truth"], groups=groups, cv=folds
        )
        scored = several if name == "city" else np.full(len(table), True)
        scores[name] = macro_accuracy(table["truth"][scored], answers[scored])
    return scores


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    rows = [{"seed": str(seed), **difficulty(seed)} for seed in args.seeds]
    mean = pd.DataFrame(rows).drop(columns="seed").mean().to_dict()
    print("Macro accuracy on development clips, by what is held out")
    print(markdown_table([*rows, {"seed": "mean", **mean}]))


if __name__ == "__main__":
    main()
