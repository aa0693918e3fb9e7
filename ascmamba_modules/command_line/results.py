"""Results on disk: kept from the first batch on, one file in the end.

A run writes a journal beside its output, ``out.csv.part``: a line with the
settings of the run, then one line of JSON a file, written batch by batch.  A
run that finds a journal with its own settings goes on behind its last whole
batch.  In the end the journal becomes the output, which so is the same for
each format, however often the run was killed.
"""

import csv
import importlib.util
import json
import os
from pathlib import Path

from filelock import FileLock, Timeout

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.utils.files import replacing

SUFFIXES = (".csv", ".jsonl", ".parquet")


class Journal:
    """The rows of a run, on disk.

    Arguments
    ---------
    output : str
        The file in which the rows end, of one of the ``SUFFIXES``.
    settings : dict
        What the rows depend on, by name; texts and numbers.
    total : int
        Rows of the whole run.
    batch_size : int
        Rows that are written together.

    Attributes
    ----------
    done : int
        Rows that an earlier run has left; a whole number of batches.
    is_empty : bool
        Whether there are no rows yet; such a journal is not left behind.

    Raises
    ------
    CommandError
        If the journal is of a run with other settings, or one that still
        writes.

    Example
    -------
    >>> output = str(getfixture("tmp_path") / "out.csv")
    >>> with Journal(output, {"model": "a"}, 2, 1) as journal:
    ...     journal.append([{"file": "a.wav", "scene_label": "Bus"}])
    >>> with Journal(output, {"model": "a"}, 2, 1) as journal:
    ...     print(journal.done)
    ...     journal.append([{"file": "b.wav", "scene_label": "Bar"}])
    ...     journal.finish()
    1
    >>> print(open(output).read())
    file,scene_label
    a.wav,Bus
    b.wav,Bar
    <BLANKLINE>
    """

    def __init__(self, output, settings, total, batch_size):
        check_format(output)
        self.output = output
        self.path = f"{output}.part"
        self.done = 0
        self._lock = FileLock(f"{self.path}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise CommandError(f"{self.path}: another run is writing to it")
        try:
            self._file = open(self.path, "a+b")
            self._resume(settings, total, batch_size)
            self.is_empty = self.done == 0
        except BaseException:
            self._release()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        if self.is_empty:
            Path(self.path).unlink(missing_ok=True)
        self._release()

    def _release(self):
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _resume(self, settings, total, batch_size):
        self._file.seek(0)
        header = self._file.readline()
        if not header.endswith(b"\n"):  # new, or killed at once
            self._file.truncate(0)
            self._write(settings)
            return
        self._check(header, settings)
        end = self._file.tell()
        position, count = end, 0
        for line in self._file:
            if not line.endswith(b"\n"):  # killed in the middle of it
                break
            position += len(line)
            count += 1
            if count % batch_size == 0 or count == total:
                end, self.done = position, count
        self._file.truncate(end)

    def _check(self, header, settings):
        try:
            found = json.loads(header)
            differing = [
                name for name in settings if found[name] != settings[name]
            ]
        except (ValueError, KeyError, TypeError):
            differing = ["form"]
        if differing:
            raise CommandError(
                f"{self.path} is of an unfinished run with another "
                f"{' and '.join(differing)}: finish that run, or delete the "
                "file to start anew"
            )

    def append(self, rows):
        """Writes the rows of a batch; they are safe when it returns.

        Arguments
        ---------
        rows : list
            One dict a row, all with the same keys.
        """
        self._write(*rows)
        self.is_empty = False

    def _write(self, *lines):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._file.write(text.encode("ascii"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def rows(self):
        """Yields all rows written so far, those of earlier runs too."""
        with open(self.path, encoding="ascii") as file:
            next(file)
            yield from map(json.loads, file)

    def finish(self):
        """Turns the journal into the output, whole or not at all."""
        write = _WRITERS[Path(self.output).suffix.lower()]
        with replacing(self.output) as temporary:
            write(self.rows(), temporary)
        os.unlink(self.path)


def check_format(output):
    """Refuses a format that cannot be written here.

    Arguments
    ---------
    output : str
        The file to be, of one of the ``SUFFIXES``.

    Raises
    ------
    CommandError
        For Parquet without pyarrow.
    """
    is_parquet = Path(output).suffix.lower() == ".parquet"
    if is_parquet and importlib.util.find_spec("pyarrow") is None:
        raise CommandError(
            f"{output}: Parquet needs pyarrow (pip install pyarrow); or take "
            "a name that ends in .csv or .jsonl"
        )


def write_rows(rows, file):
    """Writes rows as CSV.

    Arguments
    ---------
    rows : iterable
        One dict a row, all with the same keys.
    file : file
        Open for writing text.
    """
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)


def _write_csv(rows, path):
    # File names that are no UTF-8 keep their bytes.
    with open(
        path, "w", encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        write_rows(rows, file)


def _write_jsonl(rows, path):
    # What is no UTF-8 becomes an escape, which is what JSON has for it.
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(rows, path):
    import pandas as pd

    def utf8(row):
        name = row["file"].encode("utf-8", "backslashreplace").decode()
        return {**row, "file": name}

    pd.DataFrame(map(utf8, rows)).to_parquet(path, index=False)


_WRITERS = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
