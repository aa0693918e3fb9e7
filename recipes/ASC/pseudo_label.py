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
import tempfile
from pathlib import Path

import pandas as pd
import speechbrain as sb
from common import (
    check_range,
    check_stage,
    exit_on,
    load_hparams,
    locked,
    parse_arguments,
    run_in_group,
    save_settings,
)
from hyperpyyaml import resolve_references
from prepare_cas import read_truth
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from training import (
    check_freeze,
    check_settings as check_training,
    drop_unused_context,
    train,
)

from ascmamba_modules.brain import PseudoLabelBrain
from ascmamba_modules.data.manifest import (
    ManifestError,
    read_manifest,
    unusable_files,
)
from ascmamba_modules.data.sessions import LEVELS
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import start_from
from ascmamba_modules.pseudo_labels.report import MANIFEST
from ascmamba_modules.pseudo_labels.selection import in_pool
from ascmamba_modules.pseudo_labels.session_labels import (
    WAYS,
    check_purity,
    session_votes,
)
from ascmamba_modules.utils.files import replacing

logger = get_logger(__name__)


def check_settings(settings):
    """Raises an error for settings that would fail after the inference."""
    check_stage(settings["stage"], "pseudo_label")
    check_range(settings, "rounds", "batch_size", low=1, whole=True)
    check_range(settings, "num_workers", low=0, whole=True)
    check_range(settings, "share", "min_purity", low=0, high=1)
    for name, allowed in (
        ("session_labels", (None, *WAYS)),
        ("session_level", LEVELS),
    ):
        if settings[name] not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(str, allowed))}, got "
                f"{settings[name]}"
            )
    overrides = settings["finetune_overrides"]
    if not isinstance(overrides, dict):
        raise ValueError(
            f"finetune_overrides must be names with values, got {overrides}"
        )


def finetune_overrides(hparams, classes, manifest, folder):
    """Settings of the training between two rounds."""
    return {
        **hparams["finetune_overrides"],
        "scene_labels": classes,
        "manifest": str(manifest),
        "output_folder": str(folder),
        "pretrained_folder": str(hparams["first"]),
    }


@exit_on(OSError)
def check_truth(hparams):
    """Exits if the file of true classes is missing."""
    if hparams["truth"]:
        Path(hparams["truth"]).stat()


@exit_on(ManifestError)
def load_rows(hparams):
    """Reads the manifest; exits with what is wrong with it."""
    path = hparams["manifest"]
    table = read_manifest(path)
    pool = table[in_pool(table)]
    if pool.empty:
        raise ManifestError(
            path,
            [
                "no clips to pseudo-label: no row has an empty scene_label "
                "and split 'train' or none"
            ],
        )
    if problems := unusable_files(pool):
        raise ManifestError(path, problems)
    if hparams["session_labels"] is not None:
        with exit_on(ValueError):
            _, purity = session_votes(table, hparams["session_level"])
            check_purity(purity, hparams["min_purity"])
    return table


def check_classes(table, classes, path):
    """Exits if labels of the manifest are not what the models know."""
    unknown = sorted(set(table["scene_label"]) - {"", *classes})
    if unknown:
        sys.exit(
            f"{path}: labels {', '.join(unknown)} are not among the classes "
            f"of the models ({', '.join(classes)}): train both on these "
            "labels first."
        )


@exit_on(ManifestError)
def load_truth(path, classes):
    """Reads the true classes by clip, if there is a file of them; exits with
    what is wrong with it."""
    return pd.Series(read_truth(path, classes)) if path else None


@exit_on(OSError, ValueError)
def make_brain(hparams, run_opts):
    """Makes the Brain; exits with what is wrong with the models."""
    folders = {"first": hparams["first"], "second": hparams["second"]}
    annotators = {
        name: SceneClassifier.from_hparams(folder, run_opts=run_opts)
        for name, folder in folders.items()
    }
    return PseudoLabelBrain(
        annotators, dict(hparams["dataloader_opts"]), run_opts
    )


def check_rounds(hparams, brain):
    """Exits if the training between two rounds could not start from the first
    model, or if it would use place and time, unasked, where that does not."""
    if hparams["rounds"] == 1:
        return
    path = hparams["finetune_hparams"]
    with tempfile.TemporaryDirectory() as folder:
        given = finetune_overrides(hparams, brain.classes, MANIFEST, folder)
        settings = load_hparams(path, given, check_training)
        drop_unused_context(settings)
        check_freeze(settings)
        resolved = Path(folder, "resolved.yaml")
        with open(path, encoding="utf-8") as file:
            text = resolve_references(file, given).read()
        resolved.write_text(text, "utf-8")
        try:
            start_from(hparams["first"], settings, resolved)
        except (OSError, ValueError) as error:
            sys.exit(f"finetune_overrides: {error}")
    is_asked = "use_context" in hparams["finetune_overrides"]
    is_used = "context_encoder" in settings["modules"]
    was_used = "context_encoder" in brain.modules["first"].mods
    if is_used and not (was_used or is_asked):
        sys.exit(
            "first does not use place and time, and the model of the next "
            'round would: --finetune_overrides "{use_context: False}"'
        )


def run_rounds(hparams, run_opts, brain, table, truth):
    """Labels the clips, and trains on the labels before each further round;
    returns the last round's manifest."""
    for number in range(1, hparams["rounds"] + 1):
        folder = Path(hparams["output_folder"], f"round_{number}")
        manifest = brain.label(
            *(table, folder, hparams["share"], truth),
            session_labels=hparams["session_labels"],
            session_level=hparams["session_level"],
            min_purity=hparams["min_purity"],
            by_class=hparams["by_class"],
        )
        if number < hparams["rounds"]:
            # Other labels, such as of another share, are trained on anew.
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:8]
            overrides = finetune_overrides(
                *(hparams, brain.classes, manifest),
                folder / f"finetune_{digest}",
            )
            first = train(hparams["finetune_hparams"], run_opts, overrides)
            brain = make_brain({**hparams, "first": first}, run_opts)
    return manifest


def copy_manifest(manifest, output_folder):
    """Puts the last round's manifest where stage 4 looks for it."""
    with replacing(Path(output_folder, MANIFEST)) as temporary:
        shutil.copyfile(manifest, temporary)


def label(hparams_file, run_opts, overrides):
    """Runs stage 3, or what is left of it."""
    hparams = load_hparams(hparams_file, overrides, check_settings)
    check_truth(hparams)
    table = load_rows(hparams)
    brain = make_brain(hparams, run_opts)
    check_classes(table, brain.classes, hparams["manifest"])
    check_rounds(hparams, brain)
    truth = load_truth(hparams["truth"], brain.classes)
    folder = hparams["output_folder"]
    with locked(folder):
        save_settings(hparams_file, overrides, folder)
        sb.create_experiment_directory(folder)
        logger.info("Clips: %d to label", in_pool(table).sum())
        logger.info("Device: %s, precision: %s", brain.device, brain.precision)
        manifest = run_rounds(hparams, run_opts, brain, table, truth)
        run_on_main(copy_manifest, args=[manifest, folder])
        logger.info("Manifest of stage 4: %s/%s", folder, MANIFEST)


def main(arguments):
    """Runs from the command line."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    run_in_group(lambda: label(hparams_file, run_opts, overrides), run_opts)


if __name__ == "__main__":
    main(sys.argv[1:])
