"""Distillation, step by step; train.py runs it for ``stage: distill``."""

import hashlib
import time
from pathlib import Path

import pandas as pd
import speechbrain as sb
from common import (
    check_range,
    exit_naming,
    exit_on,
    load_hparams,
    locked,
    read_overrides,
    save_settings,
)
from ruamel.yaml import YAML
from safetensors.torch import save
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from training import (
    check_limits,
    check_resuming,
    fit_and_test,
    log_rate,
    make_brain,
    write_summary,
)

from ascmamba_modules.data.manifest import (
    ManifestError,
    make_dataset,
    read_manifest,
    unusable_files,
)
from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.distillation import (
    UNLABELLED,
    DistillBrain,
    make_mixtures,
    mixture_dataset,
)
from ascmamba_modules.encoders.mobilenet import load_published
from ascmamba_modules.model_folder.config import FOLDER
from ascmamba_modules.model_folder.folder import write_model_folder
from ascmamba_modules.model_folder.training import describe_training
from ascmamba_modules.utils.files import file_stamp

logger = get_logger(__name__)


def distill(hparams_file, run_opts, overrides):
    """Trains a student on a teacher's answers, or what is left of it; see
    :func:`training.train`."""
    start_time = time.time()
    rows, labels, overrides = read_rows(hparams_file, overrides)
    hparams = load_hparams(hparams_file, overrides, check_distillation)
    with exit_naming(hparams_file):
        load_published(
            hparams["teacher_encoder"],
            hparams["teacher"],
            hparams["teacher_checksum"],
        )
    output = Path(hparams["output_folder"])
    with locked(output):
        check_resuming(hparams, hparams_file, overrides)
        save_settings(hparams_file, overrides, hparams["output_folder"])
        sb.create_experiment_directory(hparams["output_folder"])
        hparams["label_encoder"].update_from_iterable(hparams["scene_labels"])
        brain = make_brain(hparams, run_opts)
        log_losses(hparams)
        datasets = {}
        for split, table in rows.items():
            if len(table):
                folder = output / "mixtures" / split
                mix(hparams, table, labels, folder, brain.device)
                datasets[split] = mixture_dataset(folder)
        hparams["student"].measure(output / "mixtures" / "train")
        # The same random numbers whether the mixtures were there or not.
        sb.utils.seed.seed_everything(hparams["seed"])
        fit_and_test(brain, datasets)
        training = describe(hparams, rows, labels, brain.scores)
        run_on_main(
            write_model_folder,
            args=[
                *(hparams, output / "hyperparams.yaml", output / FOLDER),
                training,
            ],
        )
        seconds = time.time() - start_time
        run_on_main(write_summary, args=[output, brain.scores, seconds])
    return output


def read_rows(hparams_file, overrides):
    """Reads the clips to learn from and to choose the epoch by, and the
    scenes that the former are labelled with."""
    with exit_naming(hparams_file), open(hparams_file, encoding="utf-8") as f:
        overrides = read_overrides(overrides)
        settings = {**YAML().load(f), **overrides}
    with exit_on(ManifestError, OSError):
        table = read_manifest(settings["manifest"])
        rows = {
            "train": table[table["split"].isin(["train", ""])],
            "valid": table[table["split"] == "valid"],
        }
        if settings["transductive"]:
            rest = table[~table["split"].isin(["train", "valid", ""])]
            logger.warning(
                "Transductive: %d clips of %s are learned from, without their "
                "labels",
                *(len(rest), ", ".join(sorted(set(rest["split"]))) or "none"),
            )
            rest = rest.assign(scene_label="")
            rows["train"] = pd.concat([rows["train"], rest])
        check_files(pd.concat(rows.values()), settings["manifest"])
        if settings["unlabelled"]:
            more = read_manifest(settings["unlabelled"])
            more = more.assign(scene_label="", ID="unlabelled/" + more["ID"])
            is_held = ~table.index.isin(rows["train"].index)
            held = is_recorded_with(more, table[is_held])
            if held.any():
                logger.warning(
                    "%d clips of %s are left out: they are of recordings that "
                    "%s holds out",
                    *(held.sum(), settings["unlabelled"], settings["manifest"]),
                )
            more = more[~held]
            check_files(more, settings["unlabelled"])
            rows["train"] = pd.concat([rows["train"], more])
        if not len(rows["train"]):
            problem = "no row has split 'train' or none"
            raise ManifestError(settings["manifest"], [problem])
    labels = sorted(set(rows["train"]["scene_label"]) - {""})
    return rows, labels, {**overrides, "n_labels": len(labels)}


def check_files(table, manifest):
    """Raises a ManifestError for audio files that cannot be used."""
    if problems := unusable_files(table):
        raise ManifestError(manifest, problems)


def is_recorded_with(clips, others):
    """Marks the clips that are among others, or of a recording of theirs."""
    sessions = find_sessions(pd.concat([clips, others], ignore_index=True))
    sessions = sessions.to_numpy()
    same = pd.Series(sessions[: len(clips)]).isin(sessions[len(clips) :])
    return clips["wav"].isin(others["wav"]) | same.to_numpy()


def check_distillation(settings):
    """Raises a ValueError for settings that would fail later."""
    check_range(
        settings,
        *("rounds", "batch_size", "number_of_epochs"),
        low=1,
        whole=True,
    )
    check_range(settings, "num_workers", "warmup_steps", low=0, whole=True)
    check_limits(settings)
    check_range(settings, "mixing_prob", "low_pass", low=0, high=1)
    check_range(settings, "mixture_length", low=0.1)


def log_losses(hparams):
    """Says once what is weighed how, and how the learning rate changes."""
    logger.info(
        "Weights of the losses: %g for tags, %g for the embedding, %g for "
        "labels",
        hparams["tag_weight"],
        hparams["embedding_weight"],
        hparams["label_weight"],
    )
    log_rate(hparams)


@exit_on(ValueError, OSError)
def mix(hparams, table, labels, folder, device):
    """Makes the mixtures of a split, unless they are there."""
    sb.utils.seed.seed_everything(hparams["seed"])
    weights = save(hparams["teacher_encoder"].state_dict())
    description = {
        "clips": table["ID"].tolist(),
        "files": [[wav, *file_stamp(wav)] for wav in table["wav"]],
        "weights": hashlib.sha256(weights).hexdigest(),
        "labels": table["scene_label"].tolist(),
        **{
            name: hparams[name]
            for name in (
                *("seed", "teacher", "rounds", "mixture_length"),
                *("mixing_prob", "equalizer", "low_pass", "clip_length"),
            )
        },
        "features": hparams["features"].settings,
    }
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(labels)
    encoder.enforce_label("", UNLABELLED)
    known = table["scene_label"].isin(labels)
    clips = make_dataset(
        table.assign(scene_label=table["scene_label"].where(known, "")),
        *(hparams["audio_normalizer"], encoder),
        clip_length=hparams["clip_length"],
    )
    loader = make_dataloader(clips, **hparams["train_dataloader_opts"])
    run_on_main(
        make_mixtures,
        args=[
            *(loader, hparams["mixer"], hparams["features"]),
            *(hparams["teacher_model"], hparams["rounds"], folder),
            *(description, device),
        ],
    )


def describe(hparams, rows, labels, scores):
    """Describes the training for the model card."""
    settings = {**hparams, "scene_labels": labels}
    training = describe_training(settings, rows, {})
    training["settings"][DistillBrain.SCORE] = scores.get("valid")
    return training
