"""The test report that a training writes."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from ascmamba_modules.evaluation.scores import per_class_table
from ascmamba_modules.plots import plot_confusion, plot_recalls, save_figure
from ascmamba_modules.utils.files import write_csv


def write_report(folder, ids, targets, log_posteriors, classes):
    """Writes the test report of a model.

    Files: ``predictions.csv`` (a row a clip with its posteriors),
    ``per_class.csv`` and ``.png``, ``confusion_matrix.csv`` and ``.png``.

    Arguments
    ---------
    folder : str or Path
        Where to write; it is created.
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
    predictions = np.asarray(log_posteriors).argmax(1)
    rows = prediction_table(ids, targets, log_posteriors, classes)
    write_csv(rows, folder / "predictions.csv")

    table = per_class_table(targets, predictions, classes)
    write_csv(table.rename_axis("class"), folder / "per_class.csv", index=True)
    save_figure(plot_recalls(table), folder / "per_class.png")

    matrix = confusion_matrix(targets, predictions, labels=range(len(classes)))
    frame = pd.DataFrame(matrix, index=classes, columns=classes)
    write_csv(
        frame.rename_axis("true class"),
        folder / "confusion_matrix.csv",
        index=True,
    )
    save_figure(
        plot_confusion(matrix, classes), folder / "confusion_matrix.png"
    )
    return table


def prediction_table(ids, targets, log_posteriors, classes):
    """Makes a table of a model's predictions.

    Arguments
    ---------
    ids, targets, log_posteriors, classes
        As for :func:`write_report`.

    Returns
    -------
    pandas.DataFrame
        A row a clip: ID, scene_label, prediction, and ``p(<class>)``, the
        posterior of each class.
    """
    posteriors = np.exp(np.asarray(log_posteriors))
    rows = pd.DataFrame(posteriors, columns=[f"p({c})" for c in classes])
    rows.insert(0, "ID", list(ids))
    rows.insert(1, "scene_label", [classes[t] for t in targets])
    rows.insert(2, "prediction", [classes[p] for p in posteriors.argmax(1)])
    return rows
