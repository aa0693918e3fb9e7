"""Audio files in batches, read ahead of the model."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from speechbrain.utils.parallel import get_available_cpu_count

from ascmamba_modules.data.audio_files import inspect_audio, load_audio
from ascmamba_modules.data.manifest import list_problems
from ascmamba_modules.data.place_and_time import parse_time
from ascmamba_modules.data.resampling import check_rate
from ascmamba_modules.utils.files import printable
from ascmamba_modules.utils.remote import fetched_once

# A model's memory grows with the length of the longest clip.
_MAX_LENGTH = 300.0  # seconds


class ClassifiedFile(NamedTuple):
    """The result of ``SceneClassifier.classify_files`` for a file.

    Arguments
    ---------
    path : str
        The file.
    out_prob : torch.Tensor or None
        Log-posteriors (classes), on the CPU; None for a file with a problem.
    score : float or None
        Log-posterior of the best class.
    index : int or None
        Index of the best class.
    text_lab : str
        Name of the best class, or "unknown" if asked for; empty for a file
        with a problem.
    problem : str
        Why the file could not be classified, with the remedy; empty if it
        was.
    possible : list
        Names of the possible classes, if a coverage was asked for.
    """

    path: str
    out_prob: torch.Tensor | None = None
    score: float | None = None
    index: int | None = None
    text_lab: str = ""
    problem: str = ""
    possible: list = ()


class Clip(NamedTuple):
    """A file that has been read, or the reason why it could not be.

    Arguments
    ---------
    path : str
        The file.
    location, record_time : object
        Its place and time.
    waveform : torch.Tensor or None
        Waveform (samples); None for a file with a problem.
    problem : str
        Why the file cannot be used; empty if it can.
    """

    path: str
    location: object
    record_time: object
    waveform: torch.Tensor | None = None
    problem: str = ""


def batches_of_files(files, audio_normalizer, batch_size):
    """Reads files in threads, at most two batches ahead.

    Files with problems keep their place in the batches, so that a resumed run
    has the same batches.

    Arguments
    ---------
    files : iterable
        (path, location, record_time) of each.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Resamples and averages the channels.
    batch_size : int
        Files in a batch.

    Yields
    ------
    list
        A :class:`Clip` for each file of a batch.
    """

    @fetched_once()
    def read(file):
        path, location, record_time = file
        rate = audio_normalizer.sample_rate
        problem = file_problem(path, record_time, rate, decode=False)
        waveform = None
        if not problem:
            try:
                waveform = load_audio(path, audio_normalizer)
            except (ValueError, OSError) as error:
                problem = str(error)
        return Clip(path, location, record_time, waveform, problem)

    threads = get_available_cpu_count()
    clips = map_ahead(read, files, threads, ahead=2 * batch_size)
    while batch := list(islice(clips, batch_size)):
        yield batch


def file_problem(path, record_time, rate, longest=_MAX_LENGTH, decode=True):
    """Checks a file that is to be classified.

    Arguments
    ---------
    path : str
        The file.
    record_time : object
        Its time, see :func:`ascmamba_modules.data.place_and_time.parse_time`.
    rate : int
        Rate in Hz to which it is to be resampled.
    longest : float
        Seconds; by default the limit for a file as a whole.
    decode : bool
        As of :func:`ascmamba_modules.data.audio_files.inspect_audio`.

    Returns
    -------
    str
        The problem with its remedy; empty if there is none.

    Example
    -------
    >>> file_problem("none.wav", None, 44100)
    'file not found'
    """
    header = inspect_audio(path, decode)
    if header.problem:
        return header.problem
    if header.duration > longest:
        return (
            f"{header.duration:.0f} s is too long to be classified as a "
            "whole; use windows (classify_long, ascmamba timeline)"
        )
    try:
        check_rate(header.rate, rate)
        parse_time(record_time)
    except ValueError as error:
        return str(error)
    return ""


def file_problems(files, rate, longest=_MAX_LENGTH):
    """Checks many files in threads.

    Arguments
    ---------
    files : iterable
        (path, record_time) of each.
    rate, longest
        As of :func:`file_problem`.

    Returns
    -------
    list
        The problem of each file; empty if there is none.
    """
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda f: file_problem(*f, rate, longest), files)
        return list(problems)


def raise_problems(paths, problems):
    """Raises one error if there is a problem.

    Arguments
    ---------
    paths : list
        Files.
    problems : list
        The problem of each; empty if there is none.

    Raises
    ------
    ValueError
        With the first 20 problems.

    Example
    -------
    >>> raise_problems(["a.wav", "b.wav"], ["", "file not found"])
    Traceback (most recent call last):
        ...
    ValueError: b.wav: file not found
    """
    lines = [f"{path}: {text}" for path, text in zip(paths, problems) if text]
    if len(lines) == 1:
        raise ValueError(printable(lines[0]))
    if lines:
        head = f"{len(lines)} of {len(paths)} files cannot be used"
        raise ValueError(list_problems(head, lines))


def clips_together(clips, limit):
    """Divides clips into groups that go through the model together.

    Arguments
    ---------
    clips : list
        Clips; those with problems are left out.
    limit : float
        Largest number of samples in a group, padding included; a longer clip
        is a group of its own.

    Yields
    ------
    list
        Indices into the list.

    Example
    -------
    >>> clips = [Clip("", None, None, torch.zeros(n)) for n in (3, 4, 9, 1)]
    >>> list(clips_together(clips, 8))
    [[0, 1], [2], [3]]
    """
    together, longest = [], 0
    for i, clip in enumerate(clips):
        if clip.problem:
            continue
        longest = max(longest, len(clip.waveform))
        if together and longest * (len(together) + 1) > limit:
            yield together
            together, longest = [], len(clip.waveform)
        together.append(i)
    if together:
        yield together


@contextmanager
def naming_file(path):
    """Raises errors of audio files as a ``ValueError`` that names the file.

    Arguments
    ---------
    path : str or Path
        The file.

    Example
    -------
    >>> with naming_file("a.wav"):
    ...     raise ValueError("too loud")
    Traceback (most recent call last):
        ...
    ValueError: a.wav: too loud
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}")


def map_ahead(function, items, threads, ahead):
    """Calls a function on items in threads, ahead of the consumer.

    Unlike with SpeechBrain's ``parallel_map``, the number of results in
    memory is bounded.

    Arguments
    ---------
    function : callable
        Called with one item; its exceptions are raised in place of its
        result.
    items : iterable
        The items; consumed as needed.
    threads : int
        Number of threads.
    ahead : int
        Largest number of pending calls and waiting results.

    Yields
    ------
    object
        The results, in the order of the items.

    Example
    -------
    >>> list(map_ahead(abs, [-1, -2, 3], threads=2, ahead=2))
    [1, 2, 3]
    """
    waiting = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
