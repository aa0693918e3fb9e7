#!/usr/bin/env python3
"""Writes the manifest of CochlScene.

    python prepare_cochlscene.py path/to/corpora --output cochlscene.csv

Thirteen scenes, recorded by 831 people in Korea with their phones; each of
them (``user0807`` in file names) is a session.

Source: I.-Y. Jeong and J. Park, "CochlScene: Acquisition of acoustic scene
data using crowdsourcing", APSIPA ASC 2022.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
from corpus import (
    add_unified,
    check_output,
    find_corpus,
    find_file,
    make_parser,
    provenance,
    run_preparation,
    scenes_of,
    wave_files,
    write_corpus,
)
from download import fetch_record
from speechbrain.utils.logger import get_logger

from ascmamba_modules.data.manifest import ManifestError

logger = get_logger(__name__)

RECORD = 7080122
NAME = "CochlScene"
ARCHIVES = [f"{NAME}.z{number:02d}" for number in range(1, 6)]
ARCHIVES.append(f"{NAME}.zip")
INSTRUCTIONS = f"""\
How to get the corpus: add --download, or fetch {NAME}.z01 to .z05 and
{NAME}.zip, six parts of one archive, from https://zenodo.org/records/{RECORD}
into one folder, and unpack them there with 7-Zip:
  7z x {NAME}.zip
They make {NAME}/ with Train/, Val/ and Test/."""
SPLITS = {
    "all": "every clip is for training",
    "official": "the corpus' own train, valid and test",
    "random": "80/20 train and valid, stratified by class",
    "session": "80/20, no recording person in both",
}
_FOLDERS = {"Train": "train", "Val": "valid", "Test": "test"}
_FILE = re.compile(r"([A-Za-z]+)_(user\d+)_\d+_\d+")


def prepare_cochlscene(
    folder, output, split="all", unified=False, max_problems=0.01, seed=0
):
    """Writes the manifest of the corpus; see :func:`read_rows`, which takes
    folder and split, and :func:`corpus.write_corpus`."""
    check_output(output)
    rows = read_rows(folder, split)
    unified = "CochlScene" if unified else None
    return write_corpus(rows, output, split, unified, max_problems, seed)


def read_rows(folder, split="all"):
    """Lists the files of the corpus and those that ``Data_info.tsv`` names, as
    manifest rows without duration.  For split "official" the split is the
    corpus' own, else every clip is for training."""
    folder = find_corpus(folder, NAME, list(_FOLDERS), INSTRUCTIONS)
    files = {
        path.relative_to(folder).as_posix()
        for name in _FOLDERS
        for path in wave_files(folder / name, "*/*")
    }
    listed = _listed_files(folder)
    if listed is not None:
        if files - listed:
            logger.warning(
                "%d files are not in Data_info.tsv", len(files - listed)
            )
        files |= listed
    known = scenes_of("CochlScene")
    rows, problems = [], []
    origin = provenance(folder, NAME)
    for file in sorted(files):
        place, scene, name = Path(file).parts[-3:]
        match = _FILE.fullmatch(Path(name).stem)
        if match is None or match[1] != scene or scene not in known:
            problems.append(
                f"{file}: expected Train, Val or Test/CLASS/"
                "CLASS_userNNNN_NNNN_NNN.wav with a class of this corpus"
            )
            continue
        rows.append(
            {
                "ID": Path(name).stem,
                "wav": str(folder / file),
                "scene_label": scene,
                "location": "",
                "record_time": "",
                "session": match[2],
                "split": _FOLDERS[place] if split == "official" else "train",
                **origin,
            }
        )
    if not files:
        problems = [f"no files like Train/CLASS/*.wav\n{INSTRUCTIONS}"]
    if problems:
        raise ManifestError(folder, problems)
    return pd.DataFrame(rows)


def _listed_files(folder):
    """Paths in ``Data_info.tsv`` from Train, Val or Test on."""
    path = folder / "Data_info.tsv"
    if not path.exists():
        logger.warning("%s is missing: no check for missing files", path)
        return None
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(path, [f"not a text file: {error}"])
    files, problems = set(), []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = Path(line.split("\t")[0].strip()).parts[-3:]
        if len(parts) < 3 or parts[0] not in _FOLDERS:
            problems.append(
                f"line {number}: '{line}' does not begin with a path like "
                "Train/CLASS/FILE.wav"
            )
        found = find_file(folder.joinpath(*parts))
        files.add(found.relative_to(folder).as_posix())
    if problems:
        raise ManifestError(path, problems)
    return files


def unpack(folder):
    """Unpacks the parts of the archive, which takes 7-Zip."""
    folder = Path(folder)
    if (folder / NAME).is_dir():
        return
    program = shutil.which("7z") or shutil.which("7zz")
    if program is None:
        raise FileNotFoundError(
            f"All parts of the archive are in {folder}, but 7-Zip, which can "
            "join them, is not installed (e.g. apt install p7zip-full). "
            f"With it unpack them there:\n  7z x {NAME}.zip"
        )
    partial = folder / f"{NAME}.partial"
    command = [program, "x", "-y", f"-o{partial.name}", f"{NAME}.zip"]
    if subprocess.run(command, cwd=folder).returncode:
        raise OSError(f"In {folder} '{' '.join(command)}' failed, see above.")
    (partial / NAME).rename(folder / NAME)
    partial.rmdir()


def download(folder):
    """Fetches and unpacks the corpus."""
    fetch_record(RECORD, ARCHIVES, folder, unpack=False)
    unpack(folder)


def main(arguments):
    """Runs from the command line."""
    parser = make_parser(__doc__, INSTRUCTIONS, SPLITS, "all")
    add_unified(parser)
    run_preparation(parser, arguments, prepare_cochlscene, download)


if __name__ == "__main__":
    main(sys.argv[1:])
