#!/usr/bin/env python3
"""Labels unlabelled clips with two models: stage 3 of the recipe.

    python pseudo_label.py hparams/pseudo_label.yaml --manifest cas.csv \\
        --first results/finetune/1986 --second results/finetune_se_trans/1986

Leaves in its output folder ``manifest.csv`` for stage 4, and for each round
the posteriors, what was rejected and why, and a report.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd
import speechbrain as sb
import train
from hyperpyyaml import load_hyperpyyaml
from prepare_cas import read_truth
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from ascmamba_modules.brain import PseudoLabelBrain
from ascmamba_modules.files import replacing
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.manifest import (
    ManifestError,
    read_manifest,
    unusable_files,
)
from ascmamba_modules.model_folder import FOLDER
from ascmamba_modules.pseudo_label_report import MANIFEST
from ascmamba_modules.pseudo_labels import in_pool

logger = get_logger(__name__)


def load_hparams(hparams_file, overrides):
    """Loads the YAML file; exits with one line if it cannot be used."""
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides)
        rounds = hparams["rounds"]
        if not isinstance(rounds, int) or rounds < 1:
            raise ValueError(f"rounds must be a whole number >= 1: {rounds}")
        return hparams
    except (OSError, KeyError, ValueError, TypeError, YAMLError) as error:
        sys.exit(f"{hparams_file}: {error}")


def model_folder(output_folder):
    """The model of a finished stage, given its output folder or the model's."""
    folder = Path(output_folder)
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def load_annotator(folder, run_opts):
    """Loads the model of a finished stage.

    Arguments
    ---------
    folder : str or Path
        The stage's output folder, or the folder ``model`` in it.
    run_opts : dict
        SpeechBrain's run options: device and precision.

    Returns
    -------
    SceneClassifier
        The model.
    """
    folder = Path(folder)
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    return SceneClassifier.from_hparams(source=folder, run_opts=run_opts)


def load_rows(hparams):
    """Reads the manifest and the truth; exits with what is wrong with them."""
    path = hparams["manifest"]
    try:
        table = read_manifest(path)
        pool = table[in_pool(table)]
        if pool.empty:
            raise ManifestError(
                path,
                [
                    "no clips to pseudo-label: no row has an empty "
                    "scene_label and split 'train' or none"
                ],
            )
        if problems := unusable_files(pool):
            raise ManifestError(path, problems)
        truth = hparams["truth"]
        return table, pd.Series(read_truth(truth)) if truth else None
    except ManifestError as error:
        sys.exit(f"{error}")


def make_trainer(hparams, run_opts):
    """Makes the function that trains between two rounds."""

    def train_round(manifest, folder):
        overrides = {
            **hparams["finetune_overrides"],
            "manifest": str(manifest),
            "output_folder": str(folder),
            "pretrained_folder": str(hparams["first"]),
        }
        return train.train(hparams["finetune_hparams"], run_opts, overrides)

    return train_round


def copy_manifest(manifest, output_folder):
    """Puts the last round's manifest where stage 4 looks for it."""
    with replacing(Path(output_folder, MANIFEST)) as temporary:
        shutil.copyfile(manifest, temporary)


def main(arguments):
    """Runs from the command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    table, truth = load_rows(hparams)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    def load(folder):
        return load_annotator(folder, run_opts)

    try:
        annotators = {name: load(hparams[name]) for name in ("first", "second")}
        brain = PseudoLabelBrain(
            annotators, load, dict(hparams["dataloader_opts"]), run_opts
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{error}")
    manifest = brain.run(
        table,
        hparams["output_folder"],
        hparams["rounds"],
        hparams["share"],
        make_trainer(hparams, run_opts),
        truth,
    )
    run_on_main(copy_manifest, args=[manifest, hparams["output_folder"]])
    logger.info(
        "Manifest of stage 4: %s/%s", hparams["output_folder"], MANIFEST
    )


if __name__ == "__main__":
    main(sys.argv[1:])
