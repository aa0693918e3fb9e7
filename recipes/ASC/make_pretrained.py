#!/usr/bin/env python3
"""Makes the models that the package ships, sound_tags and ambience.

    python make_pretrained.py open.csv --teacher mn04 --output OUTPUT

The manifest has two columns more than others, ``source`` (who recorded it and
where it is from) and ``licence``, of recordings that a model may be made of and
shipped.  Its labels are those of the ambience; classes of fewer than five
recordings are left out.

- sound_tags: an ASCMamba distilled from the teacher on all clips, without their
  labels; it knows AudioSet's 527 tags and embeds clips.
- ambience: a linear classifier on its embedding, see ``ascmamba teach``.

Its score is that on recordings which neither the distillation nor the linear
classifier has heard: a second distillation leaves out all recordings of the
ambience, and the classifiers on it a fifth of them each.  The same command
again goes on where it was.  Copy the two folders to
``ascmamba_modules/pretrained/``.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from stages import one_line_at_the_end, run_stages, training_stage

from ascmamba_modules.data.manifest import read_manifest, write_manifest
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.card import write_card
from ascmamba_modules.model_folder.config import CONFIG, FOLDER, read_config
from ascmamba_modules.teaching import SPLIT, embed_files, fit, teach
from ascmamba_modules.utils.files import write_csv

TAGS, AMBIENCE = "sound_tags", "ambience"
WITHOUT = "sound_tags_without_ambience"
SOURCES = "SOURCES.csv"
UNHEARD = "recordings not heard"
LICENCE = "cc-by-sa-4.0"  # that of the recordings which asks the most
_FOLDS = 5
_FEWEST = 5  # recordings of a class
_VALID = 15  # one of so many recordings chooses the epoch


def read_open_manifest(path):
    """Reads the manifest; raises a ValueError if a source is not told."""
    table = read_manifest(path)
    extra = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in ("source", "licence", "session"):
        if name not in extra or (extra[name] == "").any():
            raise ValueError(
                f"{path}: the column {name} is missing or has gaps; a model "
                "that ships names the origin of every recording."
            )
    return table.assign(source=extra["source"], licence=extra["licence"])


def ambience_clips(table):
    """The labelled clips of classes with enough recordings."""
    table = table[table["scene_label"] != ""]
    counts = table.groupby("scene_label")["session"].nunique()
    return table[table["scene_label"].isin(counts.index[counts >= _FEWEST])]


def list_stages(table, clips, output, teacher, more):
    """Distillations without the ambience's recordings, and with them."""
    others = table[~table["session"].isin(set(clips["session"]))]
    if others["session"].nunique() < 2:
        raise ValueError(
            "All recordings are of the ambience: add others, with or without "
            "labels, from which a distillation can learn without it."
        )
    stages = []
    for name, heard in ((WITHOUT, others), (TAGS, table)):
        heard = heard.assign(scene_label="", split="train")
        valid = sorted(set(heard["session"]))[::_VALID]
        heard.loc[heard["session"].isin(valid), "split"] = "valid"
        manifest = output / f"{name}.csv"
        write_manifest(heard.drop(columns=["source", "licence"]), manifest)
        files = {"manifest": manifest, "teacher": teacher}
        files["output_folder"] = output / name
        stages.append(
            training_stage(
                *(name, f"distil {name}", "hparams/distill.yaml", files),
                more=("--noprogressbar", *more),
            )
        )
    return stages


def unheard_score(clips, folder):
    """Macro accuracy of linear classifiers, on an encoder that has heard none
    of the clips, on recordings that they have not heard either."""
    x = embed_files(SceneClassifier.from_hparams(folder), clips["wav"])
    labels, sessions = clips["scene_label"], clips["session"]
    found = pd.Series("", index=clips.index)
    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    for train, test in splitter.split(x, labels, sessions):
        search = fit(x[train], labels.iloc[train], sessions.iloc[train])
        found.iloc[test] = search.predict(x[test])
    return balanced_accuracy_score(labels, found)


def state(folder, licences, score=None):
    """Writes licences, and the score on recordings that were not heard in the
    place of that in cross-validation, into a model folder."""
    config = {**read_config(folder), "licence": LICENCE}
    training = config["training"]
    training["licences"] = licences
    if score is not None:
        for name in ("clips", "datasets", "scores", "sessions_seen"):
            training[name][UNHEARD] = training[name].pop(SPLIT)
        training["scores"][UNHEARD] = float(score)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", "utf-8")
    write_card(config, folder)


def run(arguments):
    """Runs all; see the top of the file."""
    output = Path(arguments.output).absolute()
    table = read_open_manifest(arguments.manifest)
    clips = ambience_clips(table)
    stages = list_stages(
        table, clips, output, arguments.teacher, arguments.more
    )
    run_stages(stages, output)
    made = output / "pretrained"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(output / TAGS / FOLDER, made / TAGS)
    classifier = SceneClassifier.from_hparams(made / TAGS)
    teach(classifier, made / TAGS, clips, made / AMBIENCE)
    score = unheard_score(clips, output / WITHOUT)
    by_set = table.groupby("dataset")["licence"].unique()
    licences = {name: ", ".join(sorted(x)) for name, x in by_set.items()}
    state(made / TAGS, licences)
    state(made / AMBIENCE, licences, score)
    sources = table.groupby(["source", "licence"], as_index=False)
    write_csv(sources.agg(clips=("ID", "size")), made / SOURCES)
    print(f"Macro accuracy on recordings not heard: {score:.3f}; in {made}")


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any other option is for train.py, e.g. --rounds 16.",
    )
    parser.add_argument("manifest", help="CSV of the clips")
    parser.add_argument("--teacher", required=True, help="see distill.yaml")
    parser.add_argument("--output", required=True, help="folder for all of it")
    args, args.more = parser.parse_known_args(arguments)
    with one_line_at_the_end():
        run(args)


if __name__ == "__main__":
    main(sys.argv[1:])
