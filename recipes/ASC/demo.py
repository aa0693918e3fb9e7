#!/usr/bin/env python3
"""The main job, small: corpora, manifests, a training, answers.

Run by ``make demo``.  Each step is a command that can be typed by hand, and
is printed; all files go to ``demo/`` at the top of the repository.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ascmamba_modules.evaluation import macro_accuracy
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.manifest import read_manifest

RECIPE = Path(__file__).resolve().parent
DEMO = RECIPE.parent.parent / "demo"
# A narrow model with a high learning rate, for minutes on two CPU cores.
SMALL = (
    "--channels 8 --n_blocks 1 --d_state 4 --batch_size 8 "
    "--number_of_epochs 6 --lr 0.004 --lr_final 0.0002"
)


def run(command):
    """Prints a command and runs it in the recipe's folder."""
    print(f"\n$ python {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], cwd=RECIPE, check=True)


def classify_evaluation_clips(model, manifest, truth):
    """Prints what the model says of evaluation clips, which nobody labelled.

    Only of a made-up world the truth is known.
    """
    classifier = SceneClassifier.from_hparams(source=model)
    rows = read_manifest(manifest)
    rows = rows[rows["split"] == "evaluation"].set_index("ID")
    rows["truth"] = pd.read_csv(truth, index_col=0, dtype=str)["scene_label"]
    for row in rows.itertuples():
        place_and_time = row.location, row.record_time
        for way, known in (("sound", ()), ("all", place_and_time)):
            answer = classifier.classify_file(row.wav, *known)
            rows.loc[row.Index, way] = answer[3][0]
    shown = rows.groupby("truth").head(1)[["truth", "location", "sound", "all"]]
    names = {"sound": "heard", "all": "heard, place and time known"}
    print(shown.rename(columns=names).to_string(index=False))
    for way, name in names.items():
        score = macro_accuracy(rows["truth"], rows[way])
        print(f"{name}: {100 * score:.1f} % of {len(rows)} clips")


def main():
    """Runs the demo from a clean folder."""
    shutil.rmtree(DEMO, ignore_errors=True)
    corpora, results = DEMO / "corpora", DEMO / "finetune"
    cas = DEMO / "cas.csv"
    run(["make_demo_corpora.py", str(corpora)])
    run(
        [
            "prepare_pretraining.py",
            *("--tau", str(corpora)),
            *("--cochlscene", str(corpora)),
            *("--output", str(DEMO / "pretrain.csv")),
        ]
    )
    run(
        [
            *("prepare_cas.py", str(corpora), "--output", str(cas)),
            *("--split", "session", "--audit"),
        ]
    )
    run(
        [
            "train.py",
            "hparams/finetune.yaml",
            *("--manifest", str(cas)),
            *("--output_folder", str(results)),
            *("--feature_cache", str(DEMO / "features")),
            *SMALL.split(),
        ]
    )
    print(f"\n== Classifying evaluation clips with {results / 'model'}")
    classify_evaluation_clips(results / "model", cas, corpora / "truth.csv")


if __name__ == "__main__":
    main()
