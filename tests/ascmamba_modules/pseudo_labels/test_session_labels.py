"""Labels of a recording session as a third annotator."""

import math

import pandas as pd
import pytest

from ascmamba_modules.pseudo_labels.selection import (
    REJECTED,
    SESSION,
    label_table,
    summarise,
)
from ascmamba_modules.pseudo_labels.session_labels import (
    ask_sessions,
    check_purity,
    session_votes,
)


@pytest.fixture
def table():
    """Sessions of one class, of two, and without a label to train on."""
    rows = [
        ("a", "1", "Bus", "train"),
        ("b", "1", "Bus", ""),
        ("c", "1", "", "train"),
        ("d", "2", "Bus", "train"),
        ("e", "2", "Bar", "train"),
        ("f", "2", "", ""),
        ("g", "3", "Bar", "valid"),
        ("h", "3", "", "train"),
        ("i", "3", "", "evaluation"),
    ]
    columns = ["ID", "session", "scene_label", "split"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(location="", record_time="", label_source="")


def test_votes_and_purity(table):
    """Held out labels have no say; clips held out are not asked for."""
    votes, purity = session_votes(table)
    assert votes.to_dict() == {"c": "Bus", "f": "", "h": ""}
    assert purity == 0.5  # a and b agree, d and e do not


def test_purity_of_a_wider_group_is_that_of_its_other_sessions(table):
    """Two sessions of a city; the labels of one agree with each other."""
    table = table[:3].assign(session=["1", "1", "2"], location="Xi'an")
    assert math.isnan(session_votes(table, "city")[1])
    table.loc[2, "scene_label"] = "Bar"
    assert session_votes(table, "city")[1] == 0


@pytest.mark.parametrize("purity", [0.97, math.nan])
def test_sessions_are_not_trusted_blindly(purity):
    check_purity(0.98, 0.98)
    with pytest.raises(ValueError, match="agree with the others"):
        check_purity(purity, 0.98)


@pytest.mark.parametrize(
    "way, labels, steps",
    [
        ("propagate", ["Bus", "Bus", "Bar"], [SESSION, SESSION, REJECTED]),
        ("add", ["Bar", "Bus", "Bar"], [1, SESSION, REJECTED]),
        ("veto", ["Bar", "Bar", "Bar"], [REJECTED, REJECTED, REJECTED]),
    ],
)
def test_ways(way, labels, steps):
    clips = ["a", "b", "c"]
    selected = pd.DataFrame({"scene_label": "Bar", "step": [1, 0, 0]}, clips)
    selected["second_label"], selected["confidence"] = "Bus", 0.5
    votes = pd.Series({"b": "Bus", "a": "Bus", "c": ""})
    asked = ask_sessions(selected, votes, way)
    assert asked["scene_label"].tolist() == labels
    assert asked["step"].tolist() == steps
    assert summarise(asked)["clips"]["session"] == steps.count(SESSION)
    table = pd.DataFrame({"ID": clips, "scene_label": "", "split": "train"})
    labelled = label_table(table, asked)
    assert set(labelled["label_source"]) <= {
        *("pseudo-label step 1", "pseudo-label session")
    }
    with pytest.raises(ValueError, match="must be propagate, add, veto"):
        ask_sessions(selected, votes, "always")


def test_true_metadata(cas):
    votes, purity = session_votes(cas)
    assert purity == 1
    assert (votes != "").mean() == pytest.approx(0.981, abs=0.001)
    assert session_votes(cas, "run")[1] == pytest.approx(0.997, abs=0.001)
