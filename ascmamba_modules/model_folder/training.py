"""What a training was, as plain data, for the model that comes out of it."""

import pandas as pd

from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.model_folder.card import UNKNOWN

# Of a training of which nothing is known.
NO_DESCRIPTION = {
    "stage": UNKNOWN,
    "manifest": UNKNOWN,
    "datasets": {},
    "started_from": None,
}


def describe_training(hparams, rows, scores, started_from=None):
    """Sums up a training as plain data.

    Arguments
    ---------
    hparams : dict
        The stage's hyperparameters: manifest, stage, and its settings.
    rows : dict
        The labelled rows of each split, as from
        :func:`ascmamba_modules.data.manifest.read_training_rows`.
    scores : dict
        Macro accuracy (0 to 1) or None of "valid" and "test".
    started_from : dict, optional
        This description of the training whose weights this one began with.

    Returns
    -------
    dict
        Stage, name of the manifest, clips by split and class, those of each
        data set and label source in training, share of the valid and test
        clips whose recording session is in training, scores, settings
        without paths, and ``started_from``.
    """
    rows = {split: table for split, table in rows.items() if len(table)}
    sessions = find_sessions(pd.concat(rows.values()))
    seen = set(sessions[rows["train"].index])
    return {
        "stage": hparams.get("stage"),
        "manifest": str(hparams["manifest"]).replace("\\", "/").split("/")[-1],
        "clips": {
            split: {
                name: int((table["scene_label"] == name).sum())
                for name in hparams["scene_labels"]
            }
            for split, table in rows.items()
        },
        "datasets": _counts(rows["train"]["dataset"]),
        "label_sources": _counts(rows["train"]["label_source"]),
        "sessions_seen": {
            split: float(sessions[table.index].isin(seen).mean())
            for split, table in rows.items()
            if split != "train"
        },
        "scores": {k: scores.get(k) for k in ("valid", "test")},
        "settings": {
            name: value
            for name, value in hparams.items()
            if name != "manifest" and _is_plain(value)
        },
        "started_from": started_from,
    }


def _counts(column):
    names = column.where(column != "", UNKNOWN)
    return {name: int(n) for name, n in names.value_counts().items()}


def _is_plain(value):
    if isinstance(value, str):
        return "/" not in value and "\\" not in value  # paths tell who trained
    return type(value) in (bool, int, float)
