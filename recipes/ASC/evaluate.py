#!/usr/bin/env python3
"""Scores trained models on a manifest, and writes a report.

    python evaluate.py hparams/evaluate.yaml --manifest cas.csv \\
        --models "{ASCMamba: results/a/1986, SE-Trans: results/b/1986}"

Leaves in its output folder ``report.html``, ``results.csv``, ``predictions/``
and ``plots/``.  Settings of the YAML file can be overridden on the command
line; SpeechBrain's run options (--device, --precision) work as in training.
"""

import copy
import os
import re
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import speechbrain as sb
from common import (
    check_range,
    check_stage,
    exit_on,
    load_hparams,
    locked,
    parse_arguments,
    save_settings,
)
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.utils.logger import get_logger

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.command_line.recordings import find_recordings
from ascmamba_modules.data.audio_files import audio_problems, load_audio
from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.data.manifest import (
    ManifestError,
    list_problems,
    read_manifest,
    unusable_files,
)
from ascmamba_modules.data.place_and_time import location_text
from ascmamba_modules.data.sessions import find_places
from ascmamba_modules.evaluation.difficulty import (
    KINDS,
    clip_statistics,
    similarity,
)
from ascmamba_modules.evaluation.embedding_map import FEWEST
from ascmamba_modules.evaluation.novelty import CONDITIONS, UNKNOWN, novelty_of
from ascmamba_modules.evaluation.perturbations import (
    move_to_unseen,
    shuffle_place_and_time,
)
from ascmamba_modules.evaluation.posterior_cache import PosteriorCache
from ascmamba_modules.evaluation.protocols import (
    ScoredClips,
    compare_pairs,
    score_all,
    score_audio,
    score_calibration,
    score_changed,
    score_context,
    score_metadata_baseline,
    score_parts,
    score_pooled,
    score_unknown,
)
from ascmamba_modules.evaluation.recording_changes import (
    DEVICES,
    EVENT_RATIOS,
    LOWEST_RATE,
    add_event,
)
from ascmamba_modules.evaluation.report import EvaluationReport
from ascmamba_modules.evaluation.tables import audio_table, summarise
from ascmamba_modules.evaluation.training_report import prediction_table
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import stage_of
from ascmamba_modules.pseudo_labels.selection import in_pool
from ascmamba_modules.utils.files import write_csv

logger = get_logger(__name__)

RESULTS = "results.csv"
FOLDERS = ("predictions", "plots")
POOLED = (1, 2, 4, 8)  # clips of a session
# They become names of files.
_MODEL_NAME = re.compile(r"[\w+=-][\w .+=-]*")


def check_hparams(hparams):
    """Raises an error for settings that would fail after the inference."""
    check_stage(hparams["stage"], "evaluate")
    models = hparams["models"]
    if not isinstance(models, dict) or not models:
        raise ValueError(
            f'models must be names with folders, got {models}: --models "{{'
            'first: results/finetune/1986}"'
        )
    for name in models:
        if not _MODEL_NAME.fullmatch(str(name)):
            raise ValueError(
                f"models: the name '{name}' is to be part of file names: "
                "use letters, digits, spaces and . _ + = -"
            )
    if hparams["similarity"] not in KINDS:
        raise ValueError(
            f"similarity must be {' or '.join(KINDS)}, got "
            f"{hparams['similarity']}"
        )
    _check_folders(Path(hparams["output_folder"]))
    _check_protocol(hparams)
    check_range(hparams, "batch_size", "resamples", low=1, whole=True)
    check_range(hparams, "num_workers", "hardest", low=0, whole=True)
    for name in ("shares", "seeds"):
        if not isinstance(hparams[name], list) or not hparams[name]:
            raise ValueError(f"{name} must be a list, got {hparams[name]}")
    for share in hparams["shares"]:
        if not 0 < share <= 1:
            raise ValueError(f"shares must be over 0 and up to 1, got {share}")
    for seed in hparams["seeds"]:
        check_range({"seeds": seed}, "seeds", low=0, whole=True)
    places = hparams["unseen_places"]
    if places is not None and not (
        isinstance(places, list)
        and all(isinstance(x, str) and x.strip() for x in places)
    ):
        raise ValueError(
            f"unseen_places must be a list of names or null, got {places}"
        )


def _check_folders(output):
    """Those of an earlier evaluation are replaced, others are the user's."""
    found = [name for name in FOLDERS if (output / name).exists()]
    if found and stage_of(output) != "evaluate":
        raise ValueError(
            f"{output} has {' and '.join(found)}, and not of an evaluation: "
            "choose another --output_folder"
        )


def _check_protocol(hparams):
    protocol, events = hparams["protocol"], hparams["events"]
    if protocol not in (None, "devices", "events", "sessions", "unknown"):
        raise ValueError(
            "protocol must be devices, events, sessions, unknown or null, got "
            f"{protocol}"
        )
    if protocol == "events" and not (events and os.path.isdir(events)):
        raise ValueError(
            f"protocol events needs a folder of sounds, got {events}: "
            "--events path/to/sounds"
        )


def find_events(hparams):
    """The sounds to mix in; exits if there are none, or some are unusable."""
    if hparams["protocol"] != "events":
        return []
    with exit_on(CommandError):
        found = find_recordings([hparams["events"]])
    files = [recording.file for recording in found]
    problems = audio_problems(files, [None] * len(files))
    lines = [f"{file}: {text}" for file, text in zip(files, problems) if text]
    if lines:
        head = f"events: {len(lines)} of {len(files)} sounds cannot be used"
        sys.exit(list_problems(head, lines))
    return files


def audio_changes(events):
    """What is done to the audio of the clips, by condition: that of DEVICES,
    or, if there are any, events mixed in."""

    def as_heard_by(change, samples, rate, number):
        """As a device hears it."""
        return change(samples, rate)

    def mix(ratio, samples, rate, number):
        """With an event, drawn by the clip's number."""
        file = np.random.default_rng(number).choice(events)
        event = load_audio(file, AudioNormalizer(rate)).numpy()
        return add_event(samples, event, ratio)

    if not events:
        return {n: partial(as_heard_by, f) for n, f in DEVICES.items()}
    return {f"sounds at {x} dB": partial(mix, x) for x in EVENT_RATIOS}


def note(notes, text, *values):
    """Logs what the reader must know, and keeps it for the report."""
    notes.append(text % values)
    logger.info(text, *values)


@exit_on(ManifestError)
def rows_of_split(path, split, remedy):
    """Rows of a split of a manifest; exits if there are none."""
    table = read_manifest(path)
    rows = table[table["split"] == split]
    if rows.empty:
        present = ", ".join(sorted(set(table["split"]) - {""})) or "none"
        problem = f"no rows of split '{split}' (splits in the file: {present})"
        raise ManifestError(path, [f"{problem}; {remedy}"])
    return rows


def load_scored(hparams):
    """The rows of the split to score; exits if none has a label."""
    path, split = hparams["manifest"], hparams["split"]
    rows = rows_of_split(path, split, "choose another --split")
    if not (rows["scene_label"] != "").any():
        sys.exit(
            f"{path}: all {len(rows)} rows of split '{split}' are unlabelled; "
            "scores need labels: choose another --split"
        )
    return rows


@exit_on(ManifestError)
def load_training(hparams):
    """The training clips, and those that pseudo-labels may have made so."""
    path = hparams["training_manifest"] or hparams["manifest"]
    table = read_manifest(path)
    training = table[(table["split"] == "train") | in_pool(table)]
    if training.empty and hparams["training_manifest"]:
        raise ManifestError(path, ["no rows of split 'train'"])
    return training


def load_evaluation(hparams):
    """The clips of the evaluation set, None if there is none."""
    if not hparams["evaluation_manifest"]:
        return None
    return rows_of_split(
        hparams["evaluation_manifest"],
        hparams["evaluation_split"],
        "choose another --evaluation_split, or leave out --evaluation_manifest",
    )


def check_files(hparams, **tables):
    """Exits if audio files cannot be used."""
    for name, table in tables.items():
        if table is not None and (problems := unusable_files(table)):
            sys.exit(f"{ManifestError(hparams[name], problems)}")


def load_models(hparams, run_opts):
    """Loads the models; exits if one cannot be."""
    try:
        return {
            str(name): SceneClassifier.from_hparams(folder, run_opts=run_opts)
            for name, folder in hparams["models"].items()
        }
    except (OSError, ValueError) as error:
        sys.exit(f"models: {error}")


def check_classes(classifiers, table, hparams):
    """The classes, and which clips have other labels, as the protocol unknown
    wants it; exits if models or manifest differ in them otherwise."""
    (first, classes), *others = (
        (name, model.classes) for name, model in classifiers.items()
    )
    for name, own in others:
        if set(own) != set(classes):
            sys.exit(
                f"models: {name} knows other classes ({', '.join(own)}) than "
                f"{first} ({', '.join(classes)}): evaluate them apart"
            )
    is_unknown = ~table["scene_label"].isin(classes)
    unknown = ", ".join(sorted(set(table["scene_label"][is_unknown])))
    is_asked = hparams["protocol"] == "unknown"
    if unknown and not is_asked or is_unknown.all():
        sys.exit(
            f"{hparams['manifest']}: labels {unknown} are not among the "
            f"classes of the models ({', '.join(classes)}); --protocol unknown "
            "scores how they are told from them"
        )
    if is_asked and not unknown:
        sys.exit(
            f"{hparams['manifest']}: protocol unknown needs clips with other "
            f"labels than the models' classes ({', '.join(classes)})"
        )
    return classes, is_unknown


def check_reliance(classifiers):
    """Exits if a model cannot tell unknown sounds."""
    for name, model in classifiers.items():
        try:
            _ = model.reliance
        except ValueError as error:
            sys.exit(f"protocol unknown: {name}: {error}")


def check_rates(hparams, classifiers):
    """Exits if a model hears too little for the filters of the devices."""
    for name, model in classifiers.items():
        rate = model.audio_normalizer.sample_rate
        if hparams["protocol"] == "devices" and rate <= LOWEST_RATE:
            sys.exit(
                f"protocol devices needs models of over {LOWEST_RATE} Hz, and "
                f"{name} has {rate} Hz"
            )


def make_caches(hparams, classifiers, scored, evaluation, folder):
    """Computes features, once in each setting; gives the cache of each model,
    and that of the settings' own features, with the evaluation clips."""
    caches = {}

    def cache_of(features, audio_normalizer):
        """The cache of such features, one for all models that share them."""
        # Computed on the CPU, wherever the model is.
        features = copy.deepcopy(features).cpu()
        cache = FeatureCache(
            folder, features, audio_normalizer, dtype=hparams["cache_dtype"]
        )
        return caches.setdefault(cache.folder, cache)

    own = cache_of(hparams["features"], hparams["audio_normalizer"])
    of_models = {
        name: cache_of(model.mods.features, model.audio_normalizer)
        for name, model in classifiers.items()
    }
    for cache in caches.values():
        wavs = list(scored["wav"])
        if cache is own and evaluation is not None:
            wavs += list(evaluation["wav"])
        cache.build(wavs, hparams["num_workers"])
    return of_models, own


def note_clips(rows, split, clips, notes):
    """Says what is scored and what there is too little of."""
    n_sessions = len(set(clips.sessions))
    note(
        notes,
        "%d clips of split '%s' are scored; sessions: %d.",
        *(len(clips.table), split, n_sessions),
    )
    unlabelled = rows[rows["scene_label"] == ""]
    if len(unlabelled):
        note(
            notes,
            "%d rows of the split have no label and are not scored (the "
            "first: line %d, ID %s).",
            *(len(unlabelled), *unlabelled.iloc[0][["line", "ID"]]),
        )
    absent = [
        name
        for number, name in enumerate(clips.classes)
        if number not in clips.targets
    ]
    if absent:
        note(
            notes,
            "No clips of %s: macro accuracy is over the others (%d).",
            *(", ".join(absent), len(clips.classes) - len(absent)),
        )
    if n_sessions == 1:
        note(notes, "One session has no intervals, tests and temperature.")


def measure_similarities(clips, evaluation, cache):
    """Similarity of each clip to the evaluation set, by kind; exits if there
    is nothing to compare with."""

    def statistics(table):
        """Statistics of each clip's features (clip, number)."""
        return np.stack([clip_statistics(cache.load(w)) for w in table["wav"]])

    own, others = statistics(clips.table), statistics(evaluation)
    same = np.equal.outer(
        clips.table["wav"].to_numpy(), evaluation["wav"].to_numpy()
    )
    try:
        return {kind: similarity(own, others, kind, same) for kind in KINDS}
    except ValueError as error:
        sys.exit(f"evaluation_manifest: {error}")


def find_unseen_places(hparams, scored, training, evaluation):
    """Places to put in for those of the clips; none if there are none.  Exits
    if one that is named is not new."""
    seen = pd.concat([scored, training])["location"].map(location_text)
    seen = {*seen, ""}
    if named := hparams["unseen_places"]:
        known = sorted(x for x in named if location_text(x) in seen)
        if known:
            sys.exit(
                f"unseen_places: {', '.join(known)} are in the training or "
                "the scored clips"
            )
        return list(named)
    places = [] if evaluation is None else set(find_places(evaluation))
    return sorted(x for x in places if location_text(x) not in seen)


def choose_changed(clips, parts, shares, notes):
    """The clips that exchange place and time: Valid-Hard, or all."""
    changed, text = clips, "all"
    if parts is not None:
        is_hard = parts == "Valid-Hard"
        if is_hard.sum() < 2:
            note(notes, "Valid-Hard has %d clips.", is_hard.sum())
        else:
            changed, text = clips.take(is_hard), "Valid-Hard"
    n = len(changed.table)
    note(notes, "Place and time are exchanged within %s, %d clips.", text, n)
    if idle := [share for share in shares if round(share * n) < 2]:
        note(
            notes,
            "%g %% of them are less than two clips, which exchange nothing.",
            100 * max(idle),
        )
    return changed


def run_protocols(hparams, models, data, cache, notes):
    """Runs all protocols that there is the data for: the clips, those of
    training and of the evaluation set, unseen places, sounds to mix in, clips
    of classes that the models do not have.

    Returns
    -------
    results : pandas.DataFrame
        See :mod:`ascmamba_modules.evaluation.protocols`.
    similarities : dict
        See :func:`measure_similarities`; None without evaluation set.
    scaled : dict
        Log-posteriors after temperature scaling, by model.
    """
    clips, training, evaluation, places, events, unknown = data
    results = [score_all(models, clips), score_context(models, clips)]
    metadata_baseline = partial(score_metadata_baseline, training, clips)
    everything = np.full(len(clips.table), "metadata only")
    results.append(
        metadata_baseline("audio and metadata", everything, ["metadata only"])
    )

    similarities = parts = None
    if evaluation is None:
        note(
            notes,
            "No Valid-Easy and Valid-Hard: they need --evaluation_manifest.",
        )
    else:
        similarities = measure_similarities(clips, evaluation, cache)
        is_hard = similarities[hparams["similarity"]] > hparams["threshold"]
        parts = np.where(is_hard, "Valid-Hard", "Valid-Easy")
        results.append(
            score_parts(
                models, clips, "difficulty", parts, ["Valid-Easy", "Valid-Hard"]
            )
        )

    changed = choose_changed(clips, parts, hparams["shares"], notes)
    random = hparams["shares"], hparams["seeds"]
    results.append(
        score_changed(
            *(models, changed, "shuffled place and time"),
            *(*random, shuffle_place_and_time),
        )
    )
    if not places:
        note(
            notes,
            "No places are put in for the clips' own: the evaluation set has "
            "none that are new; name some by --unseen_places.",
        )
    else:
        note(notes, "Places put in: %s.", ", ".join(places))
        # As the paper has it, of all clips (Fig. 4), not Valid-Hard (Fig. 3).
        results.append(
            score_changed(
                *(models, clips, "unseen places", *random),
                lambda table, *draw: move_to_unseen(table, places, *draw),
            )
        )

    if training.empty:
        note(
            notes,
            "Nothing on seen and unseen sessions: no rows of split 'train'; "
            "name them by --training_manifest.",
        )
    else:
        conditions = novelty_of(training, clips.table)
        steps = conditions, [*CONDITIONS, UNKNOWN]
        results.append(score_parts(models, clips, "seen in training", *steps))
        results.append(metadata_baseline("seen in training", *steps))

    protocol = hparams["protocol"]
    if protocol == "sessions":
        sizes = POOLED, hparams["seeds"], protocol
        results.append(score_pooled(models, clips, *sizes))
    elif protocol == "unknown":
        results.append(score_unknown(models, clips, unknown))
    elif protocol:
        changes = audio_changes(events)
        results.append(score_audio(models, clips, protocol, changes))

    scaled = {}
    if len(set(clips.sessions)) > 1:
        frame, scaled = score_calibration(models, clips)
        results += [frame, compare_pairs(models, clips)]
    results = [frame for frame in results if len(frame)]
    return pd.concat(results, ignore_index=True), similarities, scaled


def write_predictions(folder, models, clips):
    """Writes a row a clip with its posteriors, a file a model."""
    for name, answers in models.items():
        table = prediction_table(
            clips.table["ID"],
            clips.targets,
            answers.log_posteriors(clips.table),
            clips.classes,
        )
        write_csv(table, folder / f"{name}.csv")


def write_all(hparams, models, clips, cache, found, notes):
    """Writes results, predictions, plots and page; prints the summary."""
    results, similarities, scaled = found
    output = Path(hparams["output_folder"])
    for name in FOLDERS:  # of an earlier evaluation, see _check_folders
        shutil.rmtree(output / name, ignore_errors=True)
    write_csv(results, output / RESULTS)
    write_predictions(output / "predictions", models, clips)
    summary = summarise(results)
    report = EvaluationReport(output, results, models, clips)
    report.add_overview(summary, notes)
    report.add_classes()
    report.add_place_and_time()
    if similarities is not None:
        report.add_difficulty(
            similarities, hparams["similarity"], hparams["threshold"]
        )
    if (results["protocol"] == "seen in training").any():
        report.add_conditions()
    if protocol := hparams["protocol"]:
        report.add_changes(protocol)
    report.add_calibration(scaled)
    if len(clips.table) >= FEWEST:
        report.add_maps()
    report.add_hardest(cache, hparams["hardest"])
    path = report.write(hparams["manifest"], hparams["split"])
    print(f"\n{summary.to_string(index=False)}")
    if protocol:
        table = audio_table(results, protocol)
        what = "Unknown sounds, %"
        if protocol != "unknown":
            what = f"Macro accuracy, {protocol}"
        print(f"\n{what}\n{table.to_string(index=False)}")
    print(f"\nReport: {path}\nResults: {output / RESULTS}")


def evaluate(hparams_file, run_opts, overrides):
    """Runs the evaluation."""
    start = time.perf_counter()
    hparams = load_hparams(hparams_file, overrides, check_hparams)
    rows = load_scored(hparams)
    scored = rows[rows["scene_label"] != ""]
    training = load_training(hparams)
    evaluation = load_evaluation(hparams)
    places = find_unseen_places(hparams, scored, training, evaluation)
    check_files(hparams, manifest=scored, evaluation_manifest=evaluation)
    events = find_events(hparams)
    classifiers = load_models(hparams, run_opts)
    check_rates(hparams, classifiers)
    if hparams["protocol"] == "unknown":
        check_reliance(classifiers)
    classes, is_unknown = check_classes(classifiers, scored, hparams)
    notes = []
    known = scored[~is_unknown]
    clips = ScoredClips(known, classes, hparams["resamples"])
    unknown = scored[is_unknown]
    data = clips, training, evaluation, places, events, unknown
    with ExitStack() as stack:
        stack.enter_context(locked(hparams["output_folder"]))
        save_settings(hparams_file, overrides, hparams["output_folder"])
        sb.create_experiment_directory(hparams["output_folder"])
        note_clips(rows, hparams["split"], clips, notes)
        if is_unknown.any():
            text = "%d more clips have other labels: they are unknown sounds."
            note(notes, text, is_unknown.sum())
        folder = hparams["feature_cache"] or stack.enter_context(
            tempfile.TemporaryDirectory()
        )
        caches, cache = make_caches(
            hparams, classifiers, scored, evaluation, folder
        )
        models = {
            name: PosteriorCache(
                model, caches[name], classes, hparams["batch_size"]
            )
            for name, model in classifiers.items()
        }
        device = next(iter(classifiers.values())).device
        logger.info("Models: %s; device: %s", ", ".join(models), device)
        found = run_protocols(hparams, models, data, cache, notes)
        write_all(hparams, models, clips, cache, found, notes)
    logger.info("Evaluated in %.0f s", time.perf_counter() - start)


def main(arguments):
    """Runs from the command line."""
    evaluate(*parse_arguments(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
