"""Figure of what was recorded where and when.

Source: in the spirit of the ASCMamba paper's Fig. 1, from a manifest.
"""

import numpy as np
import pandas as pd

from ascmamba_modules.data.sessions import find_places, find_times
from ascmamba_modules.plots.style import BLUE, GRID, hide_frame, new_figure

_UNKNOWN = "unknown"
_SHOWN_PLACES = 30
_LARGEST = 26  # diameter of the largest circle in points
_CELL = 0.4  # inches between two circles


def plot_metadata(table):
    """Draws class against place, and class against hour of the day.

    The area of a circle is the number of labelled clips.  Beyond 30 places
    only those with the most clips have a column, the others share one.

    Arguments
    ---------
    table : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`.

    Returns
    -------
    matplotlib.figure.Figure
        Places on the left, hours on the right.

    Raises
    ------
    ValueError
        If no clip is labelled, or for a text that is not a time.
    """
    table = table[table["scene_label"] != ""]
    if table.empty:
        raise ValueError("nothing to plot: no clip has a scene_label")
    places = find_places(table).replace("", _UNKNOWN)
    often = places.value_counts().index
    if len(often) > _SHOWN_PLACES:
        shown = often[: _SHOWN_PLACES - 1]
        others = f"{len(often) - len(shown)} others"
        places = places.where(places.isin(shown), others)
    by_place = pd.crosstab(table["scene_label"], places)
    hours = find_times(table)["time"].dt.hour
    by_hour = pd.crosstab(table["scene_label"], hours.fillna(24).astype(int))
    columns = range(25 if hours.isna().any() else 24)
    by_hour = by_hour.reindex(columns=columns, fill_value=0)

    widths = [by_place.shape[1] + 1, by_hour.shape[1] + 1]
    figure = new_figure(
        "Labelled clips by place and by hour of the day",
        _CELL * (len(by_place) + 1) + 2.1,
        _CELL * sum(widths) + 3.5,
    )
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=widths)
    largest = max(by_place.to_numpy().max(), by_hour.to_numpy().max())
    for axes, counts in ((left, by_place), (right, by_hour)):
        _draw_circles(axes, counts, largest)
    left.set_xticks(range(by_place.shape[1]), by_place.columns, rotation=90)
    left.set_xlabel("place")
    names = [_UNKNOWN if hour == 24 else str(hour) for hour in by_hour.columns]
    right.set_xticks(range(len(names)), names)
    if hours.isna().any():
        right.get_xticklabels()[-1].set_rotation(90)
    right.set_xlabel("hour of the day")
    right.tick_params(left=False)
    _add_legend(right, largest)
    return figure


def _draw_circles(axes, counts, largest):
    rows, columns = np.nonzero(counts.to_numpy())
    area = _area(counts.to_numpy()[rows, columns], largest)
    axes.scatter(columns, rows, s=area, color=BLUE, zorder=2)
    axes.set_xlim(-0.75, counts.shape[1] - 0.25)
    axes.set_ylim(len(counts) - 0.25, -0.75)  # the first class on top
    axes.set_yticks(range(len(counts)), counts.index)
    axes.grid(color=GRID, zorder=1)
    hide_frame(axes)


def _area(clips, largest):
    """Area in square points, as matplotlib's ``s``."""
    return _LARGEST**2 * clips / largest


def _add_legend(axes, largest):
    """Circles of about the largest number of clips, a quarter, and so on."""
    examples = {float(f"{largest / part:.1g}") for part in (1, 4, 16)}
    for clips in sorted(round(clips) for clips in examples if clips >= 1):
        area = _area(clips, largest)
        axes.scatter([], [], s=area, color=BLUE, label=f"{clips:,}")
    axes.legend(
        title="labelled clips",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        labelspacing=1.2,
        handletextpad=1.0,
    )
