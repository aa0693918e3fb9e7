"""Inspecting and reading audio files.

libsndfile reads a truncated file as a shorter one, without an error, and
reports other faults only in the middle of an epoch.  Here they are found
before.
"""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from speechbrain.utils.logger import get_logger
from speechbrain.utils.parallel import parallel_map

from ascmamba_modules.data.audio_reader import open_audio
from ascmamba_modules.data.resampling import resample_stream
from ascmamba_modules.data.sample_check import INTEGER_SCALE
from ascmamba_modules.utils.files import file_stamp, write_csv
from ascmamba_modules.utils.remote import is_url, local

logger = get_logger(__name__)

_BLOCK = 2**16  # frames
_BLOCK_VALUES = 2**24  # 64 MB, a mono file of 6 minutes
_CHECKED = 60.0  # seconds of a file of several channels
# A stated duration may be rounded; a file shorter by more is truncated.
_DURATION_TOLERANCE = 0.1  # seconds
_warned = set()  # paths


class AudioFile(NamedTuple):
    """The header of an audio file, and its problem if it has one.

    Arguments
    ---------
    rate : int
        Sample rate in Hz; 0 for a file that cannot be read.
    channels : int
        Number of channels.
    duration : float
        Length in seconds.
    problem : str
        What is wrong with the file, with the remedy; empty if nothing is.
    """

    rate: int = 0
    channels: int = 0
    duration: float = 0.0
    problem: str = ""


def inspect_audio(path, decode=True):
    """Reads the header of an audio file and looks for its end.

    The header is compared with the size of the file.  Compressed files and
    those with floating-point samples are read to their end.

    Arguments
    ---------
    path : str or Path
        The file.
    decode : bool
        False for a file that is going to be read anyway, which finds the same
        problems: then only files that do not state their length are decoded.

    Returns
    -------
    AudioFile
        Its header and problem.

    Example
    -------
    >>> inspect_audio("no_such_file.wav").problem
    'file not found'
    """
    if is_url(path):
        try:
            with local(path) as file:
                return inspect_audio(file, decode)
        except OSError as error:
            return AudioFile(problem=error.strerror)
    if not os.path.exists(path):
        return AudioFile(problem=f"file not found{_path_remedy(path)}")
    if not os.path.isfile(path):
        return AudioFile(problem="not a file")
    if os.path.getsize(path) == 0:
        return AudioFile(problem="empty file (0 bytes); fetch it again")
    header = AudioFile()
    try:
        with open_audio(path) as audio:
            rate = audio.samplerate
            seconds = (audio.frames or 0) / rate
            header = AudioFile(rate, audio.channels, seconds)
            return header._replace(duration=_count(audio, decode) / rate)
    except OSError as error:
        problem = f"the file cannot be opened ({error.strerror})"
    except ValueError as error:
        problem = str(error)
    return header._replace(problem=problem)


def _path_remedy(path):
    """What to write instead of a path of another system or of a shell."""
    name = os.fspath(path)
    if os.sep != "\\" and "\\" in name:
        return "; write / instead of \\, and no drive"
    if "~" in Path(name).parts:
        return "; write the whole path instead of ~"
    return ""


def _count(audio, decode):
    """Counts frames, reading what has to be read."""
    if audio.problem:
        raise ValueError(audio.problem)
    if audio.frames and not decode:
        return audio.frames
    longest = math.inf
    if audio.is_plain and not audio.is_float:
        # Channels that cancel each other out do so from the start.
        longest = min(audio.channels - 1, 1) * _CHECKED * audio.samplerate
    done = 0
    while done < longest and len(block := audio.read(_BLOCK)):
        done += len(block)
    if problem := audio.checked.problem():
        raise ValueError(problem)
    return done if math.isinf(longest) else audio.frames


def audio_problem(path, duration=None):
    """Checks an audio file.

    Arguments
    ---------
    path : str or Path
        The file.
    duration : float, optional
        Its stated duration in seconds; None or NaN if unknown.

    Returns
    -------
    str or None
        The problem with its remedy, None if there is none.

    Example
    -------
    >>> audio_problem("no_such_file.wav")
    'file not found'
    """
    header = inspect_audio(path)
    if header.problem:
        return header.problem
    if pd.notna(duration) and header.duration < duration - _DURATION_TOLERANCE:
        return (
            f"truncated: {header.duration:.2f} s of the {duration:.2f} s "
            "that the manifest states; fetch it again or correct 'duration'"
        )
    return None


def audio_problems(paths, durations):
    """Checks audio files in threads.

    Arguments
    ---------
    paths : list
        The files.
    durations : list
        Their stated durations in seconds; NaN where unknown.

    Returns
    -------
    list
        A problem, or None, for each file.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(audio_problem, paths, durations))


def inspect_audio_files(paths, index):
    """Inspects many files, except those that an earlier run has inspected.

    Arguments
    ---------
    paths : list
        Full paths of the files.
    index : str or Path
        CSV file that keeps the results, with each file's size and
        modification time; it is read if it exists, and rewritten.

    Returns
    -------
    pandas.DataFrame
        A row a file in the given order: path, size in bytes, modified in
        nanoseconds, and the fields of :class:`AudioFile`.
    """
    start = time.perf_counter()
    table = pd.DataFrame({"path": [str(path) for path in paths]})
    stamps = [_stamp(path) for path in table["path"]]
    table["size"], table["modified"] = zip(*stamps) if stamps else ([], [])
    known = _read_index(index)
    keys = list(zip(table["path"], table["size"], table["modified"]))
    new = [path for path, *stamp in keys if (path, *stamp) not in known]
    # Processes, because reading headers mostly holds Python's global lock.
    inspected = parallel_map(
        inspect_audio,
        new,
        chunk_size=64,
        queue_size=1024,
        # disable=None: no bar unless the output is a terminal.
        progress_bar_kwargs={"desc": "Checking audio", "disable": None},
    )
    inspected = dict(zip(new, inspected))
    rows = [inspected.get(key[0]) or known[key] for key in keys]
    table[list(AudioFile._fields)] = pd.DataFrame(
        rows, columns=AudioFile._fields
    )
    if new:
        write_csv(table, index)
    seconds = time.perf_counter() - start
    logger.info(
        "%d audio files checked in %.1f s (%.0f a second), %d known from an "
        "earlier run",
        *(len(new), seconds, len(new) / seconds, len(keys) - len(new)),
    )
    return table


def _stamp(path):
    try:
        return file_stamp(path)
    except OSError:
        return -1, -1


def _read_index(index):
    """Results of an earlier run: AudioFile by (path, size, modified)."""
    fields = ["path", "size", "modified", *AudioFile._fields]
    if not Path(index).exists():
        return {}
    try:
        table = pd.read_csv(index, dtype={"path": str, "problem": str})
        rows = table[fields].fillna("").itertuples(index=False)
        return {tuple(row[:3]): AudioFile(*row[3:]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not an index (%s): made anew", index, error)
        return {}


def load_audio(path, audio_normalizer, seconds=None):
    """Reads a file of any rate and channel count as one channel.

    Arguments
    ---------
    path : str or Path
        Audio file.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Resamples and averages the channels.
    seconds : float, optional
        Fixed length: longer files are cut at the end, shorter ones padded
        with silence.  None keeps the file's length.

    Returns
    -------
    torch.Tensor
        Waveform (samples).

    Raises
    ------
    ValueError
        If it cannot be read to its end, its samples mean nothing, or it
        cannot be resampled, see
        :func:`~ascmamba_modules.data.resampling.check_rate`.
    """
    with open_audio(path) as audio:
        # Read no more than is needed: resampling takes time.
        left = math.inf
        if seconds is not None:
            left = round(seconds * audio.samplerate) + 1

        def read(frames):
            nonlocal left
            samples = audio.read(min(frames, left))
            left -= len(samples)
            return samples

        # In one block, as a rule; what has many channels or a high rate would
        # need much memory.
        values = audio.samplerate * audio.channels  # a second
        blocks = resample_stream(
            *(read, audio.samplerate, audio.channels, audio_normalizer),
            block_length=_BLOCK_VALUES / values,
        )
        waveform = torch.cat(list(blocks))
        report_samples(path, audio)
    # What was below it in the file can ring over it in another rate.
    if len(waveform) and waveform.abs().max() > INTEGER_SCALE:
        raise ValueError("samples are far over full scale, which is 1")
    if seconds is None:
        return waveform
    samples = round(seconds * audio_normalizer.sample_rate)
    return F.pad(waveform, (0, samples - len(waveform)))  # negative cuts


def report_samples(path, audio):
    """Warns of what may mislead a model, once a file.

    Arguments
    ---------
    path : str or Path
        The file.
    audio : ascmamba_modules.data.audio_reader.AudioReader
        After reading.

    Raises
    ------
    ValueError
        If an answer would mean nothing.
    """
    if problem := audio.checked.problem():
        raise ValueError(problem)
    found = [audio.note] * bool(audio.note) + audio.checked.warnings()
    if found and str(path) not in _warned:
        _warned.add(str(path))
        logger.warning("%s: %s", path, "; ".join(found))
