"""Scores of a classifier."""

from warnings import catch_warnings, simplefilter

import numpy as np
import pandas as pd
from sklearn.metrics import (
    balanced_accuracy_score,
    precision_recall_fscore_support,
)


def macro_accuracy(targets, predictions):
    """Mean recall of the classes that occur in the targets.

    This is scikit-learn's ``balanced_accuracy_score``, without its warning
    about classes that are only predicted.

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
    with catch_warnings():
        simplefilter("ignore", UserWarning)
        return float(balanced_accuracy_score(targets, predictions))


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
    # A class with clips that is never predicted scores 0, not "undefined".
    table.loc[table["clips"] > 0] = table.loc[table["clips"] > 0].fillna(0.0)
    table.loc[table["clips"] == 0, ["recall", "f1"]] = np.nan
    present = table[table["clips"] > 0]
    average = present.mean()
    average["clips"] = present["clips"].sum()
    table.loc["macro average"] = average
    return table.astype({"clips": int})
