"""Splits: what must hold for any table, and beside scikit-learn's own."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import (
    assume,
    given,
    settings,
    strategies as st,
)
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from ascmamba_modules.data.sessions import LEVELS, find_groups
from ascmamba_modules.data.splits import SPLITS, split


def world(n_sessions=120, seed=0):
    """Clips of four classes, each in some of four cities, half labelled."""
    rng = np.random.default_rng(seed)
    cities = {"Bar": "AB", "Bus": "BC", "Metro": "ACD", "Park": "D"}
    rows = []
    for session in range(n_sessions):
        label = list(cities)[session % 4]
        city = rng.choice(list(cities[label]))
        day, hour = rng.integers(1, 29), rng.integers(0, 24)
        time = f"2023-05-{day:02d} {hour:02d}:{10 * (session % 6):02d}:00"
        for clip in range(rng.integers(2, 12)):
            rows.append((city, time, label if clip % 2 else ""))
    columns = ["location", "record_time", "scene_label"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["ID"] = [f"clip{i:04d}" for i in range(len(frame))]
    return frame.assign(session="", split="train")


@st.composite
def tables(draw):
    row = st.tuples(
        st.sampled_from(["Hefei", "Jinan", "Xi'an", ""]),
        st.sampled_from(
            ["", "2023-05-21 23:55:00", "2023-05-22 00:05:00", "2023-05-23"]
        ),
        st.sampled_from(["Bus", "Bar", "Metro", ""]),
        st.sampled_from(["", "", "1", "2"]),
        st.sampled_from(["train", "valid", "", "test", "evaluation"]),
    )
    columns = ["location", "record_time", "scene_label", "session", "split"]
    frame = pd.DataFrame(
        draw(st.lists(row, min_size=1, max_size=30)), columns=columns
    )
    frame["ID"] = [f"clip{i}" for i in range(len(frame))]
    return frame


def holdable(counts):
    return ~(counts == counts.sum()).any(axis=1)


@given(
    tables(),
    st.sampled_from(SPLITS),
    st.sampled_from([0.1, 0.2, 0.5, 0.9]),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
def test_what_holds_for_every_split(frame, by, share, seed, random):
    groups = frame["ID"] if by == "random" else find_groups(frame)[by]
    pool = frame["split"].isin(["train", "valid", ""])
    labelled = pool & (frame["scene_label"] != "")
    counts = pd.crosstab(groups[labelled], frame["scene_label"][labelled])
    if not holdable(counts).any():
        with pytest.raises(ValueError, match="held out|no labelled clips"):
            split(frame, by, share, seed)
        return

    before = frame.copy()
    column, notes = split(frame, by, share, seed)
    pd.testing.assert_frame_equal(frame, before)  # labels and all
    assert (column[~pool] == frame["split"][~pool]).all()
    assert set(column[pool]) == {"train", "valid"}
    assert (groups[pool].groupby(column[pool]).unique().explode()).is_unique
    in_training = set(frame["scene_label"][labelled & (column == "train")])
    assert in_training == set(frame["scene_label"][labelled])
    # No unlabelled clip is held out without a labelled one of its group.
    valid = labelled & (column == "valid")
    assert set(groups[pool & (column == "valid")]) == set(groups[valid])

    missing = set(counts.columns) - set(frame["scene_label"][valid])
    for label in counts.columns:
        said = [note for note in notes if note.startswith(f"{label}: ")]
        assert len(said) == (label in missing)

    order = random.sample(range(len(frame)), len(frame))
    again, same_notes = split(frame.iloc[order], by, share, seed)
    pd.testing.assert_series_equal(again.sort_index(), column)
    assert same_notes == notes


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3]))
@settings(max_examples=60)
def test_classes_and_shares_beside_all_possible_splits(seed, share):
    rng = np.random.default_rng(seed)
    n = rng.integers(4, 30)
    frame = pd.DataFrame({"ID": [f"clip{i:02d}" for i in range(n)]})
    frame["scene_label"] = rng.choice(list("abcd"), n)
    frame["session"] = rng.choice(list("1234567"), n)
    frame = frame.assign(location="", record_time="", split="train")
    counts = pd.crosstab(frame["session"], frame["scene_label"])
    assume(holdable(counts).any())
    column, _ = split(frame, "session", share, seed % 5)

    def quality(valid):
        distance = np.sqrt(np.mean((valid / total - share) ** 2))
        return np.sum(valid > 0), -distance

    total = counts.sum().to_numpy()
    best = (0, 0)
    for chosen in itertools.product([False, True], repeat=len(counts)):
        valid = counts.to_numpy()[list(chosen)].sum(0)
        if (valid < total).all():
            best = max(best, quality(valid))
    labels = frame["scene_label"][column == "valid"]
    classes, distance = quality(
        labels.value_counts().reindex(counts.columns, fill_value=0).to_numpy()
    )
    assert classes == best[0]
    assert distance >= best[1] - 0.05


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_at_least_as_close_as_stratified_group_k_fold(seed):
    frame = world(seed=seed)
    labelled = frame["scene_label"] != ""
    sessions = find_groups(frame)["session"][labelled]
    labels = frame["scene_label"][labelled].reset_index(drop=True)

    def distance(valid):
        shares = valid.groupby(labels).mean()
        return np.sqrt(np.mean((shares - 0.2) ** 2))

    column, _ = split(frame, "session", seed=seed)
    ours = (column[labelled] == "valid").reset_index(drop=True)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    theirs = [
        distance(pd.Series(np.isin(np.arange(len(labels)), valid)))
        for _, valid in folds.split(labels, labels, sessions)
    ]
    assert distance(ours) <= max(0.01, min(theirs))


def test_random_split_holds_out_what_stratified_shuffle_split_does():
    frame = world()
    labels = frame["scene_label"][frame["scene_label"] != ""]
    column, notes = split(frame, "random")
    ours = labels[column[labels.index] == "valid"].value_counts()
    splitter = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
    _, valid = next(splitter.split(labels, labels))
    theirs = labels.iloc[valid].value_counts()
    assert (ours - theirs).abs().max() <= 1
    assert (column[frame["scene_label"] == ""] == "train").all()
    assert "leaks" in notes[-1]


@pytest.mark.parametrize("by", SPLITS)
def test_seed_decides(by):
    frame = world()
    columns = [split(frame, by, seed=seed)[0] for seed in (1, 1, 2)]
    assert columns[0].equals(columns[1])
    if by != "city":  # four cities leave hardly a choice
        assert not columns[0].equals(columns[2])


def test_each_level_keeps_the_clips_of_the_ones_before_together():
    frame = world()
    groups = find_groups(frame)
    for level, by in enumerate(LEVELS):
        column, _ = split(frame, by)
        for finer in LEVELS[: level + 1]:
            sides = column.groupby(groups[finer]).nunique()
            assert (sides == 1).all()


def test_what_could_not_be_held_out_is_said():
    frame = world()
    column, notes = split(frame, "city")
    clips = (frame["scene_label"] == "Park").sum()
    _, shares, park = notes
    assert f"Park: all its clips ({clips}) lie in one city (D)" in park
    for label in ("Bar", "Bus", "Metro"):
        valid = column[frame["scene_label"] == label] == "valid"
        assert f"{label} {100 * valid.mean():.1f} %" in shares


def test_evaluation_clips_join_groups_but_are_left_as_they_are():
    times = ["10:00:00", "10:20:00", "10:10:00", "12:00:00", "14:00:00"]
    frame = pd.DataFrame({"ID": list("abcde"), "location": "Hefei"})
    frame["record_time"] = ["2023-05-21 " + time for time in times]
    frame["scene_label"] = ["Bus", "Bus", "", "Bus", "Bus"]
    frame["split"] = ["train", "train", "evaluation", "train", "train"]
    frame["session"] = ""
    for seed in range(5):
        column, _ = split(frame, "run", share=0.5, seed=seed)
        assert column[0] == column[1] and column[2] == "evaluation"
        assert column[3] == column[4] != column[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"by": "hour"}, "no split by 'hour'; choose from random, session"),
        ({"by": "run", "share": 0}, "share 0"),
        ({"by": "run", "share": 1.0}, "share 1.0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        split(world(), **options)


def test_one_city_alone_cannot_be_held_out():
    with pytest.raises(ValueError, match="nothing can be held out by city"):
        split(world().assign(location="A"), "city")
