"""The manifest: one CSV row a clip, whatever corpus it is from.

Everything that can be wrong with a manifest or its audio files is found here,
before any training, and reported in one message.
"""

import csv
import os
import shlex
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes

from ascmamba_modules.context import time_text

COLUMNS = (
    "ID",
    "wav",
    "duration",
    "scene_label",
    "location",
    "record_time",
    "session",
    "dataset",
    "split",
    "label_source",
)
TRAINING_SPLITS = ("train", "valid", "test")
_SHOWN_PROBLEMS = 20
# A stated duration may be rounded; a file shorter by more is truncated.
_DURATION_TOLERANCE = 0.1  # seconds
_OGG_PAGE_BYTES = 65307  # at most, RFC 3533


class ManifestError(ValueError):
    """What is wrong with a manifest: the first 20 problems and their count.

    Arguments
    ---------
    path : str or Path
        The manifest.
    problems : list
        One text a problem.

    Example
    -------
    >>> print(ManifestError("clips.csv", ["line 2 (ID a): file not found"]))
    clips.csv: 1 problem
      - line 2 (ID a): file not found
    """

    def __init__(self, path, problems):
        plural = "" if len(problems) == 1 else "s"
        lines = [f"{path}: {len(problems)} problem{plural}"]
        lines += [f"  - {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
        hidden = len(problems) - _SHOWN_PROBLEMS
        if hidden > 0:
            lines.append(f"  ... and {hidden} more")
        super().__init__("\n".join(lines))
        self.problems = problems


def read_manifest(path):
    """Reads a manifest and checks its form.

    Arguments
    ---------
    path : str or Path
        CSV file with the columns of ``COLUMNS``, UTF-8; others are left out.

    Returns
    -------
    pandas.DataFrame
        Texts, stripped, empty where nothing is known.  ``duration`` is a
        number in seconds or NaN; ``wav`` is a full path (in the file it may
        be relative to the manifest's folder); ``line`` is the line of the
        CSV file.

    Raises
    ------
    ManifestError
        For an unreadable file, missing or repeated columns, rows of another
        length, empty or duplicate IDs, unusable durations or times.
    """
    table, problems = _parse(path)
    if problems:
        raise ManifestError(path, problems)
    return table


def read_training_rows(path, scene_labels):
    """Reads the rows to train, validate and test on, and checks them.

    Arguments
    ---------
    path : str or Path
        The manifest.
    scene_labels : list
        The classes.

    Returns
    -------
    dict
        A table for each of train, valid and test, as from
        :func:`read_manifest`: the labelled rows of that split.  valid and
        test may be empty.

    Raises
    ------
    ManifestError
        With all problems at once: those of :func:`read_manifest`, unknown
        classes, no labelled training clips, and audio files that are
        missing, empty, truncated or not audio.
    """
    table, problems = _parse(path)
    labelled = table[table["scene_label"] != ""]
    labelled = labelled[labelled["split"].isin(TRAINING_SPLITS)]
    problems += _class_problems(table, labelled, scene_labels)
    problems += audio_problems(labelled[labelled["wav"] != ""])
    if problems:
        raise ManifestError(path, problems)
    return {
        split: labelled[labelled["split"] == split] for split in TRAINING_SPLITS
    }


def _parse(path):
    """Table and problems of its rows; raises if there can be no table."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if any(row)]
    except FileNotFoundError:
        raise ManifestError(path, ["file not found; check --manifest"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(path, [f"not a CSV file: {error}"])
    if not lines:
        raise ManifestError(path, ["the file is empty"])
    header = [name.strip() for name in lines[0][1]]
    problems = [
        f"missing column '{name}'; the columns are {', '.join(COLUMNS)}"
        for name in COLUMNS
        if name not in header
    ]
    problems += [
        f"column '{name}' stands twice"
        for name in COLUMNS
        if header.count(name) > 1
    ]
    if problems:
        raise ManifestError(path, problems)
    fitting = [(n, row) for n, row in lines[1:] if len(row) == len(header)]
    problems = [
        f"line {n}: {len(row)} fields under {len(header)} columns"
        for n, row in lines[1:]
        if len(row) != len(header)
    ]
    table = pd.DataFrame([row for _, row in fitting], columns=header, dtype=str)
    table = table[list(COLUMNS)].map(str.strip)
    table["line"] = [n for n, _ in fitting]
    problems += _form_problems(table)
    table["duration"] = pd.to_numeric(table["duration"], errors="coerce")
    folder = path.absolute().parent
    table["wav"] = [str(folder / wav) if wav else "" for wav in table["wav"]]
    return table, problems


def _row(row):
    return f"line {row.line} (ID {row.ID})"


def _form_problems(table):
    problems = []
    first_line = {}
    for row in table.itertuples():
        if not row.ID:
            problems.append(f"line {row.line}: the ID is empty")
        elif row.ID in first_line:
            problems.append(
                f"{_row(row)}: duplicate ID, first on line {first_line[row.ID]}"
            )
        first_line.setdefault(row.ID, row.line)
        if not row.wav:
            problems.append(f"{_row(row)}: no file is named in 'wav'")
        if row.duration:
            seconds = pd.to_numeric(row.duration, errors="coerce")
            if not 0 < seconds < float("inf"):
                problems.append(
                    f"{_row(row)}: duration '{row.duration}' is not a "
                    "positive number of seconds"
                )
        try:
            time_text(row.record_time)
        except ValueError as error:
            problems.append(f"{_row(row)}: record_time {error}")
    return problems


def _class_problems(table, labelled, scene_labels):
    problems = []
    if not (labelled["split"] == "train").any():
        seen = ", ".join(sorted(set(table["split"]) - {""})) or "none"
        problems.append(
            "no labelled training clips: no row has split 'train' and a "
            f"scene_label (splits in the file: {seen})"
        )
    unknown = labelled[~labelled["scene_label"].isin(scene_labels)]
    if len(unknown):
        present = shlex.quote(str(sorted(set(labelled["scene_label"]))))
        problems.append(
            f"{len(unknown)} rows have a class that is not in scene_labels "
            f"({', '.join(scene_labels)}); if the classes are meant, "
            f"pass --scene_labels {present}"
        )
    return problems + [
        f"{_row(row)}: unknown class '{row.scene_label}'"
        for row in unknown.itertuples()
    ]


def audio_problems(table):
    """Checks the audio files of a table, without decoding them whole.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`read_manifest`.

    Returns
    -------
    list
        One text for each file that cannot be used.
    """
    with ThreadPoolExecutor() as pool:
        found = pool.map(audio_problem, table["wav"], table["duration"])
        return [
            f"{_row(row)}: {row.wav}: {problem}"
            for row, problem in zip(table.itertuples(), found)
            if problem
        ]


def audio_problem(path, duration=None):
    """Says what is wrong with an audio file.

    That a file is truncated is seen in WAVE, FLAC and Ogg files, in others
    only by their stated duration.

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
    if not os.path.exists(path):
        return "file not found"
    if not os.path.isfile(path):
        return "not a file"
    if os.path.getsize(path) == 0:
        return "empty file (0 bytes); fetch it again"
    try:
        with soundfile.SoundFile(path) as audio:
            frames, rate = audio.frames, audio.samplerate
            audio.seek(max(0, frames - 1))
            ends_early = frames > 0 and len(audio.read(1)) == 0
            if audio.subtype in ("FLOAT", "DOUBLE"):  # others hold no NaN
                audio.seek(0)
                blocks = audio.blocks(2**16, dtype="float32")
                if not all(np.isfinite(block).all() for block in blocks):
                    return "holds NaN or infinite samples; fetch it again"
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return f"not an audio file that can be read ({error})"
    if ends_early or _is_cut_short(path):
        return "truncated: shorter than its header says; fetch it again"
    if frames == 0:
        return "no samples in the file; fetch it again"
    if pd.notna(duration):
        seconds = frames / rate
        if seconds < duration - _DURATION_TOLERANCE:
            return (
                f"truncated: {seconds:.2f} s of the {duration:.2f} s that "
                "the manifest states; fetch it again or correct 'duration'"
            )
    return None


def _is_cut_short(path):
    """Whether a WAVE or Ogg file ends before it says it does.

    libsndfile reads either without a word, as a shorter file.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF" and start[8:] == b"WAVE":
            return _wave_is_cut_short(file)
        if start[:4] == b"OggS":
            return _ogg_is_cut_short(file)
    return False


def _wave_is_cut_short(file):
    """Compares the size in the data chunk's header with what follows it."""
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            # Programs that write into a pipe leave the maximum as size.
            end = file.tell() + size
            return size < 0x7FFFFF00 and end > file.seek(0, os.SEEK_END)
        file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _ogg_is_cut_short(file):
    """Looks for a complete last page that is marked as the stream's end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2 * _OGG_PAGE_BYTES))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return True
    segments = page[26]
    return len(page) < 27 + segments + sum(page[27 : 27 + segments])


def write_manifest(table, path):
    """Writes a manifest, whole or not at all.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of ``COLUMNS``.
    path : str or Path
        CSV file to write.
    """
    write_csv(table[list(COLUMNS)], path)


def write_csv(table, path, index=False):
    """Writes a table as CSV beside ``path``, then renames it into place.

    Arguments
    ---------
    table : pandas.DataFrame
        The table.
    path : str or Path
        CSV file to write; its folder is made if need be.
    index : bool
        Whether to write the index as the first column.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    table.to_csv(temporary, index=index)
    temporary.replace(path)


def load_audio(path, audio_normalizer):
    """Reads a file of any rate and channel count as one channel.

    Arguments
    ---------
    path : str or Path
        Audio file.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Resamples and averages the channels.

    Returns
    -------
    torch.Tensor
        Waveform (samples).
    """
    waveform, rate = audio_io.load(str(path), channels_first=False)
    return audio_normalizer(waveform, rate)


def make_dataset(table, audio_normalizer, label_encoder, tokenizer=None):
    """Makes a SpeechBrain dataset of a table's rows.

    Arguments
    ---------
    table : pandas.DataFrame
        Rows from :func:`read_manifest`, all labelled.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Brings waveforms to the features' rate, mono.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        Turns scene_label into an index.
    tokenizer : ascmamba_modules.context.ContextTokenizer, optional
        Turns location and record_time into tokens; None for models that take
        no place and time.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        Items with id, sig, label and, given a tokenizer, location_tokens and
        time_tokens.
    """

    @takes("wav")
    @provides("sig")
    def audio_pipeline(wav):
        return load_audio(wav, audio_normalizer)

    @takes("scene_label")
    @provides("label")
    def label_pipeline(scene_label):
        return label_encoder.encode_label(scene_label)

    @takes("location", "record_time")
    @provides("location_tokens", "time_tokens")
    def context_pipeline(location, record_time):
        yield tokenizer.encode_location(location)
        yield tokenizer.encode_time(record_time)

    pipelines = [audio_pipeline, label_pipeline]
    keys = ["id", "sig", "label"]
    if tokenizer is not None:
        pipelines.append(context_pipeline)
        keys += ["location_tokens", "time_tokens"]
    return DynamicItemDataset(
        table.set_index("ID").to_dict("index"), pipelines, keys
    )
