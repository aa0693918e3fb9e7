"""Scores against scikit-learn and by hand; files of the report."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import classification_report, recall_score

from ascmamba_modules.evaluation import (
    macro_accuracy,
    per_class_table,
    write_report,
)


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 60)
    wrong = rng.uniform(size=60) < 0.4
    return targets, np.where(wrong, rng.integers(0, 4, 60), targets)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_macro_accuracy_is_over_the_classes_that_occur(answers):
    targets, predictions = answers
    recalls = [np.mean(predictions[targets == c] == c) for c in range(3)]
    assert macro_accuracy(*answers) == pytest.approx(np.mean(recalls))
    expected = recall_score(
        targets, predictions, labels=[0, 1, 2], average="macro"
    )
    assert macro_accuracy(*answers) == pytest.approx(expected)
    # Class 3 is predicted by mistake but never true.
    assert set(predictions) - set(targets) == {3}


def test_macro_accuracy_weighs_classes_not_clips():
    assert macro_accuracy([0] * 98 + [1] * 2, [0] * 100) == 0.5


def test_per_class_table(answers):
    names = ["a", "b", "c", "d"]
    table = per_class_table(*answers, names)
    expected = classification_report(
        *answers,
        labels=range(4),
        target_names=names,
        output_dict=True,
        zero_division=0,
    )
    for name in "abc":
        row = table.loc[name]
        assert row["recall"] == pytest.approx(expected[name]["recall"])
        assert row["precision"] == pytest.approx(expected[name]["precision"])
        assert row["f1"] == pytest.approx(expected[name]["f1-score"])
        assert row["clips"] == expected[name]["support"]
    assert table.loc["d", "clips"] == 0 and np.isnan(table.loc["d", "recall"])
    average = table.loc["macro average", "recall"]
    assert average == pytest.approx(macro_accuracy(*answers))


def test_class_never_found_scores_zero():
    table = per_class_table([0, 1], [0, 0], ["a", "b"])
    assert list(table.loc["b"]) == [1, 0.0, 0.0, 0.0]


def test_report(tmp_path, answers):
    targets, predictions = answers
    names = ["Bus", "Shopping mall", "a, b", "none"]
    posteriors = np.full((60, 4), 0.1)
    posteriors[np.arange(60), predictions] = 0.7
    ids = [f"clip{i}" for i in range(60)]
    write_report(tmp_path / "new", ids, targets, np.log(posteriors), names)
    rows = pd.read_csv(tmp_path / "new" / "predictions.csv")
    assert list(rows["ID"]) == ids
    assert list(rows["prediction"]) == [names[p] for p in predictions]
    np.testing.assert_allclose(rows.iloc[:, 3:], posteriors)
    matrix = pd.read_csv(tmp_path / "new/confusion_matrix.csv", index_col=0)
    for t, p in np.ndindex(4, 4):
        count = np.sum((targets == t) & (predictions == p))
        assert matrix.loc[names[t], names[p]] == count
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == [
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "per_class.csv",
        "per_class.png",
        "predictions.csv",
    ]
