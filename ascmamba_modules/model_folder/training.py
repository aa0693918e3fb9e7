"""What a training was, as plain data, for the model that comes out of it."""

import pandas as pd

from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.model_folder.card import UNKNOWN


def describe_training(
    hparams, rows, scores, started_from=None, licences=None, temperature=None
):
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
        This description of the training whose weights this one began with;
        {} if nothing is known of it, None if the weights were random.
    licences : dict, optional
        Licences of data sets, by their names in the manifest.
    temperature : float, optional
        Fitted on the valid clips; the classifier's weights were divided by it.

    Returns
    -------
    dict
        Stage, name of the manifest, clips by split and class, by split and
        data set, and by label source in training, shortest and longest
        training clip, share of training clips with a place and with a time,
        share of the valid and test clips whose recording session is in
        training (None where no session is known), scores, temperature,
        licences, settings without paths, and ``started_from``.
    """
    rows = {split: table for split, table in rows.items() if len(table)}
    train = rows["train"]
    datasets = {split: _counts(rows[split]["dataset"]) for split in rows}
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
        "datasets": datasets,
        "label_sources": _counts(train["label_source"]),
        "seconds": _seconds(hparams.get("clip_length"), train["duration"]),
        "known": {
            name: float((train[name] != "").mean())
            for name in ("location", "record_time")
        },
        "sessions_seen": _sessions_seen(rows),
        "scores": {k: scores.get(k) for k in ("valid", "test", *scores)},
        "temperature": temperature,
        "licences": {
            name: text
            for name, text in (licences or {}).items()
            if name in datasets["train"]
        },
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


def _seconds(clip_length, durations):
    """Length of the shortest and the longest clip, None if not known."""
    if clip_length:
        return [float(clip_length)] * 2
    durations = pd.to_numeric(durations, errors="coerce")
    if durations.isna().any():
        return None
    return [float(durations.min()), float(durations.max())]


def _sessions_seen(rows):
    table = pd.concat(rows.values())
    sessions = find_sessions(table)
    # A clip of which no session is known has its ID for one.
    sessions = sessions[sessions != table["ID"]]
    seen, shares = set(sessions[sessions.index.isin(rows["train"].index)]), {}
    for split in rows.keys() - {"train"}:
        known = sessions[sessions.index.isin(rows[split].index)]
        is_known = len(known) and seen
        shares[split] = float(known.isin(seen).mean()) if is_known else None
    return shares


def _is_plain(value):
    if isinstance(value, str):
        return "/" not in value and "\\" not in value  # paths tell who trained
    return type(value) in (bool, int, float)
