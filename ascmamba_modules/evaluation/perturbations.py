"""Perturbed place and time of clips.

Source: ASCMamba paper, sections 4.1 and 5, Fig. 3 and 4.
"""

import numpy as np


def shuffle_place_and_time(table, share, seed):
    """Exchanges place and time among a share of the clips.

    Each drawn clip gets the place and time, as a pair, of another drawn clip,
    which may be of the same session: a random cyclic permutation.  (The paper
    does not say whether places and times stay pairs.)

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows.
    share : float
        Share of the clips, 0 to 1, rounded to whole clips; a single clip
        has nothing to exchange.
    seed : int
        Seed of the random draws.

    Returns
    -------
    pandas.DataFrame
        A copy with other location and record_time.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"location": list("abc"), "record_time": ""})
    >>> list(shuffle_place_and_time(table, 1.0, seed=0)["location"])
    ['c', 'a', 'b']
    """
    drawn = _draw(len(table), share, np.random.default_rng(seed))
    columns = [table.columns.get_loc(c) for c in ("location", "record_time")]
    shuffled = table.copy()
    shuffled.iloc[drawn, columns] = table.iloc[
        np.roll(drawn, 1), columns
    ].to_numpy()
    return shuffled


def move_to_unseen(table, places, share, seed):
    """Replaces the places of a share of the clips by unseen ones.

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows.
    places : list
        Places that training has not seen; each drawn clip gets one of them
        at random.
    share : float
        Share of the clips, 0 to 1, rounded to whole clips.
    seed : int
        Seed of the random draws.

    Returns
    -------
    pandas.DataFrame
        A copy with other locations; times stay.
    """
    generator = np.random.default_rng(seed)
    drawn = _draw(len(table), share, generator)
    moved = table.copy()
    column = table.columns.get_loc("location")
    moved.iloc[drawn, column] = generator.choice(places, len(drawn))
    return moved


def hide_place_and_time(table):
    """Empties place and time.

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows.

    Returns
    -------
    pandas.DataFrame
        A copy without them.
    """
    return table.assign(location="", record_time="")


def _draw(n, share, generator):
    """Indices of a share of n clips, in random order."""
    if not 0 <= share <= 1:
        raise ValueError(f"share {share}: choose one from 0 to 1")
    return generator.permutation(n)[: round(share * n)]
