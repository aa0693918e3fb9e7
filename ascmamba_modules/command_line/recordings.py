"""Which recordings the command line names."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from ascmamba_modules.command_line.options import CommandError

# What libsndfile reads of what recorders and archives write.
AUDIO_SUFFIXES = (
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".flac",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".rf64",
    ".w64",
    ".wav",
)


class Recording(NamedTuple):
    """A file with its place and time, empty or None where unknown."""

    file: str
    location: str | None = None
    record_time: str | None = None


def find_recordings(inputs, location=None, record_time=None):
    """Lists the recordings that are meant.

    Arguments
    ---------
    inputs : list
        Audio files, folders (all audio files in and below them, by name), and
        manifests (files ending in .csv).
    location, record_time : str, optional
        Place and time of all recordings; a manifest's own come first.

    Returns
    -------
    list
        A :class:`Recording` for each file.

    Raises
    ------
    CommandError
        For a folder or a manifest without recordings.
    ValueError
        For an unusable manifest.

    Example
    -------
    >>> find_recordings(["a.wav"], location="Berlin")
    [Recording(file='a.wav', location='Berlin', record_time=None)]
    """
    recordings = []
    for path in inputs:
        if os.path.isdir(path):
            found = [Recording(file) for file in audio_files(path)]
        elif path.lower().endswith(".csv"):
            found = _manifest_rows(path)
        else:
            found = [Recording(path)]
        if not found:
            raise CommandError(
                f"{path}: no recordings in it (looked for "
                f"{', '.join(AUDIO_SUFFIXES)})"
            )
        recordings += found
    return [
        Recording(file, own_location or location, own_time or record_time)
        for file, own_location, own_time in recordings
    ]


def audio_files(folder):
    """Lists the audio files in a folder and below it, by name."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            # Names with a leading dot are a file system's notes.
            if name.lower().endswith(AUDIO_SUFFIXES) and name[0] != ".":
                found.append(os.path.join(parent, name))
    return found


def add_group_option(parser):
    """Adds what tells the cuts of a recording, for :func:`class_folders`."""
    parser.add_argument(
        "--group",
        metavar="PATTERN",
        help="regular expression: files in whose names it finds the same text "
        "are cuts of one recording (default: each file is a recording)",
    )


def class_folders(folder, group=None):
    """Lists the recordings in a folder that has a folder for each class.

    Arguments
    ---------
    folder : str
        The folder; files that lie in none of its folders are not listed.
    group : str, optional
        Regular expression: the files of a class in whose names it finds the
        same text are cuts of one recording.

    Returns
    -------
    pandas.DataFrame
        Rows of a manifest without splits, and the column ``problem``, empty
        for files that can be used.

    Raises
    ------
    CommandError
        If there are no recordings, or none in ``group``'s sense.
    """
    import pandas as pd

    from ascmamba_modules.data.audio_files import inspect_audio
    from ascmamba_modules.data.manifest import COLUMNS

    try:
        pattern = re.compile(group or "")
    except re.error as error:
        raise CommandError(f"--group {group}: {error}") from None
    if not os.path.isdir(folder):
        raise CommandError(f"{folder}: no such folder")
    rows = []
    for place in sorted(Path(folder).iterdir()):
        if not place.is_dir():
            continue
        for path in map(Path, audio_files(place)):
            found = pattern.search(path.stem) if group else None
            if group and not found:
                raise CommandError(f"--group {group} finds nothing in {path}")
            header = inspect_audio(path)
            rows.append(
                {
                    "ID": str(path.relative_to(folder)),
                    "wav": str(path.absolute()),
                    "duration": header.duration,
                    "scene_label": place.name,
                    # Takes of the same name in two folders are two.
                    "session": f"{place.name} {found[0]}" if found else "",
                    "dataset": Path(folder).resolve().name,
                    "label_source": "human",
                    "problem": header.problem,
                }
            )
    if not rows:
        raise CommandError(
            f"{folder}: no recordings in the folders in it; each is a class"
        )
    return pd.DataFrame(rows, columns=[*COLUMNS, "problem"]).fillna("")


def _manifest_rows(path):
    from ascmamba_modules.data.manifest import read_manifest

    table = read_manifest(path)
    rows = table[["wav", "location", "record_time"]]
    return [Recording(*row) for row in rows.itertuples(index=False)]
