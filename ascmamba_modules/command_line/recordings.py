"""Which recordings the command line names."""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from ascmamba_modules.command_line.options import CommandError

# What libsndfile and, from .3gp on, FFmpeg reads of what recorders and archives
# write.
AUDIO_SUFFIXES = (
    *(".8svx", ".aif", ".aifc", ".aiff", ".amb", ".au", ".bwf", ".caf"),
    *(".flac", ".iff", ".ircam", ".mp1", ".mp2", ".mp3", ".mpga", ".nist"),
    *(".oga", ".ogg", ".opus", ".paf", ".pvf", ".rf64", ".sf", ".snd", ".sph"),
    *(".svx", ".voc", ".w64", ".wav", ".wave", ".xi"),
    *(".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".eac3", ".m4a", ".m4b"),
    *(".mka", ".mp4", ".tta", ".webm", ".wma", ".wv"),
)
UNREADABLE = "folders that cannot be read"


class Recording(NamedTuple):
    """A file with its place and time, empty or None where unknown."""

    file: str
    location: str | None = None
    record_time: str | None = None


def find_recordings(inputs, location=None, record_time=None, left_out=None):
    """Lists the recordings that are meant.

    Arguments
    ---------
    inputs : list
        Audio files, folders (all audio files in and below them, by name), and
        manifests (files ending in .csv).
    location, record_time : str, optional
        Place and time of all recordings; a manifest's own come first.
    left_out : dict, optional
        Takes what is left out of folders, see :func:`audio_files`.

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
    left_out = {} if left_out is None else left_out
    for path in inputs:
        if os.path.isdir(path):
            found = [Recording(file) for file in audio_files(path, left_out)]
        elif path.lower().endswith(".csv"):
            found = _manifest_rows(path)
        else:
            found = [Recording(path)]
        if not found:
            raise CommandError(
                f"{path}: no recordings in it (looked for "
                f"{', '.join(AUDIO_SUFFIXES)}{list_left_out(left_out, '; ')})"
            )
        recordings += found
    return [
        Recording(file, own_location or location, own_time or record_time)
        for file, own_location, own_time in recordings
    ]


def audio_files(folder, left_out):
    """Lists the audio files in a folder and below it, by name.

    Links to folders are followed, each folder is searched once.

    Arguments
    ---------
    folder : str
        The folder.
    left_out : dict
        Takes lists of the paths that were left out, by kind.

    Returns
    -------
    list
        Paths.
    """
    found = []
    searched = set()
    waiting = [folder]
    while waiting:  # no recursion: folders may be nested deeply
        parent = waiting.pop()
        try:
            stat = os.stat(parent)
            if (stat.st_dev, stat.st_ino) in searched:
                continue
            searched.add((stat.st_dev, stat.st_ino))
            with os.scandir(parent) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            left_out.setdefault(UNREADABLE, []).append(parent)
            continue
        folders = []
        for entry in entries:
            kind = None
            if entry.name[0] == ".":  # a file system's or program's notes
                kind = "hidden"
            elif entry.is_dir():
                folders.append(entry.path)
            elif entry.name.lower().endswith(AUDIO_SUFFIXES):
                found.append(entry.path)
            else:
                kind = "of another kind"
            if kind:
                left_out.setdefault(kind, []).append(entry.path)
        waiting += reversed(folders)
    return found


def list_left_out(left_out, start=""):
    """Describes what was left out of folders in one line.

    Arguments
    ---------
    left_out : dict
        From :func:`audio_files`.
    start : str
        Text to begin with.

    Returns
    -------
    str
        The line; empty if nothing was left out.

    Example
    -------
    >>> list_left_out({"hidden": ["a/._b.wav", "a/.cache"]})
    'left out: 2 hidden (a/._b.wav, ...)'
    """
    parts = [
        f"{len(paths)} {kind} ({paths[0]}{', ...' * (len(paths) > 1)})"
        for kind, paths in left_out.items()
    ]
    return f"{start}left out: {', '.join(parts)}" if parts else ""


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
    rows, left_out = [], {}
    for place in sorted(Path(folder).iterdir()):
        if not place.is_dir():
            continue
        for path in map(Path, audio_files(place, left_out)):
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
    if left_out:
        print(list_left_out(left_out, "ascmamba: "), file=sys.stderr)
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
