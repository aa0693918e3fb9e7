"""Place and time of a recording as text."""

import re
import unicodedata
from datetime import datetime

import pandas as pd

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def location_text(location):
    """Writes a place as text.

    Arguments
    ---------
    location : str or None
        Name of the place; None or an empty text if it is unknown.

    Returns
    -------
    str
        The name in a normal form, empty if unknown.

    Example
    -------
    >>> location_text(" Xi’an "), location_text(None)
    ("xi'an", '')
    """
    if pd.isna(location):
        return ""
    text = unicodedata.normalize("NFKC", str(location)).replace("’", "'")
    # Folding case can leave marks that are to be joined again.
    text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.split())


def time_text(record_time):
    """Writes a point in time as text: month, day of the week, hour.

    Year, day of the month and minute are left out: they tell recording
    sessions apart, which a model must not learn by heart.

    Arguments
    ---------
    record_time : str, datetime.datetime or None
        ISO 8601 text such as "2023-04-21 18:30:00" or "2023-04-21T18:30+08:00"
        (its own hour counts, wherever it is read), a date alone, or None or an
        empty text if the time is unknown.

    Returns
    -------
    str
        The text, empty if unknown; without an hour for a date alone.

    Raises
    ------
    ValueError
        For a text that is not a time.

    Example
    -------
    >>> time_text("2023-04-21 18:30:00")
    'april friday 18'
    >>> time_text("2023-04-21"), time_text("")
    ('april friday', '')
    """
    if pd.isna(record_time):
        return ""
    if not isinstance(record_time, datetime):
        record_time = str(record_time).strip()
        if record_time == "":
            return ""
    try:
        if isinstance(record_time, str) and not _DATE.match(record_time):
            raise ValueError  # pandas would take "now", and make days up
        moment = pd.to_datetime(record_time, format="ISO8601")
    except ValueError:
        raise ValueError(
            f"'{record_time}' is not a time; write it like "
            "2023-04-21 18:30:00, or leave it empty if it is unknown."
        )
    text = f"{moment.month_name()} {moment.day_name()}".lower()
    if isinstance(record_time, str) and _DATE.fullmatch(record_time):
        return text
    return f"{text} {moment.hour:02d}"


def later(record_time, seconds):
    """The time when a recording has run for a while.

    Arguments
    ---------
    record_time : str, datetime.datetime or None
        When it began, see :func:`time_text`.
    seconds : float
        How long it has run.

    Returns
    -------
    datetime.datetime, str or None
        The later time; a date alone and an unknown time stay as they are.

    Raises
    ------
    ValueError
        For a text that is not a time.

    Example
    -------
    >>> str(later("2023-04-21 18:30:00", 5400))
    '2023-04-21 20:00:00'
    >>> later("2023-04-21", 5400)
    '2023-04-21'
    """
    # The hour is the last of three words.
    if len(time_text(record_time).split()) < 3:
        return record_time
    if not isinstance(record_time, datetime):
        record_time = str(record_time).strip()
    moment = pd.to_datetime(record_time, format="ISO8601")
    return moment + pd.Timedelta(seconds=seconds)


def is_future(record_time):
    """Whether a recording would have been made in the future.

    Arguments
    ---------
    record_time : str, datetime.datetime or None
        See :func:`time_text`.

    Returns
    -------
    bool
        False for an unknown time, and for the next day, which may have begun
        elsewhere.

    Example
    -------
    >>> is_future("2523-04-21"), is_future("2023-04-21"), is_future(None)
    (True, False, False)
    """
    if not time_text(record_time):
        return False
    if not isinstance(record_time, datetime):
        record_time = str(record_time).strip()
    moment = pd.to_datetime(record_time, format="ISO8601")
    return moment > pd.Timestamp.now(moment.tz) + pd.Timedelta(days=1)
