"""Groups of clips recorded together: sessions, runs, days and cities.

Clips of one session, and of one recorder left running, share people, noises
and echoes.  A model that has seen some of them recognises the others by these
and not by the scene, so they must not be divided between training and
validation.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ascmamba_modules.data.place_and_time import location_text, parse_time

LEVELS = ("session", "run", "city_day", "city")
_PERIOD = 600.0  # seconds from one file of a recorder to its next, in CAS
_TOLERANCE = 1.0  # seconds


def find_places(table):
    """Unifies the spelling of places, so that equal ones compare equal.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.Series
        The alphabetically first of the spellings with the same
        :func:`~ascmamba_modules.data.place_and_time.location_text`; empty if
        unknown.

    Example
    -------
    >>> list(find_places(pd.DataFrame({"location": ["Xi’an", "Xi'an", ""]})))
    ["Xi'an", "Xi'an", '']
    """
    spellings = table["location"].str.strip()
    texts = spellings.map({s: location_text(s) for s in spellings.unique()})
    return spellings.groupby(texts).transform("min")


def find_times(table):
    """Days and times of the recordings, by the clock at the place.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.DataFrame
        ``day`` and ``time`` (with the day); NaT if unknown.  A date alone
        has no ``time``.

    Raises
    ------
    ValueError
        For a text that is not a time, with its row's ID.

    Example
    -------
    >>> times = ["2023-04-21 18:30:00", "2023-04-21"]
    >>> find_times(pd.DataFrame({"ID": ["a", "b"], "record_time": times}))
             day                time
    0 2023-04-21 2023-04-21 18:30:00
    1 2023-04-21                 NaT
    """
    codes, texts = pd.factorize(table["record_time"])
    moments = []
    for text in texts:
        try:
            moments.append(_day_and_time(text))
        except ValueError as error:
            rows = table[table["record_time"] == text]
            raise ValueError(
                f"ID {rows['ID'].iloc[0]}: record_time {error} "
                f"({len(rows)} such rows)"
            ) from None
    unique = pd.DataFrame(moments, columns=["day", "time"])
    unique = unique.astype("datetime64[us]")
    return unique.iloc[codes].set_axis(table.index)


def _day_and_time(text):
    moment, is_date = parse_time(text)
    if moment is None:
        return pd.NaT, pd.NaT
    moment = moment.tz_localize(None)  # the clock at the place
    return moment.normalize(), pd.NaT if is_date else moment


def find_sessions(table):
    """Names the recording session of every clip.

    This is the session in the table.  Where it is empty, clips of the same
    place and time, to the second, are a session; a clip of unknown place or
    time is a session by itself.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.Series
        For each row the session in the table, place and time, or the ID.

    Raises
    ------
    ValueError
        For a text that is not a time, with its row's ID.

    Example
    -------
    >>> table = pd.DataFrame(
    ...     {
    ...         "ID": ["a", "b", "c"],
    ...         "location": ["Hefei", "lisbon", ""],
    ...         "record_time": ["2023-05-21 10:08:52", "", ""],
    ...         "session": ["", "lisbon-1000", ""],
    ...     }
    ... )
    >>> list(find_sessions(table))
    ['Hefei 2023-05-21 10:08:52', 'lisbon-1000', 'c']
    """
    places, times = find_places(table), find_times(table)
    names = places + times["day"].dt.strftime(" %Y-%m-%d")
    names += times["time"].dt.strftime(" %H:%M:%S").fillna("")
    known = (places != "") & times["day"].notna()
    stated = table["session"].str.strip()
    return stated.where(stated != "", names.where(known, table["ID"])).rename(
        "session"
    )


def find_runs(table):
    """Chains sessions that one recorder seems to have made without a break.

    Two sessions of a place whose times differ by 600 s, give or take one, are
    linked; a run is a set of sessions connected by links.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.Series
        For each row the name of the run's first session.

    Raises
    ------
    ValueError
        For a text that is not a time, with its row's ID.

    Example
    -------
    >>> times = ["10:00:00", "10:20:01", "10:10:00", "10:15:00"]
    >>> table = pd.DataFrame({"ID": list("abcd"), "session": ""})
    >>> table["record_time"] = ["2023-05-21 " + time for time in times]
    >>> runs = find_runs(table.assign(location="Hefei"))
    >>> list(runs.str[-8:])
    ['10:00:00', '10:00:00', '10:00:00', '10:15:00']
    """
    places, times = find_places(table), find_times(table)["time"]
    sessions, names = pd.factorize(find_sessions(table), sort=True)
    files = pd.DataFrame(
        {
            "session": sessions,
            "place": pd.factorize(places, sort=True)[0],
            "second": (times - times.min()).dt.total_seconds(),
        }
    )
    files = files[(places != "").to_numpy() & times.notna().to_numpy()]
    files = files.drop_duplicates()
    # On one time line, with more than a period between any two places.
    stride = files["second"].max() + 2 * (_PERIOD + _TOLERANCE)
    files["second"] += stride * files["place"]
    files = files.sort_values("second")
    second = files["second"].to_numpy()
    first = np.searchsorted(second, second + _PERIOD - _TOLERANCE, "left")
    last = np.searchsorted(second, second + _PERIOD + _TOLERANCE, "right")
    links = last - first
    earlier = np.repeat(np.arange(len(files)), links)
    later = np.arange(links.sum()) + np.repeat(
        first - links.cumsum() + links, links
    )
    session = files["session"].to_numpy()
    runs = _components(len(names), session[earlier], session[later])

    order = pd.DataFrame({"run": runs, "name": names})
    order["second"] = files.groupby("session")["second"].min()
    order = order.sort_values(["second", "name"])
    named = order.groupby("run")["name"].first()
    return pd.Series(
        named.loc[runs[sessions]].to_numpy(), table.index, name="run"
    )


def find_groups(table):
    """Groups of clips at four levels, each within one group of the next.

    A clip of unknown place or day keeps the group of the level before.  Days
    of a city that a run joins past midnight are one group.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    pandas.DataFrame
        Names; the columns are ``LEVELS``.

    Raises
    ------
    ValueError
        See :func:`find_runs`.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a"], "session": [""]})
    >>> table["location"] = "Hefei"
    >>> table["record_time"] = "2023-05-21 10:08:52"
    >>> find_groups(table)[["city_day", "city"]]
               city_day   city
    0  Hefei 2023-05-21  Hefei
    """
    places, days = find_places(table), find_times(table)["day"]
    groups = pd.DataFrame({"session": find_sessions(table)})
    groups["run"] = find_runs(table)
    known = (places != "") & days.notna()
    days = places + days.dt.strftime(" %Y-%m-%d")
    groups["city_day"] = _enclose(
        groups["run"], days.where(known, groups["run"])
    )
    groups["city"] = _enclose(
        groups["city_day"], places.where(places != "", groups["city_day"])
    )
    return groups


def _enclose(inner, outer):
    """Joins outer groups that share an inner group."""
    inner = pd.factorize(inner)[0]
    codes, names = pd.factorize(outer, sort=True)
    n = len(names)
    joined = _components(n + len(inner), codes, n + inner)
    first = pd.Series(names).groupby(joined[:n]).min()
    return first.loc[joined[codes]].to_numpy()


def _components(n, starts, ends):
    """Number of the connected part (n) that each node is in."""
    edges = coo_array((np.ones(len(starts)), (starts, ends)), shape=(n, n))
    return connected_components(edges, directed=False)[1]


def summarise(table):
    """Counts sessions and runs, and clips that share them with labels.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.  Clips of
        split "evaluation" are the evaluation set, all others the development
        set.

    Returns
    -------
    pandas.Series
        Counts and, last, a mean.  A labelled session or run has a labelled
        development clip; labels of evaluation clips are ignored.

    Raises
    ------
    ValueError
        See :func:`find_runs`.
    """
    groups = find_groups(table)
    evaluation = table["split"] == "evaluation"
    labelled = ~evaluation & (table["scene_label"] != "")
    unlabelled = ~evaluation & (table["scene_label"] == "")
    classes = {
        level: table.loc[labelled, "scene_label"]
        .groupby(groups.loc[labelled, level])
        .nunique()
        for level in ("session", "run")
    }
    in_labelled = {
        level: groups[level].isin(classes[level].index)
        for level in ("session", "run")
    }
    evaluation_runs = groups.loc[evaluation, "run"].nunique()
    development_sessions = groups.loc[~evaluation, "session"].unique()
    return pd.Series(
        {
            "development clips": (~evaluation).sum(),
            "labelled clips": labelled.sum(),
            "unlabelled clips": unlabelled.sum(),
            "evaluation clips": evaluation.sum(),
            "development sessions": len(development_sessions),
            "labelled sessions": len(classes["session"]),
            "labelled sessions of one class": (classes["session"] == 1).sum(),
            "unlabelled clips in a labelled session": (
                unlabelled & in_labelled["session"]
            ).sum(),
            "evaluation clips in a development session": (
                evaluation & groups["session"].isin(development_sessions)
            ).sum(),
            "evaluation clips in a labelled session": (
                evaluation & in_labelled["session"]
            ).sum(),
            "runs": groups["run"].nunique(),
            "labelled runs": len(classes["run"]),
            "labelled runs of one class": (classes["run"] == 1).sum(),
            "unlabelled clips in a labelled run": (
                unlabelled & in_labelled["run"]
            ).sum(),
            "evaluation runs": evaluation_runs,
            "clips per evaluation run": (
                evaluation.sum() / evaluation_runs
                if evaluation_runs
                else np.nan
            ),
        }
    )
