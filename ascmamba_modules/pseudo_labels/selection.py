"""Which of a model's answers are taken as labels: the two-step rule.

Pure functions of posteriors; what a clip's row in the input is changes
nothing.

Source: the ASCMamba paper, section 3.3.
"""

import numpy as np
import pandas as pd

# Splits whose unlabelled clips may be labelled.  All others are held out.
POOL_SPLITS = ("", "train")
REJECTED = 0


def in_pool(table):
    """Tells which clips may be pseudo-labelled.

    Never a clip that has a label, and never one that is validated, tested or
    evaluated on.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.Series
        Whether (rows).

    Example
    -------
    >>> table = pd.DataFrame({"scene_label": ["", "Bus", "", ""]})
    >>> table["split"] = ["train", "train", "valid", "evaluation"]
    >>> list(in_pool(table))
    [True, False, False, False]
    """
    return (table["scene_label"] == "") & table["split"].isin(POOL_SPLITS)


def select(first, second, share=0.9):
    """Labels clips in two steps.

    First, clips are sorted by the first model's top posterior, and the share
    of them that it is surest of takes its class.  Of the rest, those take it
    for which both models name the same class.  Clips of equal confidence are
    sorted by their name.

    Arguments
    ---------
    first, second : pandas.DataFrame
        Posteriors (clips, classes) of ASCMamba and of the improved SE-Trans:
        one index, the clips' names, and the same columns, the classes.
    share : float
        Share of the clips to accept in the first step, 0 to 1; of a number
        of clips that does not divide evenly the lower whole number.

    Returns
    -------
    pandas.DataFrame
        For each clip, in the order given: ``scene_label`` and ``confidence``
        by the first model, ``second_label``, and ``step``, in which it was
        accepted: 1, 2 or 0 for never.

    Raises
    ------
    ValueError
        If clips or classes of the two differ, clips occur twice, posteriors
        are not finite, or the share is not between 0 and 1.

    Example
    -------
    >>> clips = ["a", "b", "c"]
    >>> first = pd.DataFrame({"Bus": [0.9, 0.6, 0.3]}, clips)
    >>> second = pd.DataFrame({"Bus": [0.2, 0.7, 0.8]}, clips)
    >>> first["Bar"], second["Bar"] = 1 - first["Bus"], 1 - second["Bus"]
    >>> select(first, second, share=0.4)["step"].to_dict()
    {'a': 1, 'b': 2, 'c': 0}
    """
    _check(first, second, share)
    second = second.loc[first.index, first.columns]
    chosen = pd.DataFrame(
        {
            "scene_label": first.idxmax(axis=1),
            "confidence": first.max(axis=1),
            "second_label": second.idxmax(axis=1),
        }
    )
    agrees = chosen["scene_label"] == chosen["second_label"]
    chosen["step"] = np.where(agrees, 2, REJECTED)
    # A tiny excess makes 0.9 of 10 clips nine in floating point as well.
    n_first = int(share * len(chosen) + 1e-9)
    ranked = chosen.assign(name=chosen.index.astype(str)).sort_values(
        ["confidence", "name"], ascending=[False, True]
    )
    chosen.loc[ranked.index[:n_first], "step"] = 1
    return chosen


def _check(first, second, share):
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    if set(first.columns) != set(second.columns):
        raise ValueError(
            f"the two models know different classes: {list(first.columns)} "
            f"and {list(second.columns)}"
        )
    for table in (first, second):
        twice = table.index[table.index.duplicated()]
        if len(twice):
            raise ValueError(f"clips occur twice: {twice[0]}")
    if set(first.index) != set(second.index):
        raise ValueError("posteriors of the two models are of other clips")
    for table in (first, second):
        finite = np.isfinite(table.to_numpy()).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"posteriors of {table.index[~finite][0]} are not finite"
            )


def label_table(table, chosen):
    """Adds accepted clips to the labelled ones, as stage 4's manifest.

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows of all clips.
    chosen : pandas.DataFrame
        From :func:`select`, indexed by ID.

    Returns
    -------
    pandas.DataFrame
        Labelled rows as they were, and accepted ones with their label, split
        "train", ``label_source`` "pseudo-label step 1" or 2 and
        ``confidence``, which is empty for the former.  Rejected clips and
        other unlabelled ones are left out.

    Raises
    ------
    ValueError
        If a chosen clip has a label, is held out, or is not in the table.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a", "b"], "scene_label": ["Bus", ""]})
    >>> table = table.assign(split="train", label_source=["human", ""])
    >>> chosen = pd.DataFrame(
    ...     {"scene_label": "Bar", "confidence": 0.8, "step": 1}, ["b"]
    ... )
    >>> labelled = label_table(table, chosen)
    >>> labelled[["ID", "scene_label", "label_source"]].values.tolist()
    [['a', 'Bus', 'human'], ['b', 'Bar', 'pseudo-label step 1']]
    """
    forbidden = set(chosen.index) - set(table.loc[in_pool(table), "ID"])
    if forbidden:
        raise ValueError(
            f"{len(forbidden)} clips may not be pseudo-labelled, because they "
            "are labelled, held out or not in the manifest, such as "
            f"{min(forbidden)}"
        )
    accepted = chosen[chosen["step"] != REJECTED]
    found = accepted.reindex(table["ID"]).set_axis(table.index)
    is_new = found["step"].notna()
    table = table.assign(confidence="")
    table["confidence"] = found["confidence"].astype(object).where(is_new, "")
    steps = found.loc[is_new, "step"].astype(int).astype(str)
    table.loc[is_new, "label_source"] = "pseudo-label step " + steps
    table.loc[is_new, "scene_label"] = found.loc[is_new, "scene_label"]
    table.loc[is_new, "split"] = "train"
    return table[table["scene_label"] != ""]


def summarise(chosen, truth=None):
    """Counts what each step accepted.

    Arguments
    ---------
    chosen : pandas.DataFrame
        From :func:`select`.
    truth : pandas.Series, optional
        True classes by clip, where known.

    Returns
    -------
    pandas.DataFrame
        A row for each step, for rejected and for all accepted clips: number
        of clips of each class, ``clips``, ``agreement`` of the two models
        and, given the truth, ``accuracy`` (0 to 1, NaN without clips).

    Example
    -------
    >>> chosen = pd.DataFrame({"scene_label": ["Bus"], "step": [1]}, ["a"])
    >>> chosen["second_label"] = "Bar"
    >>> summarise(chosen)["agreement"]["step 1"].item()
    0.0
    """
    rows = {}
    parts = {
        "step 1": chosen["step"] == 1,
        "step 2": chosen["step"] == 2,
        "rejected": chosen["step"] == REJECTED,
        "accepted": chosen["step"] != REJECTED,
    }
    classes = sorted(set(chosen["scene_label"]))
    for name, is_part in parts.items():
        part = chosen[is_part]
        counts = part["scene_label"].value_counts()
        rows[name] = counts.reindex(classes, fill_value=0).to_dict()
        rows[name]["clips"] = len(part)
        agrees = part["scene_label"] == part["second_label"]
        rows[name]["agreement"] = agrees.mean()
        if truth is not None:
            known = part.index.intersection(truth.index[truth != ""])
            right = part.loc[known, "scene_label"] == truth[known]
            rows[name]["accuracy"] = right.mean()
    return pd.DataFrame.from_dict(rows, orient="index")
