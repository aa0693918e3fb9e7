"""Audit and metadata baseline: by hand, and on the true metadata."""

import numpy as np
import pandas as pd
import pytest

from ascmamba_modules.data.leakage import (
    audit,
    audit_text,
    classify_by_metadata,
    find_warnings,
)
from ascmamba_modules.data.splits import split

LABELLED = "{} of a labelled training clip"
ANY = "{} of any training clip"


def clips(rows):
    columns = ["location", "record_time", "scene_label", "split"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["ID"] = [f"clip{i}" for i in range(len(frame))]
    return frame.assign(session="")


@pytest.fixture
def small():
    return clips(
        [
            ("Hefei", "2023-05-21 10:00:00", "Bus", "train"),
            ("Hefei", "2023-05-21 20:00:00", "Bar", "train"),
            ("Hefei", "2023-05-22 10:00:00", "", "train"),
            # Same session, run, day and city in turn, then a new city.
            ("Hefei", "2023-05-21 10:00:00", "Bus", "valid"),
            ("Hefei", "2023-05-21 10:10:00", "Bar", "valid"),
            ("Hefei", "2023-05-21 12:00:00", "Bus", "valid"),
            ("Hefei", "2023-05-22 10:00:00", "Bus", "valid"),
            ("Jinan", "2023-05-22 10:00:00", "Metro", "valid"),
            # Not scored, as the split has labelled clips.
            ("Hefei", "2023-05-21 10:00:00", "", "valid"),
            # Scored, as there are no others.
            ("Hefei", "2023-05-22 10:10:00", "", "evaluation"),
            ("Jinan", "2023-05-22 10:10:00", "", "evaluation"),
            ("Hefei", "2023-05-21 10:00:00", "Bus", ""),
        ]
    )


def test_shares_counted_by_hand(small):
    shares = audit(small)
    assert list(shares) == ["evaluation", "valid"]
    assert list(shares.loc["clips"]) == [2, 5]
    for level, labelled, any_clip in (
        ("session", (0, 1 / 5), (0, 2 / 5)),
        ("run", (0, 2 / 5), (1 / 2, 3 / 5)),
        ("day and city", (0, 3 / 5), (1 / 2, 4 / 5)),
        ("city", (1 / 2, 4 / 5), (1 / 2, 4 / 5)),
    ):
        assert tuple(shares.loc[LABELLED.format(level)]) == labelled
        assert tuple(shares.loc[ANY.format(level)]) == any_clip
    # Bus in the morning: 3 of 3 Bus, 0 of 1 Bar, 0 of 1 Metro.
    score = shares.loc["metadata-only macro accuracy"]
    assert score["valid"] == pytest.approx(1 / 3)
    assert np.isnan(score["evaluation"])


def test_metadata_baseline_knows_sessions_and_takes_missing_metadata():
    rng = np.random.default_rng(0)
    hours = pd.date_range("2023-05-01", periods=300, freq="h")
    training = clips(
        [
            (place, str(time), label, "train")
            for place, time, label in zip(
                rng.choice(["Hefei", "Jinan"], 300),
                hours,
                rng.choice(["Bus", "Bar", "Metro"], 300),
            )
        ]
    )
    labels = training["scene_label"]
    assert (classify_by_metadata(training, training) == labels).all()
    # A spelling of another clip must not change a place's name.
    other = training.assign(location=training["location"].str.upper())
    assert (classify_by_metadata(training, other) == labels).all()
    order = rng.permutation(len(training))
    assert (
        classify_by_metadata(training.iloc[order], training) == labels
    ).all()

    odd = training.iloc[:4].assign(
        location=["Luoyang", "", "Hefei", ""],
        record_time=["2023-05-01 10:00:00", "2023-05-02", "", ""],
    )
    assert set(classify_by_metadata(training, odd)) <= set(labels)


def test_warnings(small):
    assert find_warnings(small) == [
        "evaluation: places that training has not seen: 1 (Jinan), 1 clips; "
        "kept",
        "valid: places that training has not seen: 1 (Jinan), 1 clips; kept",
        "valid: classes without training clips: 1 (Metro)",
    ]
    small.loc[0, "location"] = ""
    small.loc[1, "record_time"] = ""
    small.loc[[1, 2], "session"] = ["walk", ""]
    small.loc[2, "record_time"] = "2023-05-22"
    small.loc[[3, 4], "record_time"] = "2023-05-21 10:00:00"
    first, second, *_ = find_warnings(small)
    # The second names its session, the third has a place and a day.
    assert first == (
        "place or time unknown: 3 of 12 clips; 1 of them cannot be grouped"
    )
    assert second == (
        "sessions of several classes: 1 (Hefei 2023-05-21 10:00:00)"
    )


def test_text_says_all(small):
    text = audit_text(small)
    rows = [line.split() for line in text.splitlines()]
    assert "labelled runs of one class 4 of 5 (80.0 %)".split() in rows
    assert ["evaluation", "valid"] in rows
    assert "city of a labelled training clip 50.0 % 80.0 %".split() in rows
    assert "metadata-only macro accuracy - 33.3 %".split() in rows
    for warning in find_warnings(small):
        assert warning in text


def test_training_clips_alone(small):
    assert "No split beside 'train'" in audit_text(small[:3])


def test_nothing_to_learn_from(small):
    small["split"] = "valid"
    with pytest.raises(ValueError, match="no labelled training clips"):
        audit(small)


def test_random_split_of_the_true_metadata_leaks(cas):
    seen, scores = [], []
    for seed in range(5):
        shares = audit(cas.assign(split=split(cas, "random", seed=seed)[0]))
        seen.append(shares.loc[LABELLED.format("session"), "valid"])
        scores.append(shares.loc["metadata-only macro accuracy", "valid"])
    assert 0.97 <= np.mean(seen) <= 0.98
    assert min(scores) >= 0.99


def test_leak_free_splits_of_the_true_metadata(cas):
    sessions = []
    for seed in range(5):
        shares = audit(cas.assign(split=split(cas, "session", seed=seed)[0]))
        assert shares.loc[LABELLED.format("session"), "valid"] == 0
        sessions.append(shares.loc["metadata-only macro accuracy", "valid"])
    assert 0.84 <= np.mean(sessions) <= 0.91

    column, notes = split(cas, "city")
    assert [note.split(":")[0] for note in notes[2:]] == [
        "Public square",
        "Traffic street",
    ]
    assert all("one city (Xi'an)" in note for note in notes[2:])
    held_out = cas["location"][column == "valid"]
    assert (column[cas["location"].isin(held_out)] != "train").all()

    development = cas[cas["split"] == "train"]
    for city in set(development["location"]):
        left_out = development["location"] == city
        rows = development.assign(split=np.where(left_out, "valid", "train"))
        shares = audit(rows)
        assert shares.loc[LABELLED.format("city"), "valid"] == 0
        assert shares.loc["metadata-only macro accuracy", "valid"] <= 0.3


def test_cities_of_the_true_evaluation_set_that_are_new(cas):
    assert find_warnings(cas) == [
        "evaluation: places that training has not seen: 6 (Changchun, "
        "Guangzhou, Nanchang, Shenyang, Taiyuan, Tianjin), 400 clips; kept"
    ]
