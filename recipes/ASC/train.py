#!/usr/bin/env python3
"""Trains a scene classifier: one stage of the recipe.

    python train.py hparams/finetune.yaml --manifest path/to/manifest.csv

Settings of the YAML file can be overridden on the command line; SpeechBrain's
run options (--device, --precision, --debug ...) work as in its own recipes.
The same command again resumes an interrupted training.
"""

import json
import sys
import time
from pathlib import Path

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml, resolve_references
from prepare_cas import prepare_cas
from prepare_pretraining import prepare_pretraining
from process_group import run_in_group
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import TensorboardLogger
from stages import SUMMARY

from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.data.manifest import (
    ManifestError,
    make_dataset,
    read_training_rows,
)
from ascmamba_modules.model_folder.folder import (
    FOLDER,
    changed_settings,
    find_model,
    stage_of,
    start_from,
    write_model_folder,
)
from ascmamba_modules.model_folder.settings import read_settings
from ascmamba_modules.model_folder.training import (
    NO_DESCRIPTION,
    describe_training,
)
from ascmamba_modules.utils.files import replacing

logger = get_logger(__name__)


def load_hparams(hparams_file, overrides):
    """Loads the YAML file and drops what the chosen variant does not use."""
    # A setting of the wrong type or value fails in whatever takes it.
    wrong = (
        *(OSError, KeyError, ValueError, TypeError, AssertionError),
        *(RuntimeError, YAMLError),
    )
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides)
        check_scene_labels(hparams["scene_labels"])
        check_warmup_steps(hparams.get("warmup_steps", 0))
        hparams["cache"] = make_cache(hparams)
    except wrong as error:
        sys.exit(f"{hparams_file}: {error}")
    if not hparams.get("use_context", False):
        hparams["modules"].pop("context_encoder", None)
        for name in ("context_encoder", "tokenizer"):
            hparams["checkpointer"].recoverables.pop(name, None)
    return hparams


def check_scene_labels(labels):
    """Raises a ValueError unless labels are a list of different names."""
    names = isinstance(labels, list) and all(isinstance(x, str) for x in labels)
    if not names or len(set(labels)) != len(labels) or not labels:
        raise ValueError(
            f"scene_labels must be a list of different names, got {labels}; "
            "quote names that are numbers or words of YAML: "
            "--scene_labels \"['1', 'yes']\""
        )


def check_warmup_steps(steps):
    """Raises a ValueError unless steps are a number of steps."""
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(
            f"warmup_steps must be a whole number, 0 or more, got {steps}"
        )


def make_cache(hparams):
    """Makes the cache of features, None if they are not to be kept."""
    seconds = hparams["clip_length"]
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ValueError(
            f"clip_length must be a number of seconds or null, got {seconds}"
        )
    if not hparams["feature_cache"]:
        return None
    return FeatureCache(
        hparams["feature_cache"],
        hparams["features"],
        hparams["audio_normalizer"],
        hparams["clip_length"],
        hparams["cache_dtype"],
    )


def prepare(hparams):
    """Writes the manifest, if the folder of a corpus is given."""
    folder, output = hparams.get("data_folder"), hparams["manifest"]
    if not folder:
        return
    ways = {
        "cas": lambda: prepare_cas(folder, output),
        "pretraining": lambda: prepare_pretraining(folder, folder, output),
    }
    try:
        run_on_main(ways[hparams["corpus"]])
    except KeyError:
        sys.exit(f"corpus must be one of {', '.join(ways)}")
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


def load_rows(hparams):
    """Reads and checks the manifest; exits with all its problems in one
    message."""
    try:
        return read_training_rows(hparams["manifest"], hparams["scene_labels"])
    except ManifestError as error:
        sys.exit(f"{error}")


def check_stage(hparams):
    """Exits if the output folder is another stage's."""
    folder, stage = hparams["output_folder"], hparams.get("stage")
    found = stage_of(folder)
    if found not in (None, stage):
        sys.exit(
            f"{folder} is the output folder of stage {found}, this is stage "
            f"{stage}: choose another --output_folder."
        )


def check_resuming(hparams, hparams_file, overrides):
    """Exits if the output folder holds a training with other settings."""
    check_stage(hparams)
    resolved = Path(hparams["output_folder"], "hyperparams.yaml")
    if hparams["checkpointer"].find_checkpoint() is None:
        return
    with open(hparams_file, encoding="utf-8") as file:
        new = resolve_references(file, overrides).read()
    changed = changed_settings(resolved.read_text("utf-8"), new)
    if changed:
        sys.exit(
            f"{hparams['output_folder']} holds a training with another "
            f"{', '.join(changed)}: choose another --output_folder, or the "
            "settings of that training to go on with it."
        )


def start(hparams):
    """Takes over an earlier stage's model, at the beginning of a training."""
    folder = hparams["pretrained_folder"]
    if not folder:
        return
    hparams["normalize"].update_until_epoch = 0  # its statistics stay
    if hparams["checkpointer"].find_checkpoint():
        logger.info("Resuming: the weights of %s are not loaded again", folder)
        return
    resolved = Path(hparams["output_folder"], "hyperparams.yaml")
    try:
        start_from(folder, hparams, resolved)
    except (OSError, ValueError) as error:
        sys.exit(f"pretrained_folder: {error}")


def earlier_training(hparams):
    """What is known of the training that this one starts from, or None."""
    folder = hparams["pretrained_folder"]
    if not folder:
        return None
    try:
        return read_settings(find_model(folder))["training"] or NO_DESCRIPTION
    except (OSError, ValueError) as error:  # resuming does without the folder
        logger.warning(
            "The model card will not say what the weights started from: %s",
            error,
        )
        return NO_DESCRIPTION


def make_datasets(hparams, rows):
    """Makes the dataset of each split that has rows."""
    if hparams["cache"]:
        wavs = [wav for table in rows.values() for wav in table["wav"]]
        run_on_main(hparams["cache"].build, args=[wavs, hparams["num_workers"]])
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
            hparams["clip_length"],
            hparams["cache"],
        )
        for split, table in rows.items()
        if len(table)
    }


def log_choices(brain, rows):
    """Says once what is trained on what."""
    counts = ", ".join(f"{len(table)} {split}" for split, table in rows.items())
    logger.info("Clips: %s", counts)
    present = set(rows["train"]["scene_label"])
    absent = [x for x in brain.hparams.scene_labels if x not in present]
    if absent:
        logger.warning(
            "No training clips of %s: the model cannot learn these classes.",
            ", ".join(absent),
        )
    if not len(rows["valid"]):
        logger.info("No validation clips: the last epoch's weights are kept.")
    if not len(rows["test"]):
        logger.info("No test clips: no test report will be written.")
    logger.info("Device: %s, precision: %s", brain.device, brain.precision)
    loading = brain.hparams.train_dataloader_opts
    logger.info(
        "Batches of %d clips, loaded by %s processes into %s memory",
        loading["batch_size"],
        loading["num_workers"] or "no other",
        "pinned" if loading.get("pin_memory") else "pageable",
    )


def train(hparams_file, run_opts, overrides):
    """Runs one training stage, or what is left of it.

    Arguments
    ---------
    hparams_file : str
        The stage's YAML file.
    run_opts : dict
        SpeechBrain's run options.
    overrides : str or dict
        Settings that replace those of the file.

    Returns
    -------
    Path
        The output folder, with the folder ``model``.

    Raises
    ------
    FloatingPointError
        If losses or weights are not finite.
    """
    start_time = time.time()
    hparams = load_hparams(hparams_file, overrides)
    prepare(hparams)
    rows = load_rows(hparams)
    check_resuming(hparams, hparams_file, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    datasets = make_datasets(hparams, rows)
    start(hparams)
    earlier = earlier_training(hparams)
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
    try:
        brain.load_best()
    except FileNotFoundError as error:
        sys.exit(f"{error}")
    if "test" in datasets:
        brain.evaluate(
            datasets["test"],
            test_loader_kwargs=dict(hparams["test_dataloader_opts"]),
        )
    output = Path(hparams["output_folder"])
    training = describe_training(hparams, rows, brain.scores, earlier)
    run_on_main(
        write_model_folder,
        args=[hparams, output / "hyperparams.yaml", output / FOLDER, training],
    )
    seconds = time.time() - start_time
    run_on_main(write_summary, args=[output, brain.scores, seconds])
    return output


def write_summary(output_folder, scores, seconds):
    """Writes ``summary.json``, which marks a stage as finished."""
    with replacing(output_folder / SUMMARY) as temporary:
        summary = {"scores": scores, "seconds": round(seconds, 1)}
        temporary.write_text(json.dumps(summary, indent=2))


def main(arguments):
    """Runs from the command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)

    def run():
        try:
            train(hparams_file, run_opts, overrides)
        except FloatingPointError as error:
            sys.exit(f"{error}")

    run_in_group(run, run_opts)


if __name__ == "__main__":
    main(sys.argv[1:])
