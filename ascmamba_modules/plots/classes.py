"""Plots of how a model does on each class."""

import numpy as np

from ascmamba_modules.plots.style import (
    BLUE,
    GREY,
    NARROW,
    TEXT_SIZE,
    name_height,
    name_length,
    new_figure,
    shown_name,
    tidy,
)


def plot_recalls(table):
    """Draws the recall of every class.

    Arguments
    ---------
    table : pandas.DataFrame
        As :func:`~ascmamba_modules.evaluation.scores.per_class_table` makes.

    Returns
    -------
    matplotlib.figure.Figure
        Bars, the first class on top.

    Example
    -------
    >>> from ascmamba_modules.evaluation.scores import per_class_table
    >>> table = per_class_table([0, 0, 1], [0, 1, 1], ["bus", "park"])
    >>> axes = plot_recalls(table).axes[0]
    >>> [float(bar.get_width()) for bar in axes.patches]
    [50.0, 100.0, 75.0]
    """
    names = [shown_name(name) for name in table.index]
    row = max(0.36, name_height(names))
    figure = new_figure(NARROW, 1.0 + row * len(names))
    axes = figure.subplots()
    colours = [GREY if name == "macro average" else BLUE for name in names]
    places = range(len(table))
    bars = axes.barh(places, 100 * table["recall"].fillna(0), color=colours)
    labels = [
        f"{100 * row.recall:.1f} %  ({row.clips:,})"
        if row.clips
        else "no clips"
        for row in table.itertuples()
    ]
    axes.bar_label(bars, labels, padding=3, fontsize=TEXT_SIZE)
    axes.set_xlim(0, 145)  # room for the label of a full bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(places, names)
    axes.set_ylim(len(table) - 0.4, -0.6)  # the first class on top
    axes.set_xlabel("recall in % (clips)")
    tidy(axes)
    return figure


def plot_confusion(matrix, classes):
    """Draws a confusion matrix.

    Arguments
    ---------
    matrix : numpy.ndarray
        Counts, true classes down, predicted classes across.
    classes : list
        Names of the classes.

    Returns
    -------
    matplotlib.figure.Figure
        The counts, and how many per cent of the true class' clips they are,
        which is also what the colour tells.  Cells without clips are empty.

    Example
    -------
    >>> matrix = np.array([[3, 1], [0, 2]])
    >>> axes = plot_confusion(matrix, ["bus", "park"]).axes[0]
    >>> [text.get_text() for text in axes.texts]
    ['3\\n75 %', '1\\n25 %', '2\\n100 %']
    """
    matrix = np.asarray(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = 100 * matrix / np.maximum(totals, 1)
    names = [shown_name(name) for name in classes]
    rows = [f"{name} ({n:,})" for name, n in zip(names, totals[:, 0])]
    side = max(0.5, name_height(names)) * len(names)
    figure = new_figure(
        side + 0.5 + name_length(rows), side + 0.5 + name_length(names)
    )
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(matrix)):
        share = shares[row, column]
        axes.text(
            *(column, row, f"{matrix[row, column]:,}\n{share:.0f} %"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 71.5 else "black",
        )
    numbers = range(len(names))
    axes.set_xticks(numbers, names, rotation=90)
    axes.set_yticks(numbers, rows)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd")
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (clips)")
    return figure
