"""Results on disk, batch by batch, so that a killed run can go on.

A run writes its rows to ``OUTPUT.part``, one line of JSON each behind a line
with the settings they depend on; the end turns it into the output.
"""

import csv
import hashlib
import importlib.util
import json
import os
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from ascmamba_modules import __version__
from ascmamba_modules.command_line.options import CommandError, process_share
from ascmamba_modules.utils.files import replacing, safe_cell


def write_results(output, settings, total, batch_size, rows_from, write=None):
    """Writes rows to a file, or what an earlier run has left to write.

    Arguments
    ---------
    output : str
        The file.
    settings : dict
        What the rows depend on, by name; texts and numbers.
    total : int
        Rows of the whole run.
    batch_size : int
        Rows that are written together.
    rows_from : callable
        ``rows_from(done)`` yields the rows, dicts with the same keys, from
        that number on; it is called once.
    write : callable, optional
        ``write(rows, path)`` turns all rows into the file; by default that
        goes by the suffix, ``.csv``, ``.jsonl`` or
        ``.parquet``.

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
    if write is None:
        check_format(output)
        write = _WRITERS[Path(output).suffix.lower()]
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
            write(_rows(part), temporary)
        failed = sum(bool(row["problem"]) for row in _rows(part))
        part.unlink()
        return failed
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def write_share(output, settings, total, batch_size, rows_from):
    """As :func:`write_results`, in one of several processes.

    Each writes every ``WORLD_SIZE``-th row, from the ``RANK``-th on, into a
    file of its own; the first one waits for the others and puts the rows
    together in their order.  Both are variables of the environment, see
    :func:`~ascmamba_modules.command_line.options.process_share`.  ``settings``
    and ``total`` are those of all rows, ``rows_from`` gives this process's.
    """
    rank, world = process_share()
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    parts = [f"{output}.{n}of{world}.{digest}.jsonl" for n in range(world)]
    if not os.path.exists(parts[rank]):  # else of an earlier run
        own = len(range(rank, total, world))
        write_results(parts[rank], settings, own, batch_size, rows_from)
    if rank > 0:
        return 0
    while not all(map(os.path.exists, parts)):
        time.sleep(0.5)

    def rows():
        with ExitStack() as stack:
            files = [
                stack.enter_context(open(part, encoding="utf-8"))
                for part in parts
            ]
            for number in range(total):
                yield json.loads(files[number % world].readline())

    with replacing(output) as temporary:
        _WRITERS[Path(output).suffix.lower()](rows(), temporary)
    failed = sum(bool(row["problem"]) for row in rows())
    for part in parts:
        os.unlink(part)
    return failed


def _resume(part, settings, total, batch_size):
    """Cuts an unfinished run to whole batches; gives its number of rows."""
    if not part.exists():
        return 0
    ends = []  # of the whole lines
    with open(part, "rb") as file:
        first = file.readline()
        file.seek(0)
        for line in file:
            if not _is_object(line):
                break
            ends.append(file.tell())
    found = json.loads(first) if ends else {}
    if first.endswith(b"\n") and found != settings:
        differing = [k for k in settings if found.get(k) != settings[k]]
        raise CommandError(
            f"{part} is of an unfinished run with another "
            f"{' and '.join(differing) or 'form'}: finish that run, or delete "
            "the file to start anew"
        )
    done = max(len(ends) - 1, 0)
    if done != total:
        done -= done % batch_size
    with open(part, "r+b") as file:
        file.truncate(ends[done] if done else 0)
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


def run_settings(arguments, classifier, recordings):
    """What the rows depend on, by name; a run goes on only with the same."""
    listed = hashlib.sha256(repr(recordings).encode("utf-8", "replace"))
    return {
        "version": __version__,
        "model": _fingerprint(arguments.model),
        "list of recordings, places or times": listed.hexdigest(),
        "batch size": arguments.batch_size,
        "device": str(classifier.device),
        "precision": str(classifier.precision),
    }


def _fingerprint(model):
    """Tells a model folder by what it is built from; a hub's by its name."""
    from ascmamba_modules.model_folder.folder import model_files

    try:
        paths = model_files(model)
    except FileNotFoundError:
        return model
    found = hashlib.sha256()
    for path in paths:
        found.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def check_format(output):
    """Raises a CommandError for Parquet without pyarrow."""
    is_parquet = Path(output).suffix.lower() == ".parquet"
    if is_parquet and importlib.util.find_spec("pyarrow") is None:
        raise CommandError(
            f"{output}: Parquet needs pyarrow (pip install pyarrow); or take "
            "a name that ends in .csv or .jsonl"
        )


def write_rows(rows, file):
    """Writes rows as CSV, without cells that a spreadsheet would run."""
    write = row_writer(file)
    for row in rows:
        write(row)


def row_writer(file, delimiter=","):
    """Makes what writes rows, dicts with the same keys, as CSV one by one; the
    first writes a header, too."""
    writer = None

    def write(row):
        nonlocal writer
        if writer is None:
            writer = csv.writer(file, lineterminator="\n", delimiter=delimiter)
            writer.writerow(map(safe_cell, row))
        writer.writerow(map(safe_cell, row.values()))

    return write


def open_table(path):
    """Opens a table to write; file names that are no UTF-8 keep their bytes."""
    return open(
        path, "w", encoding="utf-8", errors="surrogateescape", newline=""
    )


def _write_csv(rows, path):
    with open_table(path) as file:
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
