"""``settings.json`` of a model folder: what the model is, as plain data.

Reading it builds nothing and runs nothing, unlike ``hyperparams.yaml`` beside
it, so that it may come from anybody.
"""

import json
from pathlib import Path

SETTINGS = "settings.json"
# Folders of version 1 held pickled weights and no plain settings.
FORMAT_VERSION = 2
_FIRST_FORMAT_FILES = ("hyperparams.yaml", "model.ckpt")


def write_settings(settings, folder):
    """Writes plain settings with the version of the format.

    Arguments
    ---------
    settings : dict
        Text, numbers, lists and dicts.
    folder : str or Path
        The model folder.
    """
    text = json.dumps(
        {"format_version": FORMAT_VERSION, **settings},
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
    )
    Path(folder, SETTINGS).write_text(text + "\n", "utf-8")


def read_settings(folder):
    """Reads the plain settings of a model folder.

    Arguments
    ---------
    folder : str or Path
        The model folder, on disk.

    Returns
    -------
    dict
        The settings.

    Raises
    ------
    FileNotFoundError
        If the folder is no model folder.
    ValueError
        If its settings are broken, or its format is of another version than
        this one reads.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_settings({"classes": ["Bus", "Bar"], "parts": {}}, folder)
    >>> read_settings(folder)["classes"]
    ['Bus', 'Bar']
    """
    path = Path(folder, SETTINGS)
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if is_first_format(folder):
            raise ValueError(
                f"{folder} is a model folder of an earlier version of this "
                "package (format 1, pickled weights), which this one does not "
                "read. Give the command of its training again: it trains no "
                "more, and writes the folder anew."
            ) from None
        raise FileNotFoundError(
            f"No {SETTINGS} in {folder}: this is no model folder. A finished "
            "training stage leaves one as 'model' in its output folder."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    _check(settings, path)
    return settings


def is_first_format(folder):
    """Tells whether a folder holds a model of format version 1.

    Arguments
    ---------
    folder : str or Path
        Any folder.

    Returns
    -------
    bool
    """
    has_settings = Path(folder, SETTINGS).exists()
    return not has_settings and all(
        Path(folder, name).exists() for name in _FIRST_FORMAT_FILES
    )


def _check(settings, path):
    version = None
    if isinstance(settings, dict):
        version = settings.get("format_version")
    if type(version) is not int:
        raise ValueError(f"{path} has no format_version: it is damaged.")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format {version} of model folders is another version; "
            f"this package reads format {FORMAT_VERSION}. Install the version "
            "of the package that the model was trained with."
        )
    names = settings.get("classes")
    if not (
        isinstance(names, list)
        and names
        and all(isinstance(name, str) for name in names)
        and isinstance(settings.get("parts"), dict)
    ):
        raise ValueError(f"{path} names no classes or parts: it is damaged.")
