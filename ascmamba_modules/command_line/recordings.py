"""Which recordings the command line names."""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.utils.remote import absolute, find_urls, is_url

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

    Inputs are audio files, folders (all audio files in and below them, by
    name), and manifests (files ending in .csv); URLs of files, of folders
    (ending in /), and with ``*``.  A manifest's own places and times come
    before ``location`` and ``record_time``.  ``left_out`` takes what is left
    out of folders, see :func:`audio_files`.  Raises a CommandError for a folder
    or a manifest without recordings.

    Example
    -------
    >>> find_recordings(["a.wav"], location="Berlin")
    [Recording(file='a.wav', location='Berlin', record_time=None)]
    """
    recordings = []
    left_out = {} if left_out is None else left_out
    for path in inputs:
        if is_url(path) and (path.endswith("/") or "*" in path):
            found = [Recording(url) for url in _audio_urls(path, left_out)]
        elif os.path.isdir(path):
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

    Links to folders are followed, each folder is searched once.  ``left_out``,
    a dictionary, takes lists of the paths that were left out, by kind.
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


def _audio_urls(url, left_out):
    """As :func:`audio_files`, in a remote folder or of a pattern."""
    try:
        urls = find_urls(url)
    except OSError as error:
        raise CommandError(f"{url}: {error.strerror}") from None
    found = []
    for file in urls:
        name = file.rpartition("/")[2].lower()
        kind = "hidden" if name.startswith(".") else "of another kind"
        if kind != "hidden" and name.endswith(AUDIO_SUFFIXES):
            found.append(file)
        else:
            left_out.setdefault(kind, []).append(file)
    return found


def list_left_out(left_out, start=""):
    """Describes what :func:`audio_files` left out in one line, empty if it is
    nothing.

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


def print_left_out(left_out):
    """Says on the terminal what was left out of folders, if anything was."""
    if left_out:
        print(list_left_out(left_out, "ascmamba: "), file=sys.stderr)


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

    ``group`` is a regular expression: the files of a class in whose names it
    finds the same text are cuts of one recording.  Gives rows of a manifest
    without splits, and the column ``problem``, empty for files that can be
    used.  Raises a CommandError if there are no recordings.
    """
    find_group = _group_finder(group)
    if not os.path.isdir(folder):
        raise CommandError(f"{folder}: no such folder")
    rows, left_out = [], {}
    for place in sorted(Path(folder).iterdir()):
        is_hidden = place.name[0] == "."
        if is_hidden or not place.is_dir():
            kind = "hidden" if is_hidden else "in no class's folder"
            left_out.setdefault(kind, []).append(str(place))
            continue
        for path in map(Path, audio_files(place, left_out)):
            row = _row(path, place.name, find_group(path))
            row["ID"] = str(path.relative_to(folder))
            row["dataset"] = Path(folder).resolve().name
            rows.append(row)
    print_left_out(left_out)
    if not rows:
        raise CommandError(
            f"{folder}: no recordings in the folders in it; each is a class"
        )
    return _table(rows)


def labelled_files(path, group=None):
    """Lists the recordings that were labelled on a page of ``ascmamba review``,
    as :func:`class_folders` does.

    The CSV file has the columns file, scene_label and classes, the labels that
    there were to choose from.
    """
    import pandas as pd

    find_group = _group_finder(group)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        labels = table[["file", "scene_label", "classes"]]
    except (OSError, ValueError, KeyError) as error:
        raise CommandError(
            f"{path}: not the labels of 'ascmamba review' ({error})"
        ) from None
    rows = []
    for number, (file, label, classes) in enumerate(labels.to_numpy(), 2):
        if label not in classes.split("; "):
            raise CommandError(
                f"{path}, line {number}: '{label}' is none of the classes, "
                f"{classes}"
            )
        row = _row(file, label, find_group(Path(file)))
        rows.append({**row, "ID": file, "dataset": Path(path).stem})
    if not rows:
        raise CommandError(f"{path}: no labels in it")
    return _table(rows)


def _group_finder(group):
    """Makes what finds the text of a file's name that tells its recording."""
    try:
        pattern = re.compile(group or "")
    except re.error as error:
        raise CommandError(f"--group {group}: {error}") from None

    def find(path):
        found = pattern.search(path.stem) if group else None
        if group and not found:
            raise CommandError(f"--group {group} finds nothing in {path}")
        return found[0] if found else None

    return find


def _row(path, label, found):
    from ascmamba_modules.data.audio_files import inspect_audio

    if problem := name_problem(path):
        raise CommandError(f"{path}: {problem}")
    header = inspect_audio(path)
    return {
        "wav": absolute(str(path)),
        "duration": header.duration,
        "scene_label": label,
        # Takes of the same name in two folders are two.
        "session": "" if found is None else f"{label} {found}",
        "label_source": "human",
        "problem": header.problem,
    }


def name_problem(path):
    """Tells why a file cannot be named in a table or on a page; empty if it
    can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    return ""


def _table(rows):
    import pandas as pd

    from ascmamba_modules.data.manifest import COLUMNS

    return pd.DataFrame(rows, columns=[*COLUMNS, "problem"]).fillna("")


def _manifest_rows(path):
    from ascmamba_modules.data.manifest import read_manifest

    table = read_manifest(path)
    rows = table[["wav", "location", "record_time"]]
    return [Recording(*row) for row in rows.itertuples(index=False)]
