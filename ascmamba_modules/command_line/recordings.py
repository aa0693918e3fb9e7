"""Which recordings the command line names."""

import os
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


def _manifest_rows(path):
    from ascmamba_modules.data.manifest import read_manifest

    table = read_manifest(path)
    rows = table[["wav", "location", "record_time"]]
    return [Recording(*row) for row in rows.itertuples(index=False)]
