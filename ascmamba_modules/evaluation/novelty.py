"""How new clips are to a model: by session, day and city."""

import numpy as np
import pandas as pd

from ascmamba_modules.data.sessions import find_groups, find_places, find_times

CONDITIONS = ("seen session", "unseen session", "unseen day", "unseen city")
UNKNOWN = "place or day unknown"


def novelty_of(training, clips):
    """Finds for each clip what is new to training: session, day or city.

    Arguments
    ---------
    training, clips : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    numpy.ndarray
        For each clip "seen session"; "unseen session", of a day and city
        that training has clips of; "unseen day", of a city that training has
        clips of; "unseen city"; or, unless the session is seen, "place or day
        unknown".

    Raises
    ------
    ValueError
        See :func:`ascmamba_modules.data.sessions.find_runs`.

    Example
    -------
    >>> table = pd.DataFrame({"ID": list("abcde"), "session": ""})
    >>> table["location"] = ["Hefei"] * 4 + ["Jinan"]
    >>> days = ["05-21 10", "05-21 10", "05-21 17", "05-22 10", "05-21 10"]
    >>> table["record_time"] = [f"2023-{day}:08:52" for day in days]
    >>> list(novelty_of(table[:1], table[1:]))
    ['seen session', 'unseen session', 'unseen day', 'unseen city']
    """
    both = pd.concat([training, clips], ignore_index=True)
    groups = find_groups(both)
    new = groups.iloc[len(training) :]
    seen = {
        level: new[level].isin(groups[level][: len(training)]).to_numpy()
        for level in ("session", "city_day", "city")
    }
    known = (find_places(clips) != "") & find_times(clips)["day"].notna()
    return np.select(
        [seen["session"], ~known.to_numpy(), seen["city_day"], seen["city"]],
        [CONDITIONS[0], UNKNOWN, *CONDITIONS[1:3]],
        CONDITIONS[3],
    ).astype(object)
