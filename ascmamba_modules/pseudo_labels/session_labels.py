"""Labels of a recording session as a third annotator.

Clips of one session are cuts of one recording, and so mostly of one scene:
where some of them have a label, it holds for the others.  How far is measured
on the labelled clips before it is trusted.  The challenge's data are such: of
its unlabelled clips 98 % share a session with labelled ones (see
``docs/manifest.md``).  This is ours; the paper looks at single clips.
"""

import pandas as pd

from ascmamba_modules.data.sessions import find_groups
from ascmamba_modules.pseudo_labels.selection import (
    POOL_SPLITS,
    REJECTED,
    SESSION,
    in_pool,
)

WAYS = ("propagate", "add", "veto")


def session_votes(table, level="session"):
    """Asks the labelled clips of each clip's session.

    Only labels of clips that are trained on count, and only where they agree.

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows of all clips.
    level : str
        "session", or a wider group of
        :data:`ascmamba_modules.data.sessions.LEVELS`, such as "run".

    Returns
    -------
    votes : pandas.Series
        For each clip to be labelled, by ID, the class, empty without one.
    purity : float
        Share of the labelled clips whose class is that of the other labelled
        clips of the session; of a wider group, those of its other sessions.
        NaN if no clip has others.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a", "b", "c", "d"], "session": "1"})
    >>> table["scene_label"] = ["Bus", "Bus", "", ""]
    >>> table.loc[3, "session"] = "2"
    >>> table = table.assign(split="train", location="", record_time="")
    >>> votes, purity = session_votes(table)
    >>> votes.to_dict(), purity
    ({'c': 'Bus', 'd': ''}, 1.0)
    """
    all_groups = find_groups(table)
    groups = all_groups[level]
    known = (table["scene_label"] != "") & table["split"].isin(POOL_SPLITS)
    unit = table["ID"] if level == "session" else all_groups["session"]
    labels = table.loc[known, "scene_label"]
    by_group = pd.crosstab(groups[known], labels)
    by_unit = pd.crosstab(unit[known], labels)
    others = by_group.loc[groups[known]].to_numpy() - by_unit.loc[unit[known]]
    others = _unanimous(others)
    asked = others != ""
    right = others[asked].to_numpy() == labels[asked.to_numpy()].to_numpy()
    purity = float(right.mean()) if len(right) else float("nan")
    pool = table[in_pool(table)]
    votes = _unanimous(by_group).reindex(groups[pool.index]).fillna("")
    return votes.set_axis(pool["ID"]), purity


def _unanimous(counts):
    """The class that all labels of a row are of, empty if there is none."""
    is_one = (counts > 0).sum(axis=1) == 1
    return counts.idxmax(axis=1).where(is_one, "")


def check_purity(purity, min_purity):
    """Refuses to trust the labels of sessions.

    Raises
    ------
    ValueError
        If the purity is not known or below the threshold.
    """
    if not purity >= min_purity:
        raise ValueError(
            f"session_labels: of the labelled clips, {purity:.1%} agree with "
            f"the others of their session, and min_purity is {min_purity:.1%}: "
            "leave session_labels out, or give sessions in the manifest."
        )


def ask_sessions(selected, votes, way):
    """Joins the labels of sessions to a selection.

    Arguments
    ---------
    selected : pandas.DataFrame
        From :func:`ascmamba_modules.pseudo_labels.selection.select`.
    votes : pandas.Series
        Class by clip, empty without one, from :func:`session_votes`.
    way : str
        "propagate": clips take the class of their session, whatever the
        models say.  "add": rejected clips do.  "veto": accepted clips whose
        session says another class are rejected.

    Returns
    -------
    pandas.DataFrame
        The selection, with a column ``session_label``.

    Raises
    ------
    ValueError
        If there is no such way.

    Example
    -------
    >>> selected = pd.DataFrame({"scene_label": ["Bar"], "step": 0}, ["a"])
    >>> ask_sessions(selected, pd.Series({"a": "Bus"}), "add").values.tolist()
    [['Bus', 3, 'Bus']]
    """
    if way not in WAYS:
        raise ValueError(
            f"session_labels must be {', '.join(WAYS)} or null, got {way}"
        )
    votes = votes.reindex(selected.index).fillna("")
    selected = selected.assign(session_label=votes)
    if way == "veto":
        is_vetoed = (votes != "") & (votes != selected["scene_label"])
        return selected.assign(
            step=selected["step"].where(~is_vetoed, REJECTED)
        )
    takes = votes != ""
    if way == "add":
        takes &= selected["step"] == REJECTED
    selected.loc[takes, "scene_label"] = votes[takes]
    selected.loc[takes, "step"] = SESSION
    return selected
