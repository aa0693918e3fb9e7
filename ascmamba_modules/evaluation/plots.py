"""Plots of scores."""

from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from ascmamba_modules.files import replacing


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
    """
    table = table.iloc[::-1]  # the first class on top
    figure = Figure(
        figsize=(7, 1.2 + 0.36 * len(table)), layout="constrained", dpi=120
    )
    axes = figure.subplots()
    colours = [
        "#777777" if name == "macro average" else "#0072B2"
        for name in table.index
    ]
    recalls = 100 * table["recall"].fillna(0)
    bars = axes.barh(table.index, recalls, color=colours)
    labels = [
        f"{100 * row.recall:.1f} %  ({row.clips:.0f})"
        if row.clips
        else "no clips"
        for row in table.itertuples()
    ]
    axes.bar_label(bars, labels, padding=3)
    axes.set_xlim(0, 125)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("recall in % (clips)")
    axes.spines[["top", "right"]].set_visible(False)
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
        The matrix with its counts.
    """
    size = 3.0 + 0.55 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained", dpi=120)
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(matrix, display_labels=classes)
    display.plot(
        ax=axes, cmap="Blues", colorbar=False, xticks_rotation="vertical"
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure


def save_figure(figure, path):
    """Writes a figure, whole or not at all.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    path : str or Path
        Where to; the suffix tells the format.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary)
