#!/usr/bin/env python3
"""Labels the challenge's evaluation clips: the file to hand in.

    python predict.py results/finetune_pseudo/1986 --manifest cas.csv \\
        --metadata metadata/APSIPA2025_GC_ASC_eval_metadata.csv \\
        --output submission.csv

Writes the evaluation metadata with scene_label filled in: the same columns
(filename, location, record_time, scene_label) and rows in the same order.
Beside it, in submission_posteriors.csv, stand the posteriors of each clip.

Known of the form: the organisers' baseline writes its answers this way
(test.py of https://github.com/JishengBai/APSIPA2025GC-ASC: UTF-8, commas, no
byte-order mark), with the names of the ten scenes as in the development set.
Assumed: that teams hand in the same.  Rules on the file's name, or on more
than one file, were not found in public; see the organisers' call.

Audio, place and time of each clip are those of the manifest, whose ID is the
metadata's filename, as prepare_cas.py writes it; its labels are not looked at.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from corpus import check_output, run_command
from prepare_cas import SCENES, read_metadata
from speechbrain.dataio.dataloader import make_dataloader
from tqdm.auto import tqdm

from ascmamba_modules.data.manifest import (
    ManifestError,
    make_dataset,
    read_manifest,
    unusable_files,
)
from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.evaluation.pooling import pool_by_group
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.utils.files import write_csv

COLUMNS = ["filename", "location", "record_time", "scene_label"]


def find_clips(metadata, manifest):
    """Finds the clips to label: rows of the organisers' metadata, and the
    manifest's row of each, in the same order.

    Raises a ManifestError for files that cannot be used, clips that come twice,
    are labelled already, or are missing in the manifest, and unusable audio.
    """
    wanted = read_metadata(metadata)
    labelled = wanted[wanted["scene_label"] != ""]
    if wanted.empty or len(labelled):
        problem = "there are no clips"
        if len(labelled):
            problem = (
                f"{len(labelled)} of {len(wanted)} clips have a label, first "
                f"on line {labelled['line'].iloc[0]}"
            )
        raise ManifestError(
            metadata,
            [f"{problem}; pass --metadata the evaluation set's file"],
        )
    table = read_manifest(manifest)
    missing = wanted[~wanted["filename"].isin(table["ID"])]
    if len(missing):
        raise ManifestError(
            manifest,
            [
                f"{row.filename} (line {row.line} of {metadata}) is missing; "
                "every clip needs an answer: prepare the evaluation set, and "
                "see *_problems.csv for what was left out"
                for row in missing.itertuples()
            ],
        )
    clips = table.set_index("ID", drop=False).loc[wanted["filename"]]
    if problems := unusable_files(clips):
        raise ManifestError(manifest, problems)
    return wanted, clips.rename_axis(None)


def load_classifier(folder, device):
    """Loads a model; raises a ValueError unless its classes are the
    challenge's scenes."""
    classifier = SceneClassifier.from_hparams(
        folder, run_opts={"device": device}
    )
    classes = classifier.classes
    if set(classes) != set(SCENES):
        raise ValueError(
            f"{folder}: the classes of the model ({', '.join(classes)}) are "
            f"not the challenge's ({', '.join(SCENES)}): take a model that "
            "was trained on the manifest of prepare_cas.py"
        )
    return classifier


def find_posteriors(classifier, clips, loader_options):
    """Asks a model about clips; gives a row a clip, in the given order, and a
    column a scene."""
    dataset = make_dataset(clips, classifier.audio_normalizer)
    found = []
    for batch in tqdm(
        make_dataloader(dataset, **loader_options), "Labelling", disable=None
    ):
        log_posteriors, *_ = classifier.classify_batch(
            *batch.sig, batch.location, batch.record_time
        )
        found.append(log_posteriors.double().exp().cpu().numpy())
    posteriors = pd.DataFrame(
        np.concatenate(found), clips["ID"], classifier.classes
    )
    return posteriors[list(SCENES)]


def predict(
    folder,
    manifest,
    metadata,
    output,
    device,
    loader_options,
    pool_sessions=False,
):
    """Writes the challenge's file, and the posteriors beside it; see
    :func:`find_clips` for manifest and metadata.

    ``pool_sessions`` says whether the clips of a session share their answer,
    see :func:`ascmamba_modules.evaluation.pooling.pool_by_group`.  Gives what
    was written to ``output``.
    """
    wanted, clips = find_clips(metadata, manifest)
    classifier = load_classifier(folder, device)
    posteriors = find_posteriors(classifier, clips, loader_options)
    if pool_sessions:
        sessions = find_sessions(clips)
        posteriors[:] = np.exp(pool_by_group(np.log(posteriors), sessions))
    answers = wanted[COLUMNS].assign(
        scene_label=posteriors.idxmax(axis="columns").to_numpy()
    )
    table = posteriors.add_prefix("p(").add_suffix(")")
    write_csv(
        table.rename_axis("filename"), posteriors_path(output), index=True
    )
    write_csv(answers, output)
    return answers


def posteriors_path(output):
    """Where the posteriors go."""
    output = Path(output)
    return output.with_name(f"{output.stem}_posteriors.csv")


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", help="output folder of a finished training stage"
    )
    parser.add_argument(
        "--manifest", required=True, help="CSV file of prepare_cas.py"
    )
    parser.add_argument(
        "--metadata",
        required=True,
        help="the organisers' CSV file of the evaluation set",
    )
    parser.add_argument("--output", required=True, help="CSV file to write")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="clips (default: 16)"
    )
    parser.add_argument(
        "--num-workers",
        type=int,
        default=0,
        help="processes that load audio (default: none of their own)",
    )
    parser.add_argument(
        "--pool-sessions",
        action="store_true",
        help="clips of one recording session share their answer; it then "
        "depends on other clips (transductive), which rules may forbid",
    )
    args = parser.parse_args(arguments)
    if args.batch_size < 1 or args.num_workers < 0:
        parser.error("--batch-size is at least 1, --num-workers at least 0")

    def work():
        check_output(args.output)
        answers = predict(
            args.model,
            args.manifest,
            args.metadata,
            args.output,
            args.device,
            {"batch_size": args.batch_size, "num_workers": args.num_workers},
            args.pool_sessions,
        )
        counts = answers["scene_label"].value_counts().reindex(SCENES)
        print(counts.fillna(0).astype(int).to_string())
        print(f"\n{args.output}: {len(answers)} clips")
        print(f"{posteriors_path(args.output)}: their posteriors")

    run_command(work)


if __name__ == "__main__":
    main(sys.argv[1:])
