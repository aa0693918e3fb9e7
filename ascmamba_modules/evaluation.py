"""Scores of a classifier, as numbers, tables and plots."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    confusion_matrix,
    precision_recall_fscore_support,
    recall_score,
)

from ascmamba_modules.files import replacing, write_csv


def macro_accuracy(targets, predictions):
    """Mean of the recalls of the classes that occur in the targets.

    Arguments
    ---------
    targets, predictions : array-like
        Class indices (clips).

    Returns
    -------
    float
        Between 0 and 1.

    Example
    -------
    >>> macro_accuracy([0, 0, 0, 1], [0, 0, 1, 1])
    0.8333333333333333
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    present = np.unique(targets)
    return float(
        recall_score(targets, predictions, labels=present, average="macro")
    )


def per_class_table(targets, predictions, classes):
    """Recall, precision and F1 of every class, and their means.

    Arguments
    ---------
    targets, predictions : array-like
        Class indices (clips).
    classes : list
        Names of the classes.

    Returns
    -------
    pandas.DataFrame
        A row a class and a last row "macro average", whose means are over
        the classes that occur in the targets; columns clips, recall,
        precision, f1.  A class without clips has no recall.

    Example
    -------
    >>> per_class_table([0, 0, 0, 1], [0, 0, 1, 1], ["bus", "park"])
                   clips    recall  precision        f1
    bus                3  0.666667       1.00  0.800000
    park               1  1.000000       0.50  0.666667
    macro average      4  0.833333       0.75  0.733333
    """
    precision, recall, f1, clips = precision_recall_fscore_support(
        targets,
        predictions,
        labels=range(len(classes)),
        zero_division=np.nan,
    )
    table = pd.DataFrame(
        {"clips": clips, "recall": recall, "precision": precision, "f1": f1},
        index=list(classes),
    )
    # A class with clips none of which was found scores 0, not "undefined".
    table.loc[table["clips"] > 0] = table.loc[table["clips"] > 0].fillna(0.0)
    table.loc[table["clips"] == 0, ["recall", "f1"]] = np.nan
    present = table[table["clips"] > 0]
    average = present.mean()
    average["clips"] = present["clips"].sum()
    table.loc["macro average"] = average
    return table.astype({"clips": int})


def write_report(folder, ids, targets, log_posteriors, classes):
    """Writes what a test says about a model.

    Files: ``predictions.csv`` (a row a clip with its posteriors),
    ``per_class.csv`` and ``.png``, ``confusion_matrix.csv`` and ``.png``.

    Arguments
    ---------
    folder : str or Path
        Where to write; made if need be.
    ids : list
        Names of the clips.
    targets : array-like
        Class indices (clips).
    log_posteriors : array-like
        (clips, classes).
    classes : list
        Names of the classes.

    Returns
    -------
    pandas.DataFrame
        The per-class table.
    """
    folder = Path(folder)
    classes = list(classes)
    targets = np.asarray(targets)
    posteriors = np.exp(np.asarray(log_posteriors))
    predictions = posteriors.argmax(1)

    rows = pd.DataFrame(posteriors, columns=[f"p({c})" for c in classes])
    rows.insert(0, "ID", ids)
    rows.insert(1, "scene_label", [classes[t] for t in targets])
    rows.insert(2, "prediction", [classes[p] for p in predictions])
    write_csv(rows, folder / "predictions.csv")

    table = per_class_table(targets, predictions, classes)
    write_csv(table.rename_axis("class"), folder / "per_class.csv", index=True)
    _save(_plot_recalls(table), folder / "per_class.png")

    matrix = confusion_matrix(targets, predictions, labels=range(len(classes)))
    frame = pd.DataFrame(matrix, index=classes, columns=classes)
    write_csv(
        frame.rename_axis("true class"),
        folder / "confusion_matrix.csv",
        index=True,
    )
    _save(_plot_confusion(matrix, classes), folder / "confusion_matrix.png")
    return table


def _plot_recalls(table):
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


def _plot_confusion(matrix, classes):
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


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary)
