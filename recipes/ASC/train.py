#!/usr/bin/env python3
"""Trains a scene classifier: stages 1, 2, 2b and 4 of the recipe.

    python train.py hparams/finetune.yaml --manifest path/to/manifest.csv

Settings of the YAML file can be overridden on the command line; SpeechBrain's
run options (--device, --precision, --debug ...) work as in its own recipes.
The same command again resumes an interrupted training.
"""

import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import TensorboardLogger

from ascmamba_modules.manifest import (
    ManifestError,
    make_dataset,
    read_manifest,
    training_rows,
)
from ascmamba_modules.model_folder import FOLDER, start_from, write_model_folder

logger = get_logger(__name__)


def load_hparams(hparams_file, overrides):
    """Loads the YAML file and drops what the chosen variant does not use."""
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides)
    except (OSError, KeyError, ValueError, YAMLError) as error:
        sys.exit(f"{hparams_file}: {error}")
    if not hparams.get("use_context", False):
        hparams["modules"].pop("context_encoder", None)
        for name in ("context_encoder", "tokenizer"):
            hparams["checkpointer"].recoverables.pop(name, None)
    return hparams


def load_rows(hparams):
    """Reads and checks the manifest; exits with all its problems in one
    message."""
    path = hparams["manifest"]
    try:
        table = read_manifest(path)
        return training_rows(table, path, hparams["scene_labels"])
    except ManifestError as error:
        sys.exit(f"{error}")


def make_datasets(hparams, rows):
    """Makes the dataset of each split that has rows."""
    hparams["label_encoder"].update_from_iterable(hparams["scene_labels"])
    hparams["label_encoder"].expect_len(hparams["n_classes"])
    tokenizer = None
    if "context_encoder" in hparams["modules"]:
        tokenizer = hparams["tokenizer"]
        tokenizer.train(rows["train"]["location"])
    return {
        split: make_dataset(
            table,
            hparams["audio_normalizer"],
            hparams["label_encoder"],
            tokenizer,
        )
        for split, table in rows.items()
        if len(table)
    }


def log_choices(brain, rows):
    """Says once what is trained on what."""
    counts = ", ".join(f"{len(table)} {split}" for split, table in rows.items())
    logger.info("Clips: %s", counts)
    if not len(rows["valid"]):
        logger.info("No validation clips: the last epoch's weights are kept.")
    if not len(rows["test"]):
        logger.info("No test clips: no test report will be written.")
    logger.info("Device: %s, precision: %s", brain.device, brain.precision)


def main(arguments):
    """Runs one training stage."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    rows = load_rows(hparams)

    sb.utils.distributed.ddp_init_group(run_opts)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    datasets = make_datasets(hparams, rows)
    if hparams["pretrained_folder"]:
        start_from(hparams["pretrained_folder"], hparams)
    if hparams["tensorboard"]:
        hparams["train_loggers"].append(
            TensorboardLogger(hparams["output_folder"] + "/tensorboard")
        )

    brain = hparams["brain_class"](
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    log_choices(brain, rows)
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets.get("valid"),
        train_loader_kwargs=dict(hparams["train_dataloader_opts"]),
        valid_loader_kwargs=dict(hparams["test_dataloader_opts"]),
    )
    brain.load_best()
    run_on_main(
        write_model_folder,
        args=[
            hparams,
            f"{hparams['output_folder']}/hyperparams.yaml",
            f"{hparams['output_folder']}/{FOLDER}",
        ],
    )
    if "test" in datasets:
        brain.evaluate(
            datasets["test"],
            test_loader_kwargs=dict(hparams["test_dataloader_opts"]),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
