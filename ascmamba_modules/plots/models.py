"""Plots that compare models."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from ascmamba_modules.plots.style import (
    COLOURS,
    FADED_TEXT,
    FEW_CLIPS,
    GRID,
    add_legend,
    colour_and_marker,
    hide_frame,
    new_figure,
    wrap,
)


def plot_curves(table, xlabel, title="Macro accuracy"):
    """Draws the macro accuracy of models against something that was varied.

    Arguments
    ---------
    table : pandas.DataFrame
        Columns model, x (numbers), value, lower and upper (0 to 1; the last
        two are NaN where the spread is unknown).
    xlabel : str
        What x is, with its unit.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        A line a model, with the band from lower to upper.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"model": "ASCMamba", "x": [5, 50], "value": [0.75, 0.5]}
    ... ).assign(lower=0.4, upper=0.8)
    >>> axes = plot_curves(table, "clips shuffled in %").axes[0]
    >>> axes.lines[0].get_ydata()
    array([75., 50.])
    """
    figure = new_figure(title, 3.6)
    axes = figure.subplots()
    models, lines = table["model"].unique(), []
    for number, model in enumerate(models):
        colour, marker = colour_and_marker(number)
        rows = table[table["model"] == model].sort_values("x")
        value, lower, upper = (
            100 * rows[name] for name in ("value", "lower", "upper")
        )
        lines += axes.plot(rows["x"], value, color=colour, marker=marker)
        axes.fill_between(
            rows["x"], lower, upper, color=colour, alpha=0.15, linewidth=0
        )
    # Tens, at least twenty apart, with room for a line at 0 or 100 %.
    values = table[["value", "lower", "upper"]]
    low = max(0, 10 * np.floor(10 * np.nanmin(values) - 0.2))
    high = min(100, max(10 * np.ceil(10 * np.nanmax(values) + 0.2), low + 20))
    axes.set_ylim(min(low, high - 20) - 1, high + 1)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    x = np.unique(table["x"])
    # A tick at each value, unless they would be too near each other.
    if len(x) == 1 or np.diff(x).min() > 0.04 * np.ptp(x):
        axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.set_xlabel(xlabel)
    axes.set_ylabel("macro accuracy in %")
    axes.grid(color=GRID)
    hide_frame(axes)
    add_legend(figure, lines, [wrap(model) for model in models])
    return figure


def plot_bars(table, title="Macro accuracy"):
    """Draws the macro accuracy of models under several conditions.

    Arguments
    ---------
    table : pandas.DataFrame
        Columns model, condition, value, lower, upper (0 to 1; the last two
        may be NaN, and value where nothing was scored) and clips.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        For each condition a bar a model, with whiskers from lower to upper
        and the value in per cent; pale for fewer than 10 clips.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame(
    ...     {"model": ["a", "b"], "condition": "unseen city", "clips": 40}
    ... ).assign(value=[0.5, 0.75], lower=[0.4, 0.7], upper=[0.6, 0.8])
    >>> [float(bar.get_width()) for bar in plot_bars(table).axes[0].patches]
    [50.0, 75.0]
    """
    models = list(table["model"].unique())
    figure = new_figure(title, 1)
    axes = figure.subplots()
    handles, centres, labels, top = {}, [], [], 0.0
    for condition, rows in table.groupby("condition", sort=False):
        # A condition has room for its models, but two bars at least.
        height = max(2, len(rows))
        centres.append(top + (height - 1) / 2)
        labels.append(_label(condition, rows["clips"]))
        place = centres[-1] - (len(rows) - 1) / 2
        rows = rows.iloc[rows["model"].map(models.index).argsort()]
        for row in rows.itertuples():
            number = models.index(row.model)
            handles[number] = _draw_bar(axes, place, row, number)
            place += 1
        top += height + 1
    figure.set_figheight(0.9 + 0.2 * top)  # inches
    axes.set_xlim(0, 116)  # leaves room for the value of a full bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(centres, labels)
    for label, (_, clips) in zip(
        axes.get_yticklabels(), table.groupby("condition", sort=False)["clips"]
    ):
        if clips.max() < FEW_CLIPS:
            label.set_color(FADED_TEXT)
    axes.set_ylim(top - 0.8, -0.8)  # the first one on top
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("macro accuracy in %")
    hide_frame(axes)
    names = [wrap(model) for model in models]
    add_legend(figure, [handles[i] for i in range(len(models))], names)
    return figure


def _draw_bar(axes, place, row, number):
    """Draws one bar with its whiskers and its value; returns the bar."""
    value, lower, upper = 100 * np.array([row.value, row.lower, row.upper])
    is_few = row.clips < FEW_CLIPS
    # The alpha is the colour's own, so that the legend keeps the full colour.
    bar = axes.barh(
        place,
        np.nan_to_num(value),
        0.85,
        color=(COLOURS[number % len(COLOURS)], 0.4 if is_few else 1),
        hatch="///" if number >= len(COLOURS) else "",
        edgecolor="white",
        linewidth=0,
    )
    colour = FADED_TEXT if is_few else "black"
    if not np.isnan([value, lower, upper]).any():
        # A bootstrap interval can lie beside its value.
        ends = np.clip([[value - lower], [upper - value]], 0, None)
        axes.errorbar(value, place, None, ends, ecolor=colour, capsize=2, lw=1)
    axes.annotate(
        "no clips" if np.isnan(value) else f"{value:.1f}",
        (np.nanmax([0, value, upper]), place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
    )
    return bar


def _label(condition, clips):
    """Name of a condition with the models' numbers of clips."""
    low, high = clips.min(), clips.max()
    counts = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    return f"{wrap(condition)}\n({counts} {'clip' if high == 1 else 'clips'})"
