"""Files that are written completely or not at all."""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from ascmamba_modules.utils.remote import is_url, url_stamp


@contextmanager
def replacing(path):
    """Gives a temporary path to write to, which then replaces ``path``.

    If writing fails, no new file is left behind and an older one stays.

    Arguments
    ---------
    path : str or Path
        The file to write; its folder is created.

    Yields
    ------
    Path
        A file beside it, with the same suffix.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with replacing(folder / "new" / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [file.name for file in (folder / "new").iterdir()]
    ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        # Else a power loss may leave zeros under the name.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_stamp(path):
    """Gives what changes when a file is changed.

    Arguments
    ---------
    path : str or Path
        The file, or its URL.

    Returns
    -------
    size : int
        Its size in bytes.
    modified : int
        The time of its last change in nanoseconds.

    Raises
    ------
    OSError
        If it is not there.
    """
    if is_url(path):
        return url_stamp(path)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def write_csv(table, path, index=False):
    """Writes a table as CSV, completely or not at all.

    Arguments
    ---------
    table : pandas.DataFrame
        The table.
    path : str or Path
        CSV file to write; its folder is created.
    index : bool
        Whether to write the index as the first column.
    """
    with replacing(path) as temporary:
        table.to_csv(temporary, index=index)


def read_json(path):
    """Reads a JSON object that a program wrote for itself.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    dict
        Its content; empty if there is no such file.

    Raises
    ------
    ValueError
        If it is damaged, with the remedy.

    Example
    -------
    >>> read_json("no_such_file.json")
    {}
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _damaged(path, error) from None
    if not isinstance(content, dict):
        raise _damaged(path, "no JSON object")
    return content


def _damaged(path, reason):
    return ValueError(
        f"{path} is damaged ({reason}): remove it, and run the same command "
        "again."
    )


def printable(text):
    """Escapes control characters and what is no Unicode, so that no file's
    name steers a terminal, or fails on its way there.

    Arguments
    ---------
    text : str
        One line.

    Returns
    -------
    str
        The line, with an escape for each such character.

    Example
    -------
    >>> print(printable("a\\x1b[2J\\n.wav"))
    a\\x1b[2J\\n.wav
    """
    return re.sub(
        "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]",
        lambda x: repr(x[0])[1:-1],
        text,
    )


def safe_cell(value):
    """Marks a text as one that spreadsheets take for a formula.

    Arguments
    ---------
    value : object
        Value of a cell.

    Returns
    -------
    object
        Texts that begin with = + - @ or a control character with a ' before
        them, others as they are.

    Example
    -------
    >>> safe_cell("=1+1"), safe_cell("a.wav"), safe_cell(-1)
    ("'=1+1", 'a.wav', -1)
    """
    if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")):
        return f"'{value}"
    return value
