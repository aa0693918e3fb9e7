"""Sessions, runs and groups: by hand, by brute force, on true metadata."""

import itertools

import networkx
import pandas as pd
import pytest
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from ascmamba_modules.data.place_and_time import time_text
from ascmamba_modules.data.sessions import (
    LEVELS,
    find_groups,
    find_places,
    find_runs,
    find_sessions,
    find_times,
    summarise,
)


def table(rows, **columns):
    """Rows of (place, time of 2023-05-21, class or nothing)."""
    frame = pd.DataFrame(rows, columns=["location", "clock", "scene_label"])
    frame["record_time"] = ["2023-05-21 " + clock for clock in frame["clock"]]
    frame["ID"] = [f"clip{i}" for i in range(len(frame))]
    frame = frame.assign(session="", split="train")
    return frame.assign(**columns)


def test_figures_of_the_true_metadata(cas):
    counts = summarise(cas)
    assert counts.drop("clips per evaluation run").to_dict() == {
        "development clips": 8700,
        "labelled clips": 1740,
        "unlabelled clips": 6960,
        "evaluation clips": 1100,
        "development sessions": 328,
        "labelled sessions": 309,
        "labelled sessions of one class": 309,
        "unlabelled clips in a labelled session": 6826,
        "evaluation clips in a development session": 248,
        "evaluation clips in a labelled session": 247,
        "runs": 113,
        "labelled runs": 78,
        "labelled runs of one class": 77,
        "unlabelled clips in a labelled run": 6938,
        "evaluation runs": 46,
    }
    assert counts["clips per evaluation run"] == pytest.approx(24, abs=0.1)
    # Files of one recorder are the same to it and to the second.
    assert "Xi'an 2023-06-18 18:44:34" in set(find_sessions(cas))


def test_figures_counted_by_hand():
    rows = table(
        [
            # One run of three sessions, the last unlabelled.
            ("Hefei", "10:00:00", "Bus"),
            ("Hefei", "10:00:00", ""),
            ("Hefei", "10:10:01", "Bus"),
            ("Hefei", "10:20:00", ""),
            # Another city, at the period's distance: a run of its own, with
            # a session of two classes.
            ("Jinan", "10:10:00", "Bus"),
            ("Jinan", "10:10:00", "Bar"),
            # Two seconds too late: a run of its own.
            ("Jinan", "10:20:02", ""),
            # Evaluation: one in a labelled session, one in a session that
            # is not, one that only chains to a run, one new.
            ("Hefei", "10:00:00", ""),
            ("Hefei", "10:20:00", ""),
            ("Hefei", "10:30:00", ""),
            ("Xi'an", "10:00:00", ""),
        ]
    )
    rows.loc[7:, "split"] = "evaluation"
    assert summarise(rows).to_dict() == {
        "development clips": 7,
        "labelled clips": 4,
        "unlabelled clips": 3,
        "evaluation clips": 4,
        "development sessions": 5,
        "labelled sessions": 3,
        "labelled sessions of one class": 2,
        "unlabelled clips in a labelled session": 1,
        "evaluation clips in a development session": 2,
        "evaluation clips in a labelled session": 1,
        "runs": 4,
        "labelled runs": 2,
        "labelled runs of one class": 1,
        "unlabelled clips in a labelled run": 2,
        "evaluation runs": 2,
        "clips per evaluation run": 2.0,
    }


def test_same_place_and_time_however_written():
    rows = table([("Xi'an", "", "")] * 6)
    rows["location"] = ["Xi'an", "xi’an", " XI'AN ", "Xi'an", "Xi'an", "Xi'an"]
    rows["record_time"] = [
        "2023-05-21 10:00:00",
        "2023-05-21T10:00",
        "2023-05-21 10:00:00.250",
        "2023-05-21T10:00:00+08:00",  # by the clock there
        "2023-05-21T10:00:00Z",
        "2023-05-21 10:00:01",
    ]
    *same, other = find_sessions(rows)
    assert set(same) == {"XI'AN 2023-05-21 10:00:00"}
    assert other == "XI'AN 2023-05-21 10:00:01"


def test_unknown_place_or_time_is_grouped_only_as_far_as_stated():
    rows = table([("Hefei", "10:00:00", "")] * 8)
    rows["location"] = ["", "", "Hefei", "Hefei", "", "Hefei", "Hefei", "Hefei"]
    rows.loc[[2, 3, 4], "record_time"] = ""
    rows.loc[[5, 6], "record_time"] = "2023-05-21"
    rows["session"] = ["", "user1", "", "user2", "user1", "", "", ""]
    assert list(find_sessions(rows)) == [
        "clip0",
        "user1",
        "clip2",
        "user2",
        "user1",
        "Hefei 2023-05-21",
        "Hefei 2023-05-21",
        "Hefei 2023-05-21 10:00:00",
    ]
    groups = find_groups(rows)
    assert list(groups["city_day"]) == [
        "clip0",
        "user1",
        "clip2",
        "user2",
        "user1",
        *["Hefei 2023-05-21"] * 3,
    ]
    assert list(groups["city"]) == [
        "clip0",
        "user1",
        "Hefei",
        "Hefei",
        "user1",
        *["Hefei"] * 3,
    ]


def test_no_times_at_all():
    rows = table([("Hefei", "", "Bus")] * 2, record_time="")
    assert list(find_runs(rows)) == ["clip0", "clip1"]


def test_a_run_past_midnight_joins_two_days():
    rows = table([("Hefei", "23:55:00", ""), ("Hefei", "12:00:00", "")])
    rows["record_time"] = ["2023-05-21 23:55:00", "2023-05-22 00:05:00"]
    assert set(find_groups(rows)["city_day"]) == {"Hefei 2023-05-21"}
    rows.loc[1, "record_time"] = "2023-05-22 00:06:00"
    apart = find_groups(rows)["city_day"]
    assert list(apart) == ["Hefei 2023-05-21", "Hefei 2023-05-22"]


def test_a_stated_session_of_several_files_is_in_one_run():
    rows = table(
        [("Hefei", t, "") for t in ("10:00:00", "10:03:00", "10:13:00")]
    )
    rows["session"] = ["walk", "walk", ""]
    assert set(find_runs(rows)) == {"walk"}


PLACES = st.sampled_from(["Hefei", "Jinan", ""])
# Many pairs at, just within and just beyond the period's tolerance.
SECONDS = st.sampled_from(
    [600 * k + jitter for k in range(5) for jitter in (-1, 0, 1, 2, 300)]
)
ROWS = st.lists(
    st.tuples(PLACES, st.none() | SECONDS, st.sampled_from(["", "", "", "s"])),
    min_size=1,
    max_size=12,
)


def drawn_table(rows):
    start = pd.Timestamp("2023-05-21 23:30:00")
    frame = pd.DataFrame(rows, columns=["location", "seconds", "session"])
    frame["record_time"] = [
        "" if pd.isna(s) else str(start + pd.Timedelta(seconds=s))
        for s in frame["seconds"]
    ]
    frame["ID"] = [f"clip{i}" for i in range(len(frame))]
    return frame


def partition(names, ids):
    return {frozenset(part) for part in ids.groupby(names).agg(list)}


@given(ROWS)
@settings(max_examples=100)
def test_runs_are_the_connected_sessions(rows):
    frame = drawn_table(rows)
    graph = networkx.Graph()
    sessions = find_sessions(frame)
    graph.add_nodes_from(sessions)
    known = (frame["location"] != "") & frame["seconds"].notna()
    clips = list(
        zip(sessions[known], frame[known]["location"], frame[known]["seconds"])
    )
    for (a, here, s), (b, there, t) in itertools.combinations(clips, 2):
        if here == there and abs(abs(s - t) - 600) <= 1:
            graph.add_edge(a, b)
    expected = {
        frozenset(frame["ID"][sessions.isin(part)])
        for part in networkx.connected_components(graph)
    }
    assert partition(find_runs(frame), frame["ID"]) == expected


@given(ROWS, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_groups_are_nested_and_the_order_of_rows_does_not_matter(rows, random):
    frame = drawn_table(rows)
    groups = find_groups(frame)
    for inner, outer in itertools.pairwise(LEVELS):
        assert (groups.groupby(inner)[outer].nunique() == 1).all()
    places = find_places(frame)
    for city in set(places) - {""}:
        assert groups.loc[places == city, "city"].nunique() == 1
    order = random.sample(range(len(frame)), len(frame))
    shuffled = find_groups(frame.iloc[order])
    pd.testing.assert_frame_equal(shuffled.sort_index(), groups)


@pytest.mark.parametrize(
    "text",
    ["noon", "now", "10:00:00", "2023-13-01", "2023-05-21 10:00:00+99:99"],
)
def test_time_that_does_not_parse_is_named(text):
    with pytest.raises(ValueError):
        time_text(text)
    rows = table([("Hefei", "10:00:00", "")] * 3)
    rows.loc[1, "record_time"] = text
    with pytest.raises(ValueError) as error:
        find_times(rows)
    assert "ID clip1" in str(error.value) and f"'{text}'" in str(error.value)
