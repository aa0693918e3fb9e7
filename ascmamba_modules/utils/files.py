"""Files that are written whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """Gives a path to write to, which takes the place of ``path`` at the end.

    If writing fails nothing is left behind, and an older file stays.

    Arguments
    ---------
    path : str or Path
        The file to be; its folder is made if need be.

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
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(table, path, index=False):
    """Writes a table as CSV, whole or not at all.

    Arguments
    ---------
    table : pandas.DataFrame
        The table.
    path : str or Path
        CSV file to write; its folder is made if need be.
    index : bool
        Whether to write the index as the first column.
    """
    with replacing(path) as temporary:
        table.to_csv(temporary, index=index)
