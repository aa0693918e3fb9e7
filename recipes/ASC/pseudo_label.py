#!/usr/bin/env python3
"""Labels unlabelled clips with two models: stage 3 of the recipe.

    python pseudo_label.py hparams/pseudo_label.yaml --manifest cas.csv \\
        --first results/finetune/1986 --second results/finetune_se_trans/1986

Leaves in its output folder ``manifest.csv`` for stage 4, and for each round
the posteriors, what was rejected and why, and a report.
"""

import hashlib
import shutil
import sys
from pathlib import Path

import pandas as pd
import speechbrain as sb
import train
from hyperpyyaml import load_hyperpyyaml, resolve_references
from prepare_cas import read_truth
from process_group import run_in_group
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from ascmamba_modules.brain import PseudoLabelBrain
from ascmamba_modules.data.manifest import (
    ManifestError,
    read_manifest,
    unusable_files,
)
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import find_model
from ascmamba_modules.pseudo_labels.report import MANIFEST
from ascmamba_modules.pseudo_labels.selection import in_pool
from ascmamba_modules.utils.files import replacing

logger = get_logger(__name__)


def load_hparams(hparams_file, overrides, check):
    """Loads the YAML file; exits with one line if it cannot be used.

    ``check`` raises a ValueError for settings that would fail later.
    """
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides)
        check(hparams)
        return hparams
    except (OSError, KeyError, ValueError, TypeError, YAMLError) as error:
        sys.exit(f"{hparams_file}: {error}")


def check_hparams(hparams):
    """Raises an error for settings that would fail after the inference."""
    rounds, share = hparams["rounds"], hparams["share"]
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a whole number >= 1: {rounds}")
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ValueError(f"share must be a number from 0 to 1: {share}")
    if rounds > 1:
        with open(hparams["finetune_hparams"], encoding="utf-8") as file:
            resolve_references(
                file,
                finetune_overrides(hparams, [], MANIFEST, ""),
                overrides_must_match=True,
            )


def finetune_overrides(hparams, classes, manifest, folder):
    """Settings of the training between two rounds."""
    return {
        "scene_labels": classes,
        **hparams["finetune_overrides"],
        "manifest": str(manifest),
        "output_folder": str(folder),
        "pretrained_folder": str(hparams["first"]),
    }


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

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If it cannot be loaded, with the reason.
    """
    folder = find_model(folder)
    try:
        return SceneClassifier.from_hparams(source=folder, run_opts=run_opts)
    except (OSError, ValueError, RuntimeError, YAMLError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error


def load_rows(hparams):
    """Reads the manifest; exits with what is wrong with it."""
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
        return table
    except ManifestError as error:
        sys.exit(f"{error}")


def check_classes(table, classes, path):
    """Exits if labels of the manifest are not what the models know."""
    unknown = sorted(set(table["scene_label"]) - {"", *classes})
    if unknown:
        sys.exit(
            f"{path}: labels {', '.join(unknown)} are not among the classes "
            f"of the models ({', '.join(classes)}): train both on these "
            "labels first."
        )


def load_truth(path, classes):
    """Reads the true classes by clip, if there is a file of them; exits with
    what is wrong with it."""
    try:
        return pd.Series(read_truth(path, classes)) if path else None
    except ManifestError as error:
        sys.exit(f"{error}")


def make_brain(hparams, run_opts):
    """Makes the Brain; exits with what is wrong with the models."""

    try:
        annotators = {
            name: SceneClassifier.from_hparams(hparams[name], run_opts=run_opts)
            for name in ("first", "second")
        }
        return PseudoLabelBrain(
            annotators, dict(hparams["dataloader_opts"]), run_opts
        )
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


def run_rounds(hparams, run_opts, brain, table, truth):
    """Labels the clips, and trains on the labels before each further round;
    returns the last round's manifest."""
    for number in range(1, hparams["rounds"] + 1):
        folder = Path(hparams["output_folder"], f"round_{number}")
        manifest = brain.label(table, folder, hparams["share"], truth)
        if number < hparams["rounds"]:
            # Other labels, such as of another share, are trained on anew.
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:8]
            overrides = finetune_overrides(
                *(hparams, brain.classes, manifest),
                folder / f"finetune_{digest}",
            )
            first = train.train(
                hparams["finetune_hparams"], run_opts, overrides
            )
            brain = make_brain({**hparams, "first": first}, run_opts)
    return manifest


def copy_manifest(manifest, output_folder):
    """Puts the last round's manifest where stage 4 looks for it."""
    with replacing(Path(output_folder, MANIFEST)) as temporary:
        shutil.copyfile(manifest, temporary)


def label(hparams_file, run_opts, overrides):
    """Runs stage 3, or what is left of it."""
    hparams = load_hparams(hparams_file, overrides, check_hparams)
    train.check_stage(hparams)
    table = load_rows(hparams)
    brain = make_brain(hparams, run_opts)
    classes = brain.classes
    check_classes(table, classes, hparams["manifest"])
    truth = load_truth(hparams["truth"], classes)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    logger.info("Clips: %d to label", in_pool(table).sum())
    logger.info("Device: %s, precision: %s", brain.device, brain.precision)
    try:
        manifest = run_rounds(hparams, run_opts, brain, table, truth)
    except FloatingPointError as error:  # of the training between rounds
        sys.exit(f"{error}")
    run_on_main(copy_manifest, args=[manifest, hparams["output_folder"]])
    logger.info(
        "Manifest of stage 4: %s/%s", hparams["output_folder"], MANIFEST
    )


def main(arguments):
    """Runs from the command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    run_in_group(lambda: label(hparams_file, run_opts, overrides), run_opts)


if __name__ == "__main__":
    main(sys.argv[1:])
