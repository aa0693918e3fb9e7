"""Plots of the scores of each class."""

import numpy as np

from ascmamba_modules.plots.style import (
    BLUE,
    FADED_TEXT,
    FEW_CLIPS,
    GREY,
    GRID,
    TEXT_SIZE,
    WIDTH,
    hide_frame,
    new_figure,
    wrap,
)


def plot_recalls(table, title="Recall of each class"):
    """Draws the recall of every class.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`~ascmamba_modules.evaluation.scores.per_class_table`.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        Bars, the first class on top; pale for fewer than 10 clips.

    Example
    -------
    >>> from ascmamba_modules.evaluation.scores import per_class_table
    >>> table = per_class_table([0, 0, 1], [0, 1, 1], ["bus", "park"])
    >>> axes = plot_recalls(table).axes[0]
    >>> [float(bar.get_width()) for bar in axes.patches]
    [50.0, 100.0, 75.0]
    """
    figure = new_figure(title, 1.1 + 0.38 * len(table))
    axes = figure.subplots()
    places = range(len(table))
    colours = [GREY if n == "macro average" else BLUE for n in table.index]
    bars = axes.barh(places, 100 * table["recall"].fillna(0), color=colours)
    labels = axes.bar_label(
        bars,
        [
            f"{100 * row.recall:.1f} %  ({row.clips:,})"
            if row.clips
            else "no clips"
            for row in table.itertuples()
        ],
        padding=3,
        fontsize=TEXT_SIZE,
    )
    for bar, label, clips in zip(bars, labels, table["clips"]):
        if clips < FEW_CLIPS:
            bar.set_alpha(0.4)
            label.set_color(FADED_TEXT)
    axes.set_xlim(0, 150)  # leaves room for the label of a full bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(places, map(wrap, table.index))
    axes.set_ylim(len(table) - 0.4, -0.6)  # the first class on top
    axes.set_xlabel("recall in % (clips)")
    hide_frame(axes)
    return figure


def plot_confusion(matrix, classes, title="Confusion matrix"):
    """Draws a confusion matrix.

    Arguments
    ---------
    matrix : numpy.ndarray
        Counts, true classes down, predicted classes across.
    classes : list
        Names of the classes.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        Per cent of the true class's clips, as number and colour; cells
        without clips are empty.  Beside each true class is its number of
        clips, grey if fewer than 10.

    Example
    -------
    >>> matrix = np.array([[3, 1], [0, 2]])
    >>> axes = plot_confusion(matrix, ["bus", "park"]).axes[0]
    >>> [text.get_text() for text in axes.texts]
    ['75', '25', '100']
    """
    matrix = np.asarray(matrix)
    totals = matrix.sum(axis=1)
    shares = 100 * matrix / np.maximum(totals, 1)[:, None]
    size = max(WIDTH, 2.4 + 0.24 * len(classes))  # inches
    figure = new_figure(title, size, size)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(matrix)):
        share = shares[row, column]
        axes.text(
            *(column, row, f"{share:.0f}" if share >= 0.5 else "<1"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 71.5 else "black",
        )
    numbers, edges = range(len(classes)), np.arange(len(classes) + 1) - 0.5
    axes.set_xticks(numbers, map(wrap, classes), rotation=90)
    names = [wrap(f"{name} ({n:,})") for name, n in zip(classes, totals)]
    axes.set_yticks(numbers, names)
    for label, clips in zip(axes.get_yticklabels(), totals):
        if clips < FEW_CLIPS:
            label.set_color(FADED_TEXT)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=GRID)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (clips)")
    return figure
