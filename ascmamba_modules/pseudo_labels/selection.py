"""Two-step selection of pseudo-labels; independent of the order of rows.

Source: the ASCMamba paper, section 3.3.
"""

import numpy as np
import pandas as pd

# Splits whose unlabelled clips may be labelled.  All others are held out.
POOL_SPLITS = ("", "train")
REJECTED = 0
SESSION = 3  # the step of clips that have the label of their session


def in_pool(table):
    """Tells which clips may be pseudo-labelled.

    Clips that have a label, or are held out for validation, test or
    evaluation, never are.

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


def select(first, second, share=0.9, by_class=False):
    """Labels clips in two steps.

    First, clips are sorted by the first model's highest posterior, and the
    top share of them gets its class as label.  Of the rest, those get it for
    which both models predict the same class.  Clips of equal confidence are
    sorted by name.

    Arguments
    ---------
    first, second : pandas.DataFrame
        Posteriors (clips, classes) of ASCMamba and of the improved SE-Trans:
        one index, the clips' names, and the same columns, the classes.
    share : float
        Share of the clips to accept in the first step, 0 to 1, rounded down
        to whole clips.
    by_class : bool
        Whether this is the share of the clips of each predicted class, so
        that classes of which the model is less sure are not left out.

    Returns
    -------
    pandas.DataFrame
        For each clip, in the order given: ``scene_label`` and ``confidence``
        by the first model, ``second_label``, and ``step``, the step that
        accepted it: 1, 2, or 0 if it was rejected.

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
    selected = pd.DataFrame(
        {
            "scene_label": first.idxmax(axis=1),
            "confidence": first.max(axis=1),
            "second_label": second.idxmax(axis=1),
        }
    )
    agrees = selected["scene_label"] == selected["second_label"]
    selected["step"] = np.where(agrees, 2, REJECTED)
    ranked = selected.assign(name=selected.index.astype(str)).sort_values(
        ["confidence", "name"], ascending=[False, True]
    )
    groups = ranked.groupby("scene_label") if by_class else [("", ranked)]
    for _, group in groups:
        # A tiny excess makes 0.9 of 10 clips nine in floating point as well.
        n_first = int(share * len(group) + 1e-9)
        selected.loc[group.index[:n_first], "step"] = 1
    return selected


def _check(first, second, share):
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    if set(first.columns) != set(second.columns):
        raise ValueError(
            f"the two models have different classes: {list(first.columns)} "
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


def label_table(table, selected):
    """Adds accepted clips to the labelled ones, as stage 4's manifest.

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows of all clips.
    selected : pandas.DataFrame
        From :func:`select`, indexed by ID.

    Returns
    -------
    pandas.DataFrame
        Labelled rows as they were, and accepted ones with their label, split
        "train", ``confidence``, which is empty for the former, and
        ``label_source`` "pseudo-label step 1", "pseudo-label step 2" or
        "pseudo-label session".  Rejected clips and other unlabelled ones are
        left out.

    Raises
    ------
    ValueError
        If a selected clip has a label, is held out, or is not in the table.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a", "b"], "scene_label": ["Bus", ""]})
    >>> table = table.assign(split="train", label_source=["human", ""])
    >>> selected = pd.DataFrame(
    ...     {"scene_label": "Bar", "confidence": 0.8, "step": 1}, ["b"]
    ... )
    >>> labelled = label_table(table, selected)
    >>> labelled[["ID", "scene_label", "label_source"]].values.tolist()
    [['a', 'Bus', 'human'], ['b', 'Bar', 'pseudo-label step 1']]
    """
    forbidden = set(selected.index) - set(table.loc[in_pool(table), "ID"])
    if forbidden:
        raise ValueError(
            f"{len(forbidden)} clips may not be pseudo-labelled, because they "
            "are labelled, held out or not in the manifest, such as "
            f"{min(forbidden)}"
        )
    accepted = selected[selected["step"] != REJECTED]
    accepted = accepted.reindex(table["ID"]).set_axis(table.index)
    is_new = accepted["step"].notna()
    confidence = accepted["confidence"].astype(object).where(is_new, "")
    table = table.assign(confidence=confidence)
    accepted = accepted[is_new]
    names = {1: "step 1", 2: "step 2", SESSION: "session"}
    steps = accepted["step"].map(names)
    table.loc[is_new, "label_source"] = "pseudo-label " + steps
    table.loc[is_new, "scene_label"] = accepted["scene_label"]
    table.loc[is_new, "split"] = "train"
    return table[table["scene_label"] != ""]


def summarise(selected, truth=None):
    """Counts what each step accepted.

    Arguments
    ---------
    selected : pandas.DataFrame
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
    >>> selected = pd.DataFrame({"scene_label": ["Bus"], "step": [1]}, ["a"])
    >>> selected["second_label"] = "Bar"
    >>> summarise(selected)["agreement"]["step 1"].item()
    0.0
    """
    rows = {}
    parts = {
        "step 1": selected["step"] == 1,
        "step 2": selected["step"] == 2,
        "session": selected["step"] == SESSION,
        "rejected": selected["step"] == REJECTED,
        "accepted": selected["step"] != REJECTED,
    }
    classes = sorted(set(selected["scene_label"]))
    if "session_label" not in selected:
        del parts["session"]
    for name, is_part in parts.items():
        part = selected[is_part]
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
