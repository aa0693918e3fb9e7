"""Results on disk, batch by batch, so that a killed run can go on.

A run writes its rows to ``OUTPUT.part``, one line of JSON each behind a line
with the settings they depend on; the end turns it into the output.
"""

import csv
import importlib.util
import json
import os
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.utils.files import replacing, safe_cell

SUFFIXES = (".csv", ".jsonl", ".parquet")


def write_results(output, settings, total, batch_size, rows_from):
    """Writes rows to a file, or what an earlier run has left to write.

    Arguments
    ---------
    output : str
        The file, of one of the ``SUFFIXES``.
    settings : dict
        What the rows depend on, by name; texts and numbers.
    total : int
        Rows of the whole run.
    batch_size : int
        Rows that are written together.
    rows_from : callable
        ``rows_from(done)`` yields the rows, dicts with the same keys, from
        that number on; it is called once.

    Returns
    -------
    int
        Rows with a ``problem``.

    Raises
    ------
    CommandError
        If there is an unfinished run with other settings, or one that still
        writes.

    Example
    -------
    >>> output = str(getfixture("tmp_path") / "out.csv")
    >>> rows = [{"file": "a.wav", "problem": ""}]
    >>> write_results(output, {}, 1, 1, lambda done: iter(rows[done:]))
    0
    >>> print(open(output).read())
    file,problem
    a.wav,
    <BLANKLINE>
    """
    check_format(output)
    part, lock = Path(f"{output}.part"), FileLock(f"{output}.part.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CommandError(f"{part}: another run is writing to it")
    try:
        done = _resume(part, settings, total, batch_size)
        rows = rows_from(done)
        with open(part, "a", encoding="ascii") as file:
            while batch := list(islice(rows, batch_size)):
                if done == 0 and file.tell() == 0:
                    file.write(json.dumps(settings) + "\n")
                file.writelines(json.dumps(row) + "\n" for row in batch)
                file.flush()
                os.fsync(file.fileno())
        with replacing(output) as temporary:
            _WRITERS[Path(output).suffix.lower()](_rows(part), temporary)
        failed = sum(bool(row["problem"]) for row in _rows(part))
        part.unlink()
        return failed
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _resume(part, settings, total, batch_size):
    """Cuts an unfinished run to whole batches; gives its number of rows."""
    if not part.exists():
        return 0
    lines = part.read_bytes().splitlines(keepends=True)
    good = 0
    while good < len(lines) and _is_object(lines[good]):
        good += 1
    found = json.loads(lines[0]) if good else {}
    begun = good or lines and lines[0].endswith(b"\n")
    if begun and found != settings:
        differing = [k for k in settings if found.get(k) != settings[k]]
        raise CommandError(
            f"{part} is of an unfinished run with another "
            f"{' and '.join(differing) or 'form'}: finish that run, or delete "
            "the file to start anew"
        )
    done = max(good - 1, 0)
    if done != total:
        done -= done % batch_size
    with open(part, "r+b") as file:
        file.truncate(sum(map(len, lines[: done + 1])) if done else 0)
    return done


def _is_object(line):
    """Whether a line is whole; a power loss may leave zeros."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _rows(part):
    with open(part, encoding="ascii") as file:
        yield from map(json.loads, islice(file, 1, None))


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
    """Writes rows as CSV, without cells that a spreadsheet would run.

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
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(safe_cell, row))
        writer.writerow(map(safe_cell, row.values()))


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
