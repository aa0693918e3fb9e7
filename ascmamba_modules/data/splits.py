"""Splits into training and validation clips that do not leak.

A random split, such as the paper's, puts clips of one recording session on
both sides; :mod:`ascmamba_modules.data.leakage` measures the effect.
"""

import logging

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

from ascmamba_modules.data.sessions import LEVELS, find_groups

logger = logging.getLogger(__name__)

SPLITS = ("random", *LEVELS)
# Rows of any other split are left as they are.
DEVELOPMENT_SPLITS = ("", "train", "valid")
_DRAWS = 20
# Mean squared distance of a class's held-out share from the one asked for.
_CLOSE_ENOUGH = 1e-4


def split(table, by, share=0.2, seed=1986):
    """Divides the development clips anew into training and validation.

    scikit-learn's ``GroupShuffleSplit`` draws the validation groups; the draw
    is then improved group by group: first, as many classes as possible get
    validation clips, then the share of each class comes as close to ``share``
    as whole groups allow (with few groups, such as cities, not very close).
    Every class keeps training clips, so a group with all clips of a class is
    never held out.

    Unlabelled clips go with their group: those that share one with a
    validation clip become "valid" as well, so that they are neither
    pseudo-labelled nor trained on.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`; the order of
        its rows does not matter.  The development clips are those of split
        "train", "valid" or none.
    by : str
        Groups that are not divided: "session", "run", "city_day" or "city",
        see :func:`ascmamba_modules.data.sessions.find_groups`; or "random"
        for none, as in the paper, which **leaks**: nearly all validation
        clips come from sessions that are trained on.
    share : float
        Share of the labelled clips to validate on, between 0 and 1.
    seed : int
        Seed of the random draws.

    Returns
    -------
    pandas.Series
        The new column ``split``.
    list
        Texts on what was held out and what could not be; they are logged.

    Raises
    ------
    ValueError
        If ``by`` or ``share`` is not one of the above, if a time cannot be
        read, if there are no labelled development clips, or if every group
        holds all clips of a class.

    Example
    -------
    >>> table = pd.DataFrame({"ID": list("abcdef"), "split": "train"})
    >>> table["scene_label"] = ["Bus", "", "Bus", "Bar", "Bar", "Car"]
    >>> table["session"] = ["1", "1", "2", "3", "4", "5"]
    >>> table = table.assign(location="", record_time="")
    >>> column, notes = split(table, "session", share=0.4)
    >>> list(column)
    ['train', 'train', 'valid', 'train', 'valid', 'train']
    >>> print(notes[2])
    Car: all its clips (1) lie in one session (5); not validated on
    """
    if by not in SPLITS:
        raise ValueError(f"no split by '{by}'; choose from {', '.join(SPLITS)}")
    if not 0 < share < 1:
        raise ValueError(f"share {share}: choose one between 0 and 1")
    clips = table[["ID", "scene_label", "split"]].reset_index(drop=True)
    if by == "random":
        clips["group"] = clips["ID"]
    else:
        # Of all clips, as those of other splits may join two groups.
        groups = find_groups(table)
        clips["group"] = groups[by].to_numpy()
    development = clips["split"].isin(DEVELOPMENT_SPLITS)
    labelled = clips[development & (clips["scene_label"] != "")]
    if labelled.empty:
        raise ValueError(
            "no labelled clips to divide: no row of split 'train', 'valid' or "
            "'' has a scene_label"
        )
    counts = pd.crosstab(labelled["group"], labelled["scene_label"])
    bound = (counts == counts.sum()).any(axis=1)
    if bound.all():
        raise ValueError(
            f"nothing can be held out by {by}: each of the {len(counts)} "
            "groups holds all clips of a class; choose a finer split"
        )
    held_out = _draw(labelled["group"], counts, share, seed)
    valid = development & clips["group"].isin(held_out)
    clips.loc[development, "split"] = "train"
    clips.loc[valid, "split"] = "valid"

    notes = _notes(by, counts, held_out, valid.sum())
    for note in notes:
        logger.info("Split: %s", note)
    return clips["split"].set_axis(table.index), notes


def _draw(groups, counts, share, seed):
    """Names of the groups (rows of ``counts``) to validate on."""
    generator = np.random.RandomState(seed)  # the kind that scikit-learn takes
    n_groups = len(counts)
    splitter = GroupShuffleSplit(
        _DRAWS,
        test_size=min(max(1, round(share * n_groups)), n_groups - 1),
        random_state=generator,
    )
    best = None
    for _, drawn in splitter.split(groups, groups=groups):
        held_out = counts.index.isin(groups.iloc[drawn])
        loss = _improve(held_out, counts.to_numpy(), share, generator)
        if best is None or loss < best[0]:
            best = loss, held_out
        if loss < (0, 0, _CLOSE_ENOUGH):
            break
    return counts.index[best[1]]


def _improve(held_out, counts, share, generator):
    """Moves single groups, in place, until that makes nothing better.

    The loss is, in this order: classes lost from training, classes missing
    from validation, mean squared distance of the classes' shares.
    """
    total = counts.sum(0)

    def loss(valid):
        lost, missing = np.sum(valid == total), np.sum(valid == 0)
        return lost, missing, np.mean((valid / total - share) ** 2)

    valid = counts[held_out].sum(0)
    now, before = loss(valid), None
    while now != before:
        before = now
        for group in generator.permutation(len(counts)):
            sign = -1 if held_out[group] else 1
            moved = valid + sign * counts[group]
            if (after := loss(moved)) < now:
                now, valid = after, moved
                held_out[group] = not held_out[group]
    return now


def _notes(by, counts, held_out, n_valid):
    """What was held out, and what could not be."""
    total = counts.sum()
    valid = counts.loc[held_out].sum()
    shares = [
        f"{name} {100 * part / whole:.1f} %"
        for name, part, whole in zip(total.index, valid, total)
        if part
    ]
    level = "clip" if by == "random" else by.replace("_", " and ")
    notes = [
        f"by {by}: {valid.sum()} of {total.sum()} labelled clips "
        f"({100 * valid.sum() / total.sum():.1f} %) are validated on, from "
        f"{len(held_out)} of {len(counts)} groups with labels; "
        f"{n_valid - valid.sum()} unlabelled clips go with them",
        f"of each class: {', '.join(shares)}",
    ]
    for name in total.index[valid == 0]:
        groups = counts.index[counts[name] > 0]
        if len(groups) == 1:
            notes.append(
                f"{name}: all its clips ({total[name]}) lie in one {level} "
                f"({groups[0]}); not validated on"
            )
        else:
            notes.append(
                f"{name}: none of its {len(groups)} groups could be held out "
                "without another class losing all its clips; not validated on"
            )
    if by == "random":
        notes.append(
            "this split leaks: clips of one recording session lie on both "
            "sides, so that validation scores are too high"
        )
    return notes
