#!/usr/bin/env python3
"""The main job, small: makes clips, trains on them, classifies files.

Run by ``make demo``.  Each step is a command that can be typed by hand, and
is printed; all files go to ``demo/`` at the top of the repository.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ascmamba_modules.inference import SceneClassifier

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


def classify_some(model, manifest):
    """Prints what the model says of a test clip of each scene."""
    classifier = SceneClassifier.from_hparams(source=model)
    rows = pd.read_csv(manifest, keep_default_na=False)
    rows = rows[rows["split"] == "test"].groupby("scene_label").head(1)
    print(f"{'file':<28} {'heard':<18} {'with place and time':<18}")
    for row in rows.itertuples():
        path = Path(manifest).parent / row.wav
        answers = [
            classifier.classify_file(path),
            classifier.classify_file(path, row.location, row.record_time),
        ]
        cells = [f"{a[3][0]} {a[1].exp().item():.2f}" for a in answers]
        print(f"{path.name:<28} {cells[0]:<22} {cells[1]:<22}")


def main():
    """Runs the demo from a clean folder."""
    shutil.rmtree(DEMO, ignore_errors=True)
    manifest, results = DEMO / "manifest.csv", DEMO / "finetune"
    run(["make_demo_corpora.py", str(DEMO)])
    run(
        [
            "train.py",
            "hparams/finetune.yaml",
            *("--manifest", str(manifest)),
            *("--output_folder", str(results)),
            *SMALL.split(),
        ]
    )
    print(f"\n== Classifying files with {results / 'model'}")
    classify_some(results / "model", manifest)
    print(f"\nTest report and plots: {results / 'test'}")


if __name__ == "__main__":
    main()
