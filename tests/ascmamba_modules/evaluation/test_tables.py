"""Tables and the headline, by hand."""

import numpy as np
import pandas as pd
import pytest

from ascmamba_modules.evaluation.protocols import COLUMNS
from ascmamba_modules.evaluation.tables import (
    calibration_table,
    headline,
    pair_table,
    recall_table,
    summarise,
)


def frame(*rows):
    """Rows of model, protocol, condition, metric, value, interval, clips."""
    order = "model protocol condition metric value lower upper clips".split()
    rows = [dict(zip(order, row)) for row in rows]
    return pd.DataFrame(rows, columns=COLUMNS)


def score(model, value, *ends, clips=20):
    ends = ends or (np.nan, np.nan)
    whole = "all clips", "all clips", "macro_accuracy"
    return model, *whole, value, *ends, clips


def pair(first, second, value, lower, upper, p_value):
    head = first, "paired test", f"against {second}"
    return (
        (*head, "macro_accuracy difference", value, lower, upper, 20),
        (*head, "p_value", p_value, np.nan, np.nan, 20),
    )


def test_summary_and_recalls():
    whole = "all clips", "all clips"
    results = frame(
        score("a", 0.75, 0.5, 1.0),
        ("a", *whole, "log_loss", 0.5, 0.25, 1.0, 20),
        ("a", *whole, "recall Bus", 0.5, np.nan, np.nan, 12),
        ("a", *whole, "recall Bar", 1.0, np.nan, np.nan, 9),
        ("a", *whole, "recall Park", np.nan, np.nan, np.nan, 0),
        score("b", 0.5, clips=9),
        ("a", "difficulty", "Valid-Hard", "macro_accuracy", 0.25, 0, 1, 9),
        ("a", "difficulty", "Valid-Hard", "recall Bus", 0.25, 0, 1, 9),
    )
    assert summarise(results).to_dict("list") == {
        "model": ["a", "b"],
        "macro accuracy": ["75.0 (50.0 to 100.0)", "50.0*"],
        "Valid-Hard": ["25.0*", ""],
        "log-loss": ["0.50", ""],
    }
    assert recall_table(results).to_dict("list") == {
        "model": ["a", "a", "b"],
        "condition": ["all clips", "Valid-Hard", "all clips"],
        "Bus": ["50.0", "25.0*", ""],
        "Bar": ["100.0*", "", ""],
        "Park": ["no clips", "", ""],
        "average": ["75.0", "25.0*", "50.0*"],
    }


def test_calibration():
    one = "a", "calibration", "as trained"
    two = "a", "calibration", "temperature scaled"
    rest = np.nan, np.nan, 20
    results = frame(
        (*one, "log_loss", 0.5, *rest),
        (*one, "expected_calibration_error", 0.125, *rest),
        (*two, "temperature", 1.5, 1, 2, 20),
    )
    table = calibration_table(results).set_index("condition")
    assert list(table) == ["model", "log-loss", "ECE", "temperature"]
    assert list(table.loc["as trained"]) == ["a", "0.50", "12.5", ""]
    assert list(table.loc["temperature scaled"]) == ["a", "", "", "1.50"]


def test_pairs():
    table = pair_table(frame(*pair("a", "b", -0.05, -0.1, 0.02, 0.0001)))
    shown = ["a against b", "-5.0", "-10.0 to +2.0", "< 0.001"]
    assert table.to_numpy().tolist() == [shown]
    assert list(table) == ["models", "difference", "95 % interval", "p-value"]
    assert pair_table(frame(score("a", 0.5))).empty


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([score("a", 0.5)], "a: macro accuracy 50.0 %."),
        (
            [score("a", 0.5), score("b", 0.625)],
            "b has the highest macro accuracy: 62.5 %; next is a with 50.0 %. "
            "All clips are of one session, so this lead has no interval.",
        ),
        (
            [
                score("a", 0.5, 0.25, 0.75),
                score("b", 0.625, 0.5, 0.75),
                score("c", 0.25, 0.125, 0.5),
                *pair("a", "b", -0.125, -0.25, 0.0625, 0.25),
                *pair("a", "c", 0.25, 0.125, 0.5, 0.01),
                *pair("b", "c", 0.375, 0.25, 0.5, 0.01),
            ],
            "b has the highest macro accuracy: 62.5 % (95 % interval 50.0 to "
            "75.0); next is a with 50.0 %. The 95 % interval of this lead, "
            "-6.2 to +25.0 points, includes zero; p-value 0.250.",
        ),
        (
            [
                score("a", 0.75),
                score("b", 0.5),
                *pair("a", "b", 0.25, 0.125, 0.5, 0.01),
            ],
            "a has the highest macro accuracy: 75.0 %; next is b with 50.0 %. "
            "The 95 % interval of this lead, +12.5 to +50.0 points, excludes "
            "zero; p-value 0.010.",
        ),
    ],
)
def test_headline(rows, expected):
    assert headline(frame(*rows)) == expected
