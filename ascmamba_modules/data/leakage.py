"""Leakage between training and validation clips.

A model that knows place and time, or recognises what clips of one session have
in common, can score high on clips that it has in effect seen.  The audit
counts them, and scores a decision tree on place and time alone.
"""

import numpy as np
import pandas as pd

from ascmamba_modules.data.metadata_baseline import classify_by_metadata
from ascmamba_modules.data.sessions import (
    LEVELS,
    find_groups,
    find_places,
    find_sessions,
    find_times,
    summarise,
)

_LEVEL_NAMES = ("session", "run", "day and city", "city")
_SHOWN_NAMES = 10
# What the counts of the summary are a share of.
_WHOLES = {
    "labelled sessions": "development sessions",
    "labelled sessions of one class": "labelled sessions",
    "unlabelled clips in a labelled session": "unlabelled clips",
    "evaluation clips in a development session": "evaluation clips",
    "evaluation clips in a labelled session": "evaluation clips",
    "labelled runs": "runs",
    "labelled runs of one class": "labelled runs",
    "unlabelled clips in a labelled run": "unlabelled clips",
}


def audit(table):
    """Measures the share of a split's clips that training has in effect seen.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.DataFrame
        A column for each split except "train" and "", on its labelled clips,
        or on all of them if none is labelled.  Rows: their number; for
        session, run, day and city, and city the share of them (0 to 1) with
        a labelled training clip, or any training clip, in the same; and
        ``metadata-only macro accuracy``, the score of
        :func:`~ascmamba_modules.data.metadata_baseline.classify_by_metadata`,
        NaN without labels.

    Raises
    ------
    ValueError
        See :func:`~ascmamba_modules.data.sessions.find_runs`, or if there are
        no labelled training clips.

    Example
    -------
    >>> table = pd.DataFrame({"ID": list("abcd"), "session": ""})
    >>> table["scene_label"] = ["Bus", "Bar", "Bus", "Bar"]
    >>> table["location"] = ["Hefei", "Hefei", "Hefei", "Jinan"]
    >>> table["record_time"] = "2023-05-21 10:08:52"
    >>> table["split"] = ["train", "train", "valid", "valid"]
    >>> shares = audit(table)["valid"]
    >>> float(shares["session of a labelled training clip"])
    0.5
    """
    groups = find_groups(table)
    labelled = table["scene_label"] != ""
    train = table["split"] == "train"
    if not (train & labelled).any():
        raise ValueError(
            "no labelled training clips: no row has split 'train' and a "
            "scene_label"
        )
    columns = {}
    for name in sorted(set(table["split"]) - {"train", ""}):
        scored = table["split"] == name
        has_labels = (scored & labelled).any()
        if has_labels:
            scored &= labelled
        column = {"clips": scored.sum()}
        for text, seen in (
            ("a labelled training clip", train & labelled),
            ("any training clip", train),
        ):
            for level, level_name in zip(LEVELS, _LEVEL_NAMES):
                shared = groups.loc[scored, level].isin(groups.loc[seen, level])
                column[f"{level_name} of {text}"] = shared.mean()
        column["metadata-only macro accuracy"] = np.nan
        if has_labels:
            labels = table.loc[scored, "scene_label"]
            right = labels == classify_by_metadata(
                table[train & labelled], table[scored]
            )
            recalls = right.groupby(labels).mean()
            column["metadata-only macro accuracy"] = recalls.mean()
        columns[name] = column
    return pd.DataFrame(columns)


def find_warnings(table):
    """Lists warnings about the metadata of a split.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    list
        Texts on unknown places and times, sessions with several classes, and
        cities and classes that are not in training.

    Raises
    ------
    ValueError
        For a text that is not a time, with its row's ID.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a"], "scene_label": ["Bus"]})
    >>> table = table.assign(session="", record_time="2023-05-21 10:08:52")
    >>> for text in find_warnings(table.assign(location="", split="train")):
    ...     print(text)
    place or time unknown: 1 of 1 clips; 1 of them cannot be grouped
    """
    places, times = find_places(table), find_times(table)
    sessions = find_sessions(table)
    warnings = []

    unknown = (places == "") | times["time"].isna()
    if unknown.any():
        alone = ((places == "") | times["day"].isna()) & (
            sessions == table["ID"]
        )
        warnings.append(
            f"place or time unknown: {unknown.sum()} of {len(table)} clips; "
            f"{alone.sum()} of them cannot be grouped"
        )

    labelled = table["scene_label"] != ""
    classes = table.loc[labelled, "scene_label"].groupby(sessions[labelled])
    mixed = classes.nunique()
    mixed = mixed.index[mixed > 1]
    if len(mixed):
        warnings.append(
            f"sessions of several classes: {len(mixed)} ({_names(mixed)})"
        )

    train = table["split"] == "train"
    cities = set(places[train])
    trained_classes = set(table.loc[train, "scene_label"])
    for name in sorted(set(table["split"]) - {"train", ""}):
        scored = table["split"] == name
        new = scored & ~places.isin(cities) & (places != "")
        if new.any():
            unseen = sorted(set(places[new]))
            warnings.append(
                f"{name}: places that training has not seen: {len(unseen)} "
                f"({_names(unseen)}), {new.sum()} clips; kept"
            )
        new = set(table.loc[scored & labelled, "scene_label"])
        new = sorted(new - trained_classes)
        if new:
            warnings.append(
                f"{name}: classes without training clips: {len(new)} "
                f"({_names(new)})"
            )
    return warnings


def _names(names):
    shown = ", ".join(names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def audit_text(table):
    """Formats summary, audit and warnings as text.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    str
        Several lines.

    Raises
    ------
    ValueError
        See :func:`audit`.
    """
    counts = summarise(table)
    width = counts.index.str.len().max()
    lines = ["Sessions and runs:"]
    for name, count in counts.items():
        text = f"{count:.1f}".removesuffix(".0")
        whole = counts.get(_WHOLES.get(name), 0)
        if whole:
            text += f" of {whole:.0f} ({100 * count / whole:.1f} %)"
        lines.append(f"  {name:{width}}  {text}")

    shares = audit(table)
    if shares.empty:
        lines += ["", "No split beside 'train' to audit."]
    else:
        lines += ["", *_share_lines(shares)]

    warnings = find_warnings(table)
    if warnings:
        lines += ["", "Warnings:", *(f"  - {text}" for text in warnings)]
    return "\n".join(lines)


def _share_lines(shares):
    width = shares.index.str.len().max()
    yield "Share of the clips of a split that is in the same"
    yield f"  {'':{width}}" + "".join(f"{name:>12}" for name in shares)
    for name, row in shares.iterrows():
        cells = [
            f"{value:.0f}"
            if name == "clips"
            else "-"
            if np.isnan(value)
            else f"{100 * value:.1f} %"
            for value in row
        ]
        yield f"  {name:{width}}" + "".join(f"{cell:>12}" for cell in cells)
