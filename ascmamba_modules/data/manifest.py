"""The manifest: a CSV file with one row a clip, for every corpus.

Faults of a manifest and its audio files are found here, before training, and
reported in one message.
"""

import csv
import os
import shlex
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.logger import get_logger

from ascmamba_modules.data.audio_files import audio_problems, load_audio
from ascmamba_modules.data.audio_reader import libsndfile_message
from ascmamba_modules.data.place_and_time import parse_time
from ascmamba_modules.utils.files import printable, write_csv
from ascmamba_modules.utils.remote import is_url

logger = get_logger(__name__)

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
NEEDED = ("ID", "wav")
NEEDED_TO_TRAIN = (*NEEDED, "scene_label", "split")
TRAINING_SPLITS = ("train", "valid", "test")
# Splits that no training reads, but evaluate.py and the challenge do.
_OTHER_SPLITS = ("evaluation", "")
_SHOWN_PROBLEMS = 20
_REMEDY = "save it as CSV with commas, in UTF-8"
# What str.strip() leaves: no width, so nobody sees it.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"


class ManifestError(ValueError):
    """The problems of a manifest: their number and the first 20.

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
        head = f"{path}: {len(problems)} problem{plural}"
        super().__init__(list_problems(head, problems))
        self.problems = problems


def list_problems(head, problems):
    """Writes the first 20 problems below each other.

    Arguments
    ---------
    head : str
        The first line.
    problems : list
        One text a problem.

    Returns
    -------
    str
        Several lines.
    """
    lines = [head]
    shown = map(printable, problems[:_SHOWN_PROBLEMS])
    lines += [f"  - {problem}" for problem in shown]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  ... and {len(problems) - _SHOWN_PROBLEMS} more")
    return "\n".join(lines)


def read_manifest(path):
    """Reads a manifest and checks its form.

    Arguments
    ---------
    path : str or Path
        CSV file in UTF-8 with columns of ``COLUMNS``, in upper or lower case,
        at least ID and wav; the others are taken for empty, and more are
        ignored.

    Returns
    -------
    pandas.DataFrame
        Stripped texts, empty where unknown.  ``duration`` is a number of
        seconds or NaN; ``wav`` is a URL or an absolute path (in the file it
        may be relative to the manifest's folder); ``line`` is the line of the
        CSV file.  Accents in ``scene_label`` are composed.

    Raises
    ------
    ManifestError
        For an unreadable file, missing or repeated columns, rows of the wrong
        length, empty or duplicate IDs, and invalid durations or times.
    """
    table, problems = _parse(path, NEEDED)
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
        classes, no labelled training clips, files that are in training and
        in another split, and audio files that are missing, empty, truncated
        or unreadable.
    """
    table, problems = _parse(path, NEEDED_TO_TRAIN)
    labelled = table[table["scene_label"] != ""]
    _warn_of_unused(path, labelled)
    labelled = labelled[labelled["split"].isin(TRAINING_SPLITS)]
    problems += _class_problems(table, labelled, scene_labels)
    problems += _repeated_files(path, labelled[labelled["wav"] != ""])
    problems += unusable_files(labelled[labelled["wav"] != ""])
    if problems:
        raise ManifestError(path, problems)
    return {
        split: labelled[labelled["split"] == split] for split in TRAINING_SPLITS
    }


def _parse(path, needed):
    """The table and the problems of its rows."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if any(row)]
    except FileNotFoundError:
        raise ManifestError(path, ["file not found; check its path"])
    except UnicodeDecodeError as error:
        raise ManifestError(path, [_encoding_problem(path, error)])
    except (OSError, csv.Error) as error:
        raise ManifestError(path, [f"not a CSV file: {error}"])
    if not lines:
        raise ManifestError(path, ["the file is empty"])
    canonical = {name.lower(): name for name in COLUMNS}
    header = [name.strip() for name in lines[0][1]]
    header = [canonical.get(name.lower(), name) for name in header]
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sign in header[0]:
            problem = f"its fields are separated by {name}: {_REMEDY}"
            raise ManifestError(path, [problem])
    problems = [
        f"missing column '{name}'; needed are {', '.join(needed)}"
        for name in needed
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
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        logger.info("%s has no %s: not known", path, ", ".join(absent))
    table = table.loc[:, ~table.columns.duplicated()]  # not ours, see above
    table = table.reindex(columns=list(COLUMNS), fill_value="").map(str.strip)
    table["scene_label"] = table["scene_label"].map(clean_label)
    table["line"] = [n for n, _ in fitting]
    problems += _form_problems(table)
    table["duration"] = pd.to_numeric(table["duration"], errors="coerce")
    folder = path.absolute().parent
    table["wav"] = [
        str(folder / wav) if wav and not is_url(wav) else wav
        for wav in table["wav"]
    ]
    return table, problems


def _encoding_problem(path, error):
    start = path.read_bytes()[:2]
    if start in (b"\xff\xfe", b"\xfe\xff"):
        return f"not a CSV file in UTF-8 but in UTF-16: {_REMEDY}"
    line = error.object[: error.start].count(b"\n") + 1
    return (
        f"not a CSV file in UTF-8: byte {error.object[error.start]:#x} on line "
        f"{line}; {_REMEDY}"
    )


def clean_label(label):
    """Writes a class in the one way that it is compared in.

    Arguments
    ---------
    label : str
        As somebody wrote it.

    Returns
    -------
    str
        Without blanks and invisible characters at its ends, accents composed.

    Example
    -------
    >>> clean_label("Cafe\\u0301 \\u200b") == "Café"
    True
    """
    label = unicodedata.normalize("NFC", label)
    return label.strip().strip(_INVISIBLE).strip()


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
            parse_time(row.record_time)
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


def _warn_of_unused(path, labelled):
    """Warns of labelled rows in splits that nothing reads, such as "Train"."""
    known = (*TRAINING_SPLITS, *_OTHER_SPLITS)
    unused = labelled["split"][~labelled["split"].isin(known)]
    if len(unused):
        counts = unused.value_counts().items()
        logger.warning(
            "%s: rows of these splits are not used: %s. The splits are %s.",
            path,
            ", ".join(f"'{name}' ({count})" for name, count in counts),
            ", ".join(TRAINING_SPLITS),
        )


def _repeated_files(path, labelled):
    """Finds files that are trained and scored on; warns of those that have
    two classes."""
    problems, ambiguous, first = [], [], {}
    for row in labelled.itertuples():
        file = os.path.normpath(row.wav)
        same = first.setdefault(file, row)
        if (same.split == "train") != (row.split == "train"):
            problems.append(
                f"{_row(row)}: split '{row.split}', but the same file is in "
                f"split '{same.split}' on line {same.line}; remove one of "
                "them, else scores mean nothing"
            )
        elif same.scene_label != row.scene_label:
            ambiguous.append(f"line {same.line} and {row.line}: {row.wav}")
    if ambiguous:
        text = f"{path}: the same file has two classes"
        logger.warning(list_problems(text, ambiguous))
    return problems


def unusable_files(table):
    """Checks the audio files of a table.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`read_manifest`.

    Returns
    -------
    list
        One text for each file that cannot be used.
    """
    problems = audio_problems(table["wav"], table["duration"])
    return [
        f"{_row(row)}: {row.wav}: {problem}"
        for row, problem in zip(table.itertuples(), problems)
        if problem
    ]


def write_manifest(table, path):
    """Writes a manifest, completely or not at all.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of ``COLUMNS``.
    path : str or Path
        CSV file to write.
    """
    write_csv(table[list(COLUMNS)], path)


@contextmanager
def _naming(wav):
    """Turns what reading a clip may raise into one error with its path."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or libsndfile_message(error)
        raise OSError(
            f"{wav} can no longer be read ({reason}): restore it; the same "
            "command again then goes on from the last checkpoint"
        ) from None


def make_dataset(
    table,
    audio_normalizer,
    label_encoder=None,
    tokenizer=None,
    clip_length=None,
    feature_cache=None,
):
    """Makes a SpeechBrain dataset of a table's rows.

    Arguments
    ---------
    table : pandas.DataFrame
        Rows from :func:`read_manifest`.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Brings waveforms to the features' rate, mono.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder, optional
        Turns scene_label into an index; None for clips without labels.
    tokenizer : ascmamba_modules.context.ContextTokenizer, optional
        Turns location and record_time into tokens; None for models that take
        no place and time.
    clip_length : float, optional
        Fixed length of the clips in seconds; None keeps their lengths.
    feature_cache : ascmamba_modules.data.feature_cache.FeatureCache, optional
        Provides features instead of waveforms.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        Items with id, sig (or, given a cache, feats), location, record_time
        and, given an encoder, label, and, given a tokenizer, location_tokens
        and time_tokens.  A file that is gone or damaged by then raises an
        OSError that names it.
    """

    @takes("wav")
    @provides("sig")
    def audio_pipeline(wav):
        with _naming(wav):
            return load_audio(wav, audio_normalizer, clip_length)

    @takes("wav")
    @provides("feats")
    def feature_pipeline(wav):
        with _naming(wav):
            return feature_cache.load(wav)

    @takes("scene_label")
    @provides("label")
    def label_pipeline(scene_label):
        return label_encoder.encode_label(scene_label)

    @takes("location", "record_time")
    @provides("location_tokens", "time_tokens")
    def context_pipeline(location, record_time):
        yield from tokenizer.encode(location, record_time)

    pipelines = [audio_pipeline, feature_pipeline, label_pipeline]
    keys = ["id", "feats" if feature_cache else "sig"]
    keys += ["location", "record_time"]
    if label_encoder is not None:
        keys.append("label")
    if tokenizer is not None:
        pipelines.append(context_pipeline)
        keys += ["location_tokens", "time_tokens"]
    return DynamicItemDataset(
        table.set_index("ID").to_dict("index"), pipelines, keys
    )
