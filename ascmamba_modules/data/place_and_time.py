"""Place and time of a recording: reading them, and writing them as text."""

import re
import unicodedata
from datetime import datetime

import pandas as pd

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# Without it pandas would take "now", and make up days.
_ISO_8601 = re.compile(_DATE.pattern + r"(?:[T ][\d:.]+ *(?:Z|[+-][\d:]+)?)?")

# As in 20230421_183000 and 2023-04-21 at 18.30.00, 230421_183000, IMG-20230421,
# and, with the number of a take, 230421_001.
_DAY = r"(?<!\d)(20\d\d)([-._]?)(\d\d)\2(\d\d)"
_IN_NAMES = (
    rf"{_DAY}[-_. T]*(?:at )?(\d\d)([-.:_]?)(\d\d)\6(\d\d)(?!\d)"
    r"(?:[-_. ]?([AaPp])[Mm](?=\.| \(|$))?",
    r"(?<!\d)(\d\d)(\d\d)(\d\d)[-_](\d\d)(\d\d)(\d\d)(?!\d)",
    rf"{_DAY}(?!\d)",
    r"^(\d\d)(\d\d)(\d\d)_\d{3,4}(?!\d)",
)


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


def parse_time(record_time):
    """Reads the time of a recording.

    Arguments
    ---------
    record_time : str, datetime.date, datetime.datetime or None
        ISO 8601 text such as "2023-04-21 18:30:00" or
        "2023-04-21T18:30+08:00", a date alone, or None or an empty text if
        the time is unknown.

    Returns
    -------
    moment : pandas.Timestamp or None
        The time, with its offset from UTC if it has one; None if unknown.
    is_date : bool
        Whether it is a date alone, whose hour is unknown.

    Raises
    ------
    ValueError
        For a text that is not a time.

    Example
    -------
    >>> parse_time("2023-04-21")
    (Timestamp('2023-04-21 00:00:00'), True)
    """
    if pd.isna(record_time):
        return None, False
    if isinstance(record_time, datetime):
        return pd.Timestamp(record_time), False
    text = str(record_time).strip()
    if not text:
        return None, False
    try:
        if not _ISO_8601.fullmatch(text):
            raise ValueError
        return pd.Timestamp(text), bool(_DATE.fullmatch(text))
    except ValueError:
        raise ValueError(
            f"'{text}' is not a time; write it like 2023-04-21 18:30:00, or "
            "leave it empty if it is unknown."
        ) from None


def time_in_name(name):
    """Reads the time of a recording from the name that its recorder gave it.

    Known are the forms in which AudioMoth, Wildlife Acoustics' Song Meters,
    Zoom's and Tascam's recorders, and telephones write day and time.  The
    clock is the recorder's: an AudioMoth's is UTC unless it was set otherwise.

    Arguments
    ---------
    name : str
        File name, without its folder.

    Returns
    -------
    str
        ISO 8601 text, as :func:`parse_time` reads it: day and time, or the
        day alone; empty if the name tells neither.

    Example
    -------
    >>> time_in_name("SMM01234_20230421_183000.wav")
    '2023-04-21 18:30:00'
    >>> time_in_name("230421_001.WAV"), time_in_name("ZOOM0001.WAV")
    ('2023-04-21', '')
    >>> time_in_name("Audio 2023-04-21 at 10.30.00 PM.ogg")
    '2023-04-21 22:30:00'
    """
    for pattern in _IN_NAMES:
        for found in re.finditer(pattern, name):
            parts = [part or "" for part in found.groups()]
            year, *rest = (int(part) for part in parts if part.isdecimal())
            half = parts[-1].lower()
            if half in ("a", "p") and rest[2] <= 12:
                rest[2] = rest[2] % 12 + 12 * (half == "p")
            try:
                moment = datetime(2000 + year % 100, *rest)
            except ValueError:  # no such day or hour
                continue
            return f"{moment}" if len(rest) > 2 else f"{moment.date()}"
    return ""


def time_text(record_time):
    """Writes a point in time as text: month, day of the week, hour.

    Year, day of the month and minute are left out: they tell recording
    sessions apart, which a model must not memorise.

    Arguments
    ---------
    record_time : str, datetime.date, datetime.datetime or None
        See :func:`parse_time`.  The hour is the one stated, whatever the
        offset from UTC.

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
    moment, is_date = parse_time(record_time)
    if moment is None:
        return ""
    text = f"{moment.month_name()} {moment.day_name()}".lower()
    return text if is_date else f"{text} {moment.hour:02d}"


def later(record_time, seconds):
    """Adds seconds to a time.

    Arguments
    ---------
    record_time : str, datetime.date, datetime.datetime or None
        See :func:`parse_time`.
    seconds : float
        Seconds to add.

    Returns
    -------
    pandas.Timestamp, str or None
        The later time; a date alone and an unknown time are returned as they
        are.

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
    moment, is_date = parse_time(record_time)
    if moment is None or is_date:
        return record_time
    return moment + pd.Timedelta(seconds=seconds)


def is_future(record_time):
    """Tells whether a time lies more than a day ahead.

    Arguments
    ---------
    record_time : str, datetime.date, datetime.datetime or None
        See :func:`parse_time`.

    Returns
    -------
    bool
        False for an unknown time, and for the next day, which may have begun
        in another time zone.

    Example
    -------
    >>> is_future("2523-04-21"), is_future("2023-04-21"), is_future(None)
    (True, False, False)
    """
    moment, _ = parse_time(record_time)
    if moment is None:
        return False
    return moment > pd.Timestamp.now(moment.tz) + pd.Timedelta(days=1)
