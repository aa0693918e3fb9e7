"""Plots that compare models."""

import numpy as np
import pandas as pd
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ascmamba_modules.plots.style import (
    COLOURS,
    NARROW,
    add_legend,
    colour_and_marker,
    legend_height,
    new_figure,
    shown_name,
    tidy,
)

_BAR = 0.2  # inches


def plot_curves(table, xlabel):
    """Draws the accuracy of models against something that was varied.

    Arguments
    ---------
    table : pandas.DataFrame
        Columns model, x (numbers), mean, lower and upper (0 to 1; the last
        two are NaN where nothing is known of the spread).
    xlabel : str
        What x is, with its unit.

    Returns
    -------
    matplotlib.figure.Figure
        A line a model, with the band from lower to upper.

    Example
    -------
    >>> table = pd.DataFrame(
    ...     {"model": "ASCMamba", "x": [5, 50], "mean": [0.75, 0.5]}
    ... ).assign(lower=0.4, upper=0.8)
    >>> axes = plot_curves(table, "clips shuffled in %").axes[0]
    >>> axes.lines[0].get_ydata()
    array([75., 50.])
    """
    models = table["model"].unique()
    names = [shown_name(model) for model in models]
    figure = new_figure(NARROW, 3.6 + legend_height(names))
    axes = figure.subplots()
    lines = []
    for number, model in enumerate(models):
        colour, marker = colour_and_marker(number)
        rows = table[table["model"] == model].sort_values("x")
        lines += axes.plot(
            rows["x"], 100 * rows["mean"], color=colour, marker=marker
        )
        axes.fill_between(
            *(rows["x"], 100 * rows["lower"], 100 * rows["upper"]),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_ylim(_limits(table[["mean", "lower", "upper"]]))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    values = np.unique(table["x"])
    # A tick at each value, unless they would be too near each other.
    if len(values) > 1 and np.diff(values).min() > 0.04 * np.ptp(values):
        axes.set_xticks(values, [f"{value:g}" for value in values])
    elif len(values) == 1:
        axes.set_xticks(values, [f"{values[0]:g}"])
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy in %")
    axes.grid(color="#e4e4e4")
    tidy(axes)
    add_legend(figure, lines, names)
    return figure


def _limits(values):
    """Per cent at the ends of the axis: tens, at least twenty apart."""
    low = max(0, 10 * np.floor(10 * np.nanmin(values) - 0.2))
    high = min(100, max(10 * np.ceil(10 * np.nanmax(values) + 0.2), low + 20))
    # A line at 0 or 100 % is not to be cut in half.
    return min(low, high - 20) - 1, high + 1


def plot_bars(table):
    """Draws the accuracy of models under several conditions.

    Arguments
    ---------
    table : pandas.DataFrame
        Columns model, condition, value, lower, upper (0 to 1; the last two
        may be NaN, and value where nothing was scored) and clips.

    Returns
    -------
    matplotlib.figure.Figure
        For each condition a bar a model, with whiskers from lower to upper
        and the value in per cent.

    Example
    -------
    >>> table = pd.DataFrame(
    ...     {"model": ["a", "b"], "condition": "unseen city", "clips": 40}
    ... ).assign(value=[0.5, 0.75], lower=[0.4, 0.7], upper=[0.6, 0.8])
    >>> [float(bar.get_width()) for bar in plot_bars(table).axes[0].patches]
    [50.0, 75.0]
    """
    models = list(table["model"].unique())
    names = [shown_name(model) for model in models]
    table, centres = _place_bars(table, models)
    height = 0.8 + legend_height(names) + _BAR * (table["place"].max() + 2)
    figure = new_figure(NARROW, height)
    axes = figure.subplots()
    bars = []
    for number, model in enumerate(models):
        rows = table[table["model"] == model]
        places = rows["place"]
        colour = COLOURS[number % len(COLOURS)]
        hatch = "" if number < len(COLOURS) else "///"
        bars.append(
            axes.barh(
                *(places, 100 * rows["value"].fillna(0), 0.85),
                color=colour,
                edgecolor="white",
                hatch=hatch,
                linewidth=0,
            )
        )
        _add_whiskers(axes, places, rows)
        _add_values(axes, places, rows)
    axes.set_xlim(0, 116)  # room for the value of a full bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(
        centres, [_condition(table, name) for name in centres.index]
    )
    axes.set_ylim(table["place"].max() + 1, -1)  # the first one on top
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy in %")
    tidy(axes)
    add_legend(figure, bars, names)
    return figure


def _place_bars(table, models):
    """Adds a column place, in bars from the top, and finds each condition's
    centre.  A condition has room for its own models, but two bars at least,
    which its name needs."""
    parts, start = [], 0.0
    for _, rows in table.groupby("condition", sort=False):
        rows = rows.iloc[rows["model"].map(models.index).argsort()]
        margin = max(0, 2 - len(rows)) / 2
        parts.append(rows.assign(place=start + margin + np.arange(len(rows))))
        start += len(rows) + 2 * margin + 1
    table = pd.concat(parts)
    return table, table.groupby("condition", sort=False)["place"].mean()


def _add_whiskers(axes, places, rows):
    known = (
        rows["value"].notna() & rows["lower"].notna() & rows["upper"].notna()
    )
    places, rows = places[known], 100 * rows.loc[known, ["lower", "upper"]]
    # White around them, to be seen on dark bars, too.
    style = {
        "color": "black",
        "path_effects": [withStroke(linewidth=2.5, foreground="white")],
    }
    axes.hlines(places, rows["lower"], rows["upper"], lw=1, **style)
    for end in ("lower", "upper"):
        axes.plot(rows[end], places, "|", markersize=5, **style)


def _add_values(axes, places, rows):
    for place, row in zip(places, rows.itertuples()):
        known = pd.notna(row.value)
        end = np.nanmax([row.value, row.upper]) if known else 0
        axes.annotate(
            f"{100 * row.value:.1f}" if known else "no clips",
            (100 * end, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )


def _condition(table, name):
    """Name of a condition and its clips: those of each model, if of one
    number."""
    clips = table.loc[table["condition"] == name, "clips"].unique()
    counts = f"{clips.min():,} to " if len(clips) > 1 else ""
    noun = "clip" if clips.max() == 1 else "clips"
    return f"{shown_name(name)}\n({counts}{clips.max():,} {noun})"
