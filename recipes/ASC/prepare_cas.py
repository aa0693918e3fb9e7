#!/usr/bin/env python3
"""Writes the manifest of CAS 2023, the challenge's corpus.

    python prepare_cas.py path/to/corpora --output cas.csv --audit

Ten scenes in Chinese cities, with place and time of every clip.  Labels are
known of a fifth of the development clips.  The others keep an empty label;
a split applies to them as well, so that what was recorded together with a
validation clip is never pseudo-labelled.  Evaluation clips have the split
"evaluation".

Source: J. Bai et al., "Description on IEEE ICME 2024 Grand Challenge:
Semi-supervised Acoustic Scene Classification under Domain Shift", 2024, and
"APSIPA ASC 2025 Grand Challenge: City and Time-Aware Semi-supervised Acoustic
Scene Classification", 2025.
"""

import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
from corpus import (
    check_no_duplicates,
    check_output,
    find_corpus,
    make_parser,
    provenance,
    read_table,
    run_preparation,
    wave_files,
    write_corpus,
)
from download import fetch_file, fetch_record
from speechbrain.utils.logger import get_logger

from ascmamba_modules.data.leakage import audit_text
from ascmamba_modules.data.manifest import ManifestError
from ascmamba_modules.data.place_and_time import time_text
from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.plots import plot_metadata, save_figure

logger = get_logger(__name__)

RECORDS = {"dev": 10616533, "eval": 10820626}  # Zenodo
METADATA = "APSIPA2025_GC_ASC_{}_metadata.csv"
_METADATA_URL = (
    "https://raw.githubusercontent.com/JishengBai/APSIPA2025GC-ASC/HEAD/"
    "metadata/"
)
_METADATA_SHA256 = {
    "dev": "f5b58093ac72759218ac4d65f2b2212a6388ff772aec13c97b27337b377818c3",
    "eval": "bcbac9b74c7465a0ebad000cb5ca42a7eea3ba8559832815b87a640aacf2e57f",
}
INSTRUCTIONS = f"""\
How to get the corpus (6 GB): add --download, or unpack in one folder
  https://zenodo.org/records/{RECORDS["dev"]}  ICME2024_GC_ASC_dev.zip
  https://zenodo.org/records/{RECORDS["eval"]}  ICME2024_GC_ASC_eval.zip
and put beside them the folder metadata/ of
  https://github.com/JishengBai/APSIPA2025GC-ASC
They make ICME2024_GC_ASC_dev/, ICME2024_GC_ASC_eval/ and metadata/. The
evaluation set may be left out."""
SPLITS = {
    "random": "80/20 train and valid as in the paper; sessions lie in both",
    "session": "no recording session in both",
    "run": "no uninterrupted recording in both",
    "city_day": "no day of a city in both",
    "city": "no city in both",
}
SCENES = (
    "Bus",
    "Airport",
    "Metro",
    "Restaurant",
    "Shopping mall",
    "Public square",
    "Urban park",
    "Traffic street",
    "Construction site",
    "Bar",
)


def prepare_cas(
    folder, output, split="random", max_problems=0.01, seed=0, truth=None
):
    """Writes the manifest of the corpus.

    Arguments
    ---------
    folder : str or Path
        The folder with ICME2024_GC_ASC_dev, metadata and, if at hand,
        ICME2024_GC_ASC_eval.
    output : str or Path
        The manifest to write.
    split : str
        One of ``SPLITS``.
    max_problems : float
        Share of clips that may be missing or unusable.
    seed : int
        Seed of the split.
    truth : str or Path, optional
        CSV file with columns filename and scene_label: labels of evaluation
        clips, where somebody knows them.  Those get the split "test".

    Returns
    -------
    pandas.DataFrame
        The manifest.

    Raises
    ------
    OSError
        For a folder that is not the corpus, or an output that cannot be
        written.
    ManifestError
        For CSV files that cannot be used, or too many unusable clips.
    """
    check_output(output)
    rows, problems = read_rows(folder, truth)
    return write_corpus(
        *(rows, output, split, None, max_problems, seed, problems)
    )


def read_rows(folder, truth=None):
    """Reads the metadata of both sets and finds their files.

    Gives manifest rows without duration and, for each row of the metadata
    without a file, a problem: ID, wav and problem.
    """
    labels = {} if truth is None else read_truth(truth)
    folder = Path(folder).absolute()
    rows, problems = _read_part(folder, "dev")
    if (folder / "ICME2024_GC_ASC_eval").is_dir():
        more = _read_part(folder, "eval")
        rows = pd.concat([rows, more[0]], ignore_index=True)
        problems += more[1]
    else:
        logger.warning("No ICME2024_GC_ASC_eval in %s: left out", folder)
    rows["session"] = find_sessions(rows)
    known = (rows["split"] == "evaluation") & rows["ID"].isin(labels)
    rows.loc[known, "scene_label"] = rows.loc[known, "ID"].map(labels)
    rows.loc[known, ["split", "label_source"]] = ["test", "truth"]
    return rows, problems


def _read_part(folder, part):
    """Rows and problems of the development or the evaluation set."""
    audio, path = f"ICME2024_GC_ASC_{part}", f"metadata/{METADATA.format(part)}"
    folder = find_corpus(folder, "CAS2023", [audio, path], INSTRUCTIONS)
    path = folder / path
    meta = read_metadata(path)
    files, problems = match_files(meta["filename"], folder / audio)
    found = meta["filename"].isin(files)
    meta = meta[found]
    rows = pd.DataFrame(
        {
            "ID": meta["filename"],
            "wav": [files[name] for name in meta["filename"]],
            "scene_label": meta["scene_label"],
            "location": meta["location"],
            "record_time": meta["record_time"],
            "session": "",
            **provenance(folder, "CAS 2023"),
            "split": "train" if part == "dev" else "evaluation",
        }
    )
    rows.loc[rows["scene_label"] == "", "label_source"] = ""
    return rows, problems


def read_metadata(path):
    """Reads the organisers' CSV file of one set: texts filename, location,
    record_time and scene_label, and line.  Raises a ManifestError with all rows
    that have an unknown scene, an invalid time, or a name that came before."""
    columns = ["filename", "location", "record_time", "scene_label"]
    meta = read_table(path, columns)
    problems = []
    for row in meta.itertuples():
        if row.scene_label and row.scene_label not in SCENES:
            problems.append(
                f"line {row.line} ({row.filename}): unknown scene_label "
                f"'{row.scene_label}'; the scenes are {', '.join(SCENES)}"
            )
        try:
            time_text(row.record_time)
        except ValueError as error:
            problems.append(
                f"line {row.line} ({row.filename}): record_time {error}"
            )
    if problems:
        raise ManifestError(path, problems)
    check_no_duplicates(path, meta)
    return meta


def read_truth(path, scenes=SCENES):
    """Reads labels that the organisers' metadata does not give, by file name,
    from a CSV file with columns filename and scene_label.  Raises a
    ManifestError for unknown scenes and file names that come twice."""
    table = read_table(path, ["filename", "scene_label"])
    strange = table[~table["scene_label"].isin(scenes)]
    if len(strange):
        raise ManifestError(
            path,
            [
                f"line {row.line}: unknown scene_label '{row.scene_label}'"
                for row in strange.itertuples()
            ],
        )
    check_no_duplicates(path, table)
    return dict(zip(table["filename"], table["scene_label"]))


def match_files(names, folder):
    """Finds the audio file of each name; gives paths by name, and a problem
    (ID, wav and problem) for each name without a file of its own.

    Files may carry a prefix or a suffix around the name.  One that is called
    exactly so goes first; a name that fits several others is ambiguous.
    """
    by_stem = defaultdict(list)
    for path in wave_files(folder, "**/*"):
        by_stem[path.stem].append(str(path))
    candidates = {name: by_stem.pop(name, []) for name in names}
    # One long text of the other stems: searching it is quick.
    others = "\n" + "\n".join(by_stem) + "\n"
    for name, paths in candidates.items():
        if not paths:
            for stem in _lines_with(name, others):
                paths += by_stem[stem]
    owners = defaultdict(list)
    for name, paths in candidates.items():
        for path in paths:
            owners[path].append(name)
    files, problems = {}, []
    for name, paths in candidates.items():
        if not paths:
            problem = "no file for this row of the metadata"
        elif len(paths) > 1:
            problem = f"several files fit: {', '.join(paths)}"
        elif len(owners[paths[0]]) > 1:
            problem = f"rows {', '.join(owners[paths[0]])} fit this one file"
        else:
            files[name] = paths[0]
            continue
        problems.append(
            {"ID": name, "wav": ", ".join(paths), "problem": problem}
        )
    unused = {path for paths in by_stem.values() for path in paths}
    unused -= set(files.values())
    if unused:
        logger.warning("%d files in %s have no row", len(unused), folder)
    return files, problems


def _lines_with(name, text):
    """Lines of a text that hold a name."""
    start = text.find(name)
    while start >= 0:
        end = text.index("\n", start)
        yield text[text.rindex("\n", 0, start) + 1 : end]
        start = text.find(name, end)


def download(folder):
    """Fetches both sets and their metadata."""
    for part, record in RECORDS.items():
        fetch_record(record, [f"ICME2024_GC_ASC_{part}.zip"], folder)
        fetch_file(
            _METADATA_URL + METADATA.format(part),
            _METADATA_SHA256[part],
            Path(folder) / "metadata",
        )


def main(arguments):
    """Runs from the command line."""
    parser = make_parser(__doc__, INSTRUCTIONS, SPLITS, "random")
    parser.add_argument(
        "--audit",
        action="store_true",
        help="print what validation clips share with training and what a "
        "decision tree on place and time alone would score; draw both beside "
        "the manifest",
    )
    parser.add_argument(
        "--truth",
        help="CSV file (filename, scene_label) of evaluation clips whose "
        "label is known: they become the test split",
    )

    def prepare(output, audit, **options):
        """Writes the manifest, and its audit if that is asked for."""
        table = prepare_cas(output=output, **options)
        if audit:
            output = Path(output)
            figure = output.with_name(f"{output.stem}_metadata.png")
            save_figure(plot_metadata(table), figure)
            print(f"{audit_text(table)}\n\nFigure: {figure}")
        return table

    run_preparation(parser, arguments, prepare, download)


if __name__ == "__main__":
    main(sys.argv[1:])
