#!/usr/bin/env python3
"""Trains and scores systems on ESC-10, and tells what each costs.

    python compare.py path/to/esc10 results/esc10 --teacher mn04
    python compare.py my_clips.csv results/my_clips --teacher mn04

The five official folds of ESC-10, or five of a manifest that keep sessions
together, each with two seeds; each fold is answered by a model that has not
heard its recordings, nor has what the model was distilled from.
The same command again goes on where it was.  compare.yaml lists the
systems.  The table holds all that was scored in the output folder:

- multiply-adds, and CPU milliseconds on one core, features included, for ten
  seconds of audio;
- CPU seconds of a training, median; those of one that was resumed are unknown;
- accuracy with its 95 % interval, for which source recordings are drawn.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hyperpyyaml import load_hyperpyyaml
from prepare_esc10 import FOLDS, prepare_esc10
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer
from stages import (
    RECIPE,
    Stage,
    one_line_at_the_end,
    read_systems,
    run_stages,
    training_stage,
    write_once,
    write_table,
)

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.data.manifest import read_manifest, write_manifest
from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.encoders.late_fusion import LateFusion
from ascmamba_modules.evaluation.bootstrap import interval_by_session
from ascmamba_modules.evaluation.recording_changes import DEVICES
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.teaching import embed_files, fit, linear_layer
from ascmamba_modules.utils.files import read_json, replacing
from ascmamba_modules.utils.model_size import multiply_adds

SYSTEMS = RECIPE / "compare.yaml"
SCORES, TABLE = "scores.json", "comparison"
SECONDS = 10
CLEAN = "accuracy"
CONDITIONS = {CLEAN: lambda x, rate: x, **DEVICES}


@dataclass(frozen=True)
class System:
    """A trained system: what gives the class of a waveform, what resamples
    for it, and its size, without the features."""

    answer: callable
    normalizer: AudioNormalizer
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Run:
    """A fold with a seed; ``stage`` is its training, None without one."""

    fold: int
    seed: int
    title: str
    folder: Path
    settings: dict
    stage: Stage | None


def fit_svm(table):
    """Fits an SVM to statistics of the bands of each clip."""
    extract, normalizer = LogMel(), AudioNormalizer(44100)

    def embed(wav):
        x = extract(wav[None])[0].numpy()
        steps = np.abs(np.diff(x, axis=0)).mean(0)
        return np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0), steps])

    x = [embed(load_audio(path, normalizer)) for path in table["wav"]]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SVC()),
        {"svc__C": np.logspace(-1, 3, 9)},
        cv=StratifiedGroupKFold(4, shuffle=True, random_state=0),
    ).fit(x, table["scene_label"], groups=table["session"])
    svm = search.best_estimator_[-1]
    size = svm.support_vectors_.size
    return System(
        *(lambda wav: search.predict([embed(wav)])[0], normalizer),
        *(size + svm.dual_coef_.size + svm.intercept_.size, size),
    )


class Frozen(torch.nn.Module):
    """An encoder and a linear classifier, which is yet to be fitted."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.classifier = torch.nn.Linear(encoder.embedding_size, 2)

    def forward(self, features, context=None, lengths=None):
        return self.classifier(self.embed(features, context, lengths))

    def embed(self, features, context=None, lengths=None):
        return self.encoder(features, lengths)

    log_posteriors = staticmethod(LateFusion.log_posteriors)


def load_frozen(hparams, settings):
    """Loads the features and the encoder of a YAML file as they are."""
    with tempfile.TemporaryDirectory() as folder, open(hparams) as file:
        names = {"manifest": "", "output_folder": folder}
        parts = load_hyperpyyaml(file, {**settings, **names})
    modules = {n: parts[n] for n in ("features", "normalize", "model")}
    modules["model"] = Frozen(modules["model"].audio_encoder)
    return SceneClassifier(modules, {**parts, "modules": modules})


def replace_classifier(classifier, table):
    """Fits a linear layer to the embeddings of clips."""
    search = fit(
        embed_files(classifier, table["wav"]),
        *(table["scene_label"], table["session"]),
    )
    classifier.mods.model.classifier = linear_layer(search.best_estimator_)
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(search.classes_.tolist())
    encoder.expect_len(len(search.classes_))
    classifier.hparams.label_encoder = encoder


def describe(classifier):
    """Makes a system of a classifier."""
    model, extract = classifier.mods["model"], classifier.mods["features"]
    ten_seconds = extract(torch.zeros(1, SECONDS * extract.sample_rate))
    return System(
        lambda wav: classifier.classify_batch(wav)[3][0],
        classifier.audio_normalizer,
        sum(p.numel() for p in model.parameters()),
        multiply_adds(model, ten_seconds)[0],
    )


def milliseconds(system):
    """CPU time that ten seconds take on one core."""
    rate = system.normalizer.sample_rate
    wav = 0.1 * torch.randn(SECONDS * rate)
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(6):
        start = time.process_time()
        system.answer(wav)
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return 1000 * statistics.median(times[1:])  # the first warms up


def is_right(system, table, condition):
    """Whether a system knows each clip, changed as the condition says."""
    change, rate = CONDITIONS[condition], system.normalizer.sample_rate
    found = []
    for path in table["wav"]:
        wav = change(load_audio(path, system.normalizer).numpy(), rate)
        found.append(system.answer(torch.from_numpy(wav.astype("float32"))))
    return (table["scene_label"] == found).astype(int).tolist()


def cpu_seconds():
    """CPU time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def write_manifests(data, folds, output):
    """Writes the manifests of the folds; gives them as tables."""
    is_manifest = str(data).lower().endswith(".csv")
    tables = {}
    for fold in folds:
        path = output / f"fold_{fold}.csv"
        if is_manifest:
            write_once(path, partial(_write_folds, data, fold))
        elif not path.exists():
            prepare_esc10(data, fold, path)
        tables[fold] = read_manifest(path)
        clip = Path(tables[fold]["wav"].iloc[0])
        if not is_manifest and Path(data).resolve() not in clip.parents:
            raise ValueError(
                f"{path} was made of other clips than those of {data}: choose "
                "another output folder"
            )
    return tables


def _write_folds(manifest, fold, path):
    """Splits the labelled clips of a manifest by session; one fold is test."""
    table = read_manifest(manifest)
    table = table[table["scene_label"] != ""].drop(columns="line")
    sessions = find_sessions(table)
    fewest = sessions.groupby(table["scene_label"]).nunique().min()
    if not fewest >= len(FOLDS):
        raise ValueError(
            f"{manifest}: a class has clips of {fewest} sessions, and "
            f"{len(FOLDS)} folds need as many: leave that class out"
        )
    splitter = StratifiedGroupKFold(len(FOLDS), shuffle=True, random_state=0)
    labels = table["scene_label"]
    *_, test = list(splitter.split(table, labels, sessions))[fold - 1]
    is_test = np.isin(np.arange(len(table)), test)
    split = np.where(is_test, "test", "train")
    write_manifest(table.assign(split=split, session=sessions), path)


def list_runs(name, system, args, tables, output):
    """The runs of a system."""
    settings = dict(system["settings"])
    if "model" in system:
        settings["model"] = system["model"]
    if "weights" in system:
        is_file = Path(args.teacher).exists()
        path = os.path.abspath(args.teacher)
        settings[system["weights"]] = path if is_file else args.teacher
    if args.unlabelled and system.get("weights") == "teacher":
        settings["unlabelled"] = os.path.abspath(args.unlabelled)
    is_trained = "hparams" in system and not system.get("frozen")
    # Where nothing is trained, nothing is drawn at random.
    seeds = args.seeds if is_trained else args.seeds[:1]
    runs = []
    for seed, (fold, table) in product(seeds, tables.items()):
        folder = output / f"{name}_fold{fold}_seed{seed}"
        title = f"{system['title']}, fold {fold}, seed {seed}"
        own = {"manifest": output / f"fold_{fold}.csv", "seed": seed}
        own |= {"output_folder": folder, "num_workers": 0}
        if not system.get("linear"):
            own["scene_labels"] = sorted(set(table["scene_label"]))
            own["feature_cache"] = output / "features"
        stage = None
        if is_trained:
            stage = training_stage(
                *(folder.name, title, system["hparams"], own | settings),
                more=("--noprogressbar",),
            )
        runs.append(Run(fold, seed, title, folder, settings, stage))
    return runs


def load(system, run, clips):
    """Gives a system after its training, fitted to clips if it is fitted."""
    if not {"hparams", "model"} & set(system):
        return fit_svm(clips)
    if run.stage:
        classifier = SceneClassifier.from_hparams(run.folder)
    elif "model" in system:
        classifier = SceneClassifier.from_hparams(system["model"])
    else:
        classifier = load_frozen(RECIPE / system["hparams"], run.settings)
    if system.get("linear"):
        replace_classifier(classifier, clips)
    return describe(classifier)


def score(name, system, run, table, stages, conditions):
    """Trains and scores one fold with one seed, or what is left of that."""
    is_resumed, start = run.folder.exists(), cpu_seconds()
    if run.stage:
        stage = run.stage.name
        run_stages(stages, run.folder.parent, first=stage, last=stage)
    path = run.folder / SCORES
    record = read_json(path)
    if record and record["settings"] != run.settings:
        raise ValueError(
            f"{run.title} was scored with other settings: choose another "
            f"output folder, or remove {run.folder}"
        )
    missing = [c for c in conditions if c not in record]
    if not missing:
        return
    trained = load(system, run, table[table["split"] == "train"])
    test = table[table["split"] == "test"]
    if not record:
        seconds = None if is_resumed else cpu_seconds() - start
        record = {
            "system": name,
            "title": system["title"],
            "fold": run.fold,
            "seed": run.seed,
            "settings": run.settings,
            "parameters": trained.parameters,
            "multiply_adds": trained.multiply_adds,
            "milliseconds": milliseconds(trained),
            "seconds": seconds,
            "session": test["session"].tolist(),
        }
    for condition in missing:
        record[condition] = is_right(trained, test, condition)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record), "utf-8")
    accuracy = 100 * np.mean(record[CLEAN])
    print(f"{run.title}: {accuracy:.1f} %", flush=True)


def make_table(output, order):
    """Makes the table of all that was scored in a folder."""
    records = pd.DataFrame(
        read_json(path) for path in output.glob(f"*/{SCORES}")
    )
    rows = []
    for name in [n for n in order if n in set(records["system"])]:
        runs = records[records["system"] == name]
        row = {"system": runs["title"].iloc[0]}
        for key in ("parameters", "multiply_adds", "milliseconds", "seconds"):
            row[key] = runs[key].median()
        row["folds"] = ", ".join(map(str, sorted(set(runs["fold"]))))
        row["runs"] = len(runs)
        right = runs[CLEAN].explode().to_numpy(float)
        interval = interval_by_session(right, runs["session"].explode())
        row["lower"], row["upper"] = interval
        for condition in [name for name in CONDITIONS if name in runs]:
            if runs[condition].notna().all():
                row[condition] = runs[condition].explode().mean()
        rows.append(row)
    return pd.DataFrame(rows)


def to_lines(table):
    """The table for readers."""
    shown = pd.DataFrame({"system": table["system"]})
    columns = {
        "parameters": ("parameters", 1, "{:,.0f}"),
        "multiply_adds": ("M multiply-adds", 1e-6, "{:,.1f}"),
        "milliseconds": ("CPU ms", 1, "{:.1f}"),
        "seconds": ("training, CPU s", 1, "{:,.0f}"),
        "folds": ("folds", 1, "{}"),
        "runs": ("runs", 1, "{}"),
        **{name: (name, 100, "{:.1f}") for name in CONDITIONS},
    }
    for name in [name for name in columns if name in table]:
        title, factor, form = columns[name]
        shown[title] = (factor * table[name]).map(form.format)
    shown[CLEAN] += [
        f" ({100 * low:.1f} to {100 * high:.1f})"
        for low, high in zip(table["lower"], table["upper"])
    ]
    shown = shown.rename(columns={CLEAN: "accuracy, %"}).replace("nan", "")
    return [shown.columns, ["---"] * shown.shape[1], *shown.to_numpy()]


def compare(args):
    """Runs what is left, and writes the table after each system."""
    output = Path(args.output).absolute()
    systems = read_systems(args.settings)
    chosen = list(read_systems(args.settings, args.systems))
    for name in list(chosen):
        if "weights" in systems[name] and not args.teacher:
            print(f"{systems[name]['title']}: left out, it needs --teacher")
            chosen.remove(name)
    if not chosen:
        raise ValueError("no system is left to train")
    output.mkdir(parents=True, exist_ok=True)
    tables = write_manifests(args.data, args.folds, output)
    conditions = CONDITIONS if args.conditions else (CLEAN,)
    for name in chosen:
        system = systems[name]
        runs = list_runs(name, system, args, tables, output)
        stages = [run.stage for run in runs if run.stage]
        for run in runs:
            score(name, system, run, tables[run.fold], stages, conditions)
        table = make_table(output, systems)
        text = write_table(table, to_lines(table), output / TABLE)
    print(f"\n{text}\nIn {output / TABLE}.md and .csv")


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "data", help="ESC-10 or ESC-50, unpacked, or a manifest (.csv)"
    )
    parser.add_argument("output", help="folder for everything")
    parser.add_argument(
        "--teacher", help="mn04, fetched once, or the path of its weights"
    )
    parser.add_argument(
        "--unlabelled",
        metavar="MANIFEST",
        help="recordings that distillation hears, too, without their labels",
    )
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument(
        "--folds", nargs="+", type=int, default=FOLDS, choices=FOLDS
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--conditions",
        action="store_true",
        help="score also as other devices hear: levels, filters, a small room",
    )
    parser.add_argument(
        "--settings", default=SYSTEMS, help="another compare.yaml"
    )
    args = parser.parse_args(arguments)
    with one_line_at_the_end():
        compare(args)


if __name__ == "__main__":
    main(sys.argv[1:])
