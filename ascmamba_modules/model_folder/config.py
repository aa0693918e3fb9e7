"""``config.json`` of a model folder: what is known of a model, as plain data.

Its classes, its size and its training.  Reading it builds nothing and imports
no PyTorch.  Model hubs read ``speechbrain_interface`` in it.
"""

import json
from pathlib import Path

CONFIG = "config.json"
FOLDER = "model"
SHIPPED_MODELS = ("ambience", "sound_tags")
_SHIPPED = Path(__file__).parents[1] / "pretrained"
_MAX_BYTES = 1_000_000


def find_model(folder):
    """Finds the model of a finished stage.

    Arguments
    ---------
    folder : str or Path
        The stage's output folder, or the folder ``model/`` in it; or the name
        of one of ``SHIPPED_MODELS``.

    Returns
    -------
    Path
        The folder with the files of the model.

    Raises
    ------
    FileNotFoundError
        If there is none, e.g. because the stage is not finished.
    """
    for place in (Path(folder, FOLDER), Path(folder)):
        if (place / CONFIG).is_file():
            return place
    if str(folder) in SHIPPED_MODELS:
        return _SHIPPED / str(folder)
    raise FileNotFoundError(
        f"No finished model in {folder}: neither it nor {FOLDER}/ in it has "
        f"a {CONFIG}. Name the output folder of a finished stage."
    )


def read_config(folder):
    """Reads what is known of a model.

    Arguments
    ---------
    folder : str or Path
        The model folder, as for :func:`find_model`.

    Returns
    -------
    dict
        Content of ``config.json``.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If the file is damaged.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / CONFIG).write_text('{"classes": ["Bus", "Bar"]}')
    >>> read_config(folder)["classes"]
    ['Bus', 'Bar']
    """
    path = find_model(folder) / CONFIG
    try:
        config = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    names = config.get("classes") if isinstance(config, dict) else None
    if not isinstance(names, list) or not all(
        isinstance(name, str) for name in names
    ):
        raise ValueError(f"{path} is damaged: it names no classes.")
    return config


def read_text(path):
    """Reads a text file, if it is a file and not too large.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    str
        Its text.

    Raises
    ------
    FileNotFoundError
        If there is no such file; pipes and devices are none.
    ValueError
        If it is larger than 1 MB or not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing or no regular file.")
    with open(path, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} is larger than 1 MB.")
    return content.decode("utf-8")
