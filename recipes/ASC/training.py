"""One training stage, step by step; train.py and pseudo_label.py run it."""

import hashlib
import json
import math
import os
import sys
import time
from pathlib import Path

import pandas as pd
import speechbrain as sb
from common import (
    check_clipping,
    check_range,
    exit_naming,
    exit_on,
    load_hparams,
    locked,
    read_overrides,
    save_settings,
)
from corpus import LICENCES
from hyperpyyaml import resolve_references
from prepare_cas import prepare_cas
from prepare_pretraining import prepare_pretraining
from ruamel.yaml import YAML
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import TensorboardLogger
from stages import SUMMARY

from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.data.manifest import (
    TRAINING_SPLITS,
    ManifestError,
    clean_label,
    make_dataset,
    read_manifest,
    read_training_rows,
)
from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.inference.reliance import fit_reliance, save_reliance
from ascmamba_modules.model_folder.config import FOLDER, find_model, read_config
from ascmamba_modules.model_folder.folder import (
    SHAPING,
    changed_settings,
    start_from,
    write_model_folder,
)
from ascmamba_modules.model_folder.training import describe_training
from ascmamba_modules.teaching import embed_files
from ascmamba_modules.utils.files import replacing
from ascmamba_modules.utils.remote import is_url

logger = get_logger(__name__)

ROWS = "rows.sha256"  # tells the rows that a training was begun with
CALIBRATED_CLIPS = 2000  # more take time, and tell no more
SHARES = ("metadata_dropout", "metadata_swap", "band_pass", "augment_prob")
LIMITS = {
    **{name: {"low": 0, "high": 1} for name in SHARES},
    "label_smoothing": {"low": 0, "high": 0.99},
    "lr": {"low": 0},
    "lr_final": {"low": 0},
    "weight_decay": {"low": 0},
}


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
    SystemExit
        For settings, clips or weights that cannot be trained with.
    """
    start_time = time.time()
    with exit_naming(hparams_file):
        given = read_overrides(overrides)
    overrides = add_scene_labels(hparams_file, given)
    hparams = load_hparams(hparams_file, overrides, check_settings)
    with exit_naming(hparams_file):
        hparams["cache"] = make_cache(hparams)
    drop_unused_context(hparams)
    prepare(hparams)
    rows = load_rows(hparams)
    check_accumulation(hparams, run_opts, rows["train"])
    check_pretrained(hparams)
    check_freeze(hparams)
    output = Path(hparams["output_folder"])
    with locked(output):
        check_resuming(hparams, hparams_file, overrides)
        check_rows(hparams, rows)
        save_settings(hparams_file, overrides, hparams["output_folder"])
        sb.create_experiment_directory(hparams["output_folder"])
        datasets = make_datasets(hparams, rows)
        start(hparams)
        earlier = earlier_training(hparams)
        fill_cache(hparams, rows)
        brain = make_brain(hparams, run_opts)
        if overrides != given:
            logger.info(
                "Classes of the manifest, not of %s: %s",
                *(hparams_file, ", ".join(hparams["scene_labels"])),
            )
        log_choices(brain, rows)
        fit_and_test(brain, datasets)
        training = describe_training(
            *(hparams, rows, brain.scores, earlier, LICENCES),
            temperature=brain.temperature,
        )
        run_on_main(
            write_model_folder,
            args=[
                *(hparams, output / "hyperparams.yaml", output / FOLDER),
                training,
            ],
        )
        run_on_main(calibrate, args=[output / FOLDER, rows["valid"]])
        seconds = time.time() - start_time
        run_on_main(write_summary, args=[output, brain.scores, seconds])
    return output


def add_scene_labels(hparams_file, overrides):
    """Takes the classes from the manifest where ``scene_labels`` is null, or
    not given and none of those in the file occurs in the manifest."""
    with exit_naming(hparams_file), open(hparams_file, encoding="utf-8") as f:
        settings = {**YAML().load(f), **overrides}
    own = settings.get("scene_labels", ())
    is_fixed = "scene_labels" in overrides or settings.get("data_folder")
    if own is not None and (is_fixed or not isinstance(own, list)):
        return overrides
    try:
        table = read_manifest(settings["manifest"])
    except (ManifestError, TypeError) as error:  # TypeError: none is given
        if own is None:
            sys.exit(f"{error}")
        return overrides  # what reads all settings and clips will tell
    labels = table["scene_label"][table["split"].isin(TRAINING_SPLITS)]
    labels = sorted(set(labels) - {""})
    if own is not None and (not labels or set(labels) & set(own)):
        return overrides
    return {**overrides, "scene_labels": labels}


def check_settings(settings):
    """Raises a ValueError for settings that would fail later."""
    check_scene_labels(settings["scene_labels"])
    check_range(settings, "batch_size", "number_of_epochs", low=1, whole=True)
    check_range(settings, "num_workers", "warmup_steps", low=0, whole=True)
    check_limits(settings)
    seconds = settings["clip_length"]
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ValueError(
            f"clip_length must be a number of seconds or null, got {seconds}"
        )


def check_limits(settings):
    """Raises a ValueError for rates and shares that train nothing, or harm."""
    for name, limits in LIMITS.items():
        if name in settings:  # not each YAML file has all of them
            check_range(settings, name, **limits)
    if "max_grad_norm" in settings:
        check_clipping(settings)


def check_scene_labels(labels):
    """Raises a ValueError unless labels are a list of different names."""
    names = isinstance(labels, list) and all(isinstance(x, str) for x in labels)
    if not names or len(set(labels)) != len(labels) or not labels:
        raise ValueError(
            f"scene_labels must be a list of different names, got {labels}; "
            "quote names that are numbers or words of YAML: "
            "--scene_labels \"['1', 'yes']\""
        )
    for label in labels:
        # The label encoder's file has " => " behind each name.
        if label != clean_label(label) or " => " in label:
            raise ValueError(
                f"scene_labels: write {label!r} without ' => ', blanks at its "
                "ends and decomposed accents, as the manifest's is read"
            )


def make_cache(hparams):
    """Makes the cache of features, None if they are not to be kept."""
    if not hparams["feature_cache"]:
        return None
    return FeatureCache(
        hparams["feature_cache"],
        hparams["features"],
        hparams["audio_normalizer"],
        hparams["clip_length"],
        hparams["cache_dtype"],
    )


def drop_unused_context(hparams):
    """Drops what reads place and time from a model that does not use them."""
    if not hparams.get("use_context", False):
        hparams["modules"].pop("context_encoder", None)
        for name in ("context_encoder", "tokenizer"):
            hparams["checkpointer"].recoverables.pop(name, None)


def prepare(hparams):
    """Writes the manifest, if the folder of a corpus is given."""
    folder, output = hparams.get("data_folder"), hparams["manifest"]
    if not folder:
        return
    ways = {
        "cas": lambda: prepare_cas(folder, output),
        "pretraining": lambda: prepare_pretraining(folder, folder, output),
    }
    if hparams["corpus"] not in ways:
        sys.exit(f"corpus must be one of {', '.join(ways)}")
    with exit_on(OSError, ValueError):
        run_on_main(ways[hparams["corpus"]])


@exit_on(ManifestError)
def load_rows(hparams):
    """Reads and checks the manifest; exits with all its problems in one
    message."""
    return read_training_rows(hparams["manifest"], hparams["scene_labels"])


def check_accumulation(hparams, run_opts, clips):
    """Exits if an epoch has fewer batches than a step is made of."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    batches = math.ceil(len(clips) / processes / hparams["batch_size"])
    factor = run_opts.get("grad_accumulation_factor", 1)
    if factor > batches:
        sys.exit(
            f"--grad_accumulation_factor {factor} is more than the {batches} "
            "batches of an epoch: nothing would be trained"
        )


def check_pretrained(hparams):
    """Exits unless there is an earlier stage's model where one is named."""
    if hparams["pretrained_folder"] and not is_resumed(hparams):
        with exit_on(FileNotFoundError):
            find_model(hparams["pretrained_folder"])


def check_freeze(hparams):
    """Exits unless the frozen parts are there, and leave some to train."""
    model, frozen = hparams["model"], hparams["freeze"]
    parts = [name for name, _ in model.named_children()]
    if not isinstance(frozen, list):
        sys.exit(f"freeze must be a list of parts of the model, got {frozen}")
    modules = dict(model.named_modules())
    for name in frozen:
        if name not in modules:
            sys.exit(
                f"freeze: the model has no part '{name}'; it has "
                f"{', '.join(parts)}"
            )
    still = {p for name in frozen for p in modules[name].parameters()}
    if still.issuperset(p for p in model.parameters() if p.requires_grad):
        sys.exit("freeze leaves nothing of the model to train")


def is_resumed(hparams):
    """Whether the output folder holds a checkpoint to go on from."""
    return hparams["checkpointer"].find_checkpoint() is not None


def check_resuming(hparams, hparams_file, overrides):
    """Exits if the output folder holds a training with other settings; warns
    of those that may change on the way, as the rate after a loss of NaN."""
    if not is_resumed(hparams):
        return
    resolved = Path(hparams["output_folder"], "hyperparams.yaml")
    with open(hparams_file, encoding="utf-8") as file:
        new = resolve_references(file, overrides).read()
    try:
        changed = changed_settings(resolved.read_text("utf-8"), new)
    except (OSError, ValueError) as error:
        changed = []
        logger.warning(
            "%s cannot be read (%s) and is written anew: that the settings are "
            "those which the training was begun with is not checked",
            *(resolved, error),
        )
    folder = Path(hparams["output_folder"])
    refused = [name for name in changed if name in SHAPING]
    if (folder / SUMMARY).exists():  # nothing is left to train with them
        refused = refused or changed
    if refused:
        sys.exit(
            f"{folder} holds a training with another {', '.join(refused)}: "
            "choose another --output_folder, or the settings of that training "
            "to go on with it."
        )
    if changed:
        logger.warning(
            "The training in %s was begun with another %s than it goes on with",
            *(folder, ", ".join(changed)),
        )


def check_rows(hparams, rows):
    """Exits if the output folder holds a training on other rows; keeps what
    tells them."""
    manifest, path = hparams["manifest"], Path(hparams["output_folder"], ROWS)
    table = pd.concat(rows.values()).sort_values("ID")
    folder = Path(manifest).parent  # all may have moved together
    table["wav"] = [
        wav if is_url(wav) else os.path.relpath(wav, folder)
        for wav in table["wav"]
    ]
    columns = ["ID", "wav", "scene_label", "split", "location", "record_time"]
    text = table[columns].to_csv(index=False)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    if is_resumed(hparams) and path.exists() and path.read_text() != digest:
        sys.exit(
            f"{path.parent} holds a training on other rows than those of "
            f"{manifest}: choose another --output_folder, or remove this one."
        )
    if if_main_process():
        with replacing(path) as temporary:
            temporary.write_text(digest)


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
            hparams["clip_length"],
            hparams["cache"],
        )
        for split, table in rows.items()
        if len(table)
    }


def start(hparams):
    """Takes over an earlier stage's model, at the beginning of a training."""
    folder = hparams["pretrained_folder"]
    if not folder:
        return
    hparams["normalize"].update_until_epoch = 0  # its statistics stay
    if is_resumed(hparams):
        logger.info("Resuming: the weights of %s are not loaded again", folder)
        return
    resolved = Path(hparams["output_folder"], "hyperparams.yaml")
    try:
        start_from(folder, hparams, resolved)
    except (OSError, ValueError) as error:
        sys.exit(f"pretrained_folder: {error}")


def earlier_training(hparams):
    """What is known of the training that this one starts from; None without."""
    folder = hparams["pretrained_folder"]
    if not folder:
        return None
    try:
        return read_config(find_model(folder)).get("training") or {}
    except (OSError, ValueError) as error:  # resuming does without the folder
        logger.warning(
            "The model card will not say what the weights started from: %s",
            error,
        )
        return {}


def fill_cache(hparams, rows):
    """Computes the features that the cache does not have yet."""
    if hparams["cache"]:
        wavs = [wav for table in rows.values() for wav in table["wav"]]
        run_on_main(hparams["cache"].build, args=[wavs, hparams["num_workers"]])


def make_brain(hparams, run_opts):
    """Makes the Brain that trains, with the loggers asked for."""
    if hparams["tensorboard"]:
        hparams["train_loggers"].append(
            TensorboardLogger(hparams["output_folder"] + "/tensorboard")
        )
    return hparams["brain_class"](
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )


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
    log_losses_and_rate(vars(brain.hparams))


def log_losses_and_rate(hparams):
    """Says once how the Brain changes the clips, the losses and the rate."""
    augmentation = hparams["augmentation"]
    choices = {
        "share augmented": getattr(augmentation, "augment_prob", None),
        "alpha of mixup": getattr(hparams["mixup"], "alpha", None),
        "label smoothing": hparams["label_smoothing"],
        "balanced sampling": hparams["balanced_sampling"],
        "weight of the supersets": hparams.get("coarse_weight"),
    }
    texts = [f"{k}: {v}" for k, v in choices.items() if v is not None]
    logger.info("In training, %s", ", ".join(texts))
    log_rate(hparams)


def log_rate(hparams):
    """Says once how the learning rate changes."""
    logger.info(
        "Learning rate: %s, after %d steps of warm-up",
        type(hparams["lr_annealing"]).__name__,
        hparams.get("warmup_steps", 0),
    )


@exit_on(FloatingPointError, OSError)
def fit_and_test(brain, datasets):
    """Trains, loads the best checkpoint, and tests it if there are clips."""
    hparams = brain.hparams
    brain.fit(
        hparams.epoch_counter,
        datasets["train"],
        datasets.get("valid"),
        train_loader_kwargs=dict(hparams.train_dataloader_opts),
        valid_loader_kwargs=dict(hparams.test_dataloader_opts),
    )
    brain.load_best()
    if "test" in datasets:
        brain.evaluate(
            datasets["test"],
            test_loader_kwargs=dict(hparams.test_dataloader_opts),
        )


def calibrate(folder, table):
    """Fits what tells unknown sounds and possible classes, on validation
    clips; says so where it cannot."""
    table = table.sample(min(len(table), CALIBRATED_CLIPS), random_state=0)
    try:
        if table.empty:
            raise ValueError("no validation clips")
        classifier = SceneClassifier.from_hparams(
            folder, run_opts={"device": "cpu"}
        )
        targets = table["scene_label"].map(classifier.classes.index)
        reliance = fit_reliance(
            *embed_files(classifier, table, classify=True),
            *(targets.to_numpy(), find_sessions(table).to_numpy()),
        )
    except (OSError, ValueError) as error:
        logger.info(
            "The model will not tell unknown sounds or possible classes: %s",
            error,
        )
    else:
        save_reliance(reliance, folder)


def write_summary(output_folder, scores, seconds):
    """Writes ``summary.json``, which marks a stage as finished."""
    with replacing(output_folder / SUMMARY) as temporary:
        summary = {"scores": scores, "seconds": round(seconds, 1)}
        temporary.write_text(json.dumps(summary, indent=2))
