#!/usr/bin/env python3
"""Writes the manifest of TAU Urban Acoustic Scenes 2020 Mobile, development.

    python prepare_tau.py path/to/corpora --output tau.csv --split fold1

Ten scenes in ten European cities, recorded with up to nine devices; each
place of recording (the column identifier) is a session.

Source: T. Heittola, A. Mesaros and T. Virtanen, "Acoustic Scene
Classification in DCASE 2020 Challenge: Generalization Across Devices and Low
Complexity Solutions", DCASE Workshop 2020.
"""

import sys
from pathlib import Path

import pandas as pd
from corpus import (
    add_unified,
    check_no_duplicates,
    check_output,
    find_corpus,
    find_file,
    make_parser,
    provenance,
    read_table,
    run_preparation,
    scenes_of,
    wave_files,
    write_corpus,
)
from download import fetch_record
from speechbrain.utils.logger import get_logger

from ascmamba_modules.data.manifest import ManifestError

logger = get_logger(__name__)

RECORD = 3819968
NAME = "TAU-urban-acoustic-scenes-2020-mobile-development"
ARCHIVES = [f"{NAME}.meta.zip"] + [
    f"{NAME}.audio.{number}.zip" for number in range(1, 17)
]
INSTRUCTIONS = f"""\
How to get the corpus (30 GB, for non-commercial use): add --download, or fetch
  {NAME}.meta.zip
  {NAME}.audio.1.zip to .audio.16.zip
from https://zenodo.org/records/{RECORD} and unpack all in one folder: they
make {NAME}/ with meta.csv and audio/."""
SPLITS = {
    "all": "every clip is for training",
    "fold1": "the corpus' own: train, and test for its evaluate",
    "random": "80/20 train and valid, stratified by class",
    "session": "80/20, no place of recording in both",
}


def prepare_tau(
    folder, output, split="all", unified=False, max_problems=0.01, seed=0
):
    """Writes the manifest of the corpus; see :func:`read_rows`, which takes
    folder and split, and :func:`corpus.write_corpus`."""
    check_output(output)
    rows = read_rows(folder, split)
    unified = "TAU" if unified else None
    return write_corpus(rows, output, split, unified, max_problems, seed)


def read_rows(folder, split="all"):
    """Reads ``meta.csv`` as manifest rows without duration; for split "fold1"
    also the lists of the corpus' own split, else every clip is for training."""
    folder = find_corpus(folder, NAME, ["meta.csv", "audio"], INSTRUCTIONS)
    path = folder / "meta.csv"
    meta = read_table(
        path, ["filename", "scene_label", "identifier", "source_label"], "\t"
    )
    check_no_duplicates(path, meta)
    _check_scenes(path, meta)
    wavs = [find_file(folder / name) for name in meta["filename"]]
    unlisted = set(wave_files(folder / "audio", "*")) - set(wavs)
    if unlisted:
        logger.warning("%d files are not in %s", len(unlisted), path)
    cities = meta["identifier"].str.split("-").str[0]
    rows = pd.DataFrame(
        {
            "ID": [Path(name).stem for name in meta["filename"]],
            "wav": [str(path) for path in wavs],
            "scene_label": meta["scene_label"],
            "location": cities.str.capitalize(),
            "record_time": "",
            "session": meta["identifier"],
            "split": "train",
            **provenance(folder, "TAU 2020 Mobile"),
        }
    )
    if split == "fold1":
        rows["split"] = rows["ID"].map(_own_splits(folder)).fillna("")
    return rows


def _check_scenes(path, meta):
    strange = meta[~meta["scene_label"].isin(scenes_of("TAU"))]
    problems = [
        f"line {row.line}: '{row.scene_label}' is not a scene of this corpus"
        for row in strange.itertuples()
    ]
    if problems:
        raise ManifestError(path, problems)


def _own_splits(folder):
    splits = {}
    for name, ours in (("train", "train"), ("evaluate", "test")):
        path = folder / "evaluation_setup" / f"fold1_{name}.csv"
        listed = read_table(path, ["filename", "scene_label"], "\t")
        ids = [Path(file).stem for file in listed["filename"]]
        splits |= dict.fromkeys(ids, ours)
    return splits


def download(folder):
    """Fetches and unpacks the corpus."""
    fetch_record(RECORD, ARCHIVES, folder)


def main(arguments):
    """Runs from the command line."""
    parser = make_parser(__doc__, INSTRUCTIONS, SPLITS, "all")
    add_unified(parser)
    run_preparation(parser, arguments, prepare_tau, download)


if __name__ == "__main__":
    main(sys.argv[1:])
