"""What happens to place and time, and to nothing else."""

import pandas as pd
import pytest
from hypothesis import (
    given,
    strategies as st,
)

from ascmamba_modules.evaluation.perturbations import (
    hide_place_and_time,
    move_to_unseen,
    shuffle_place_and_time,
)

SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.5, 0.7, 1.0])


def make_table(n):
    table = pd.DataFrame({"ID": [f"clip{i}" for i in range(n)]})
    table["location"] = [f"city{i}" for i in range(n)]
    table["record_time"] = [f"2023-05-21 10:00:{i:02d}" for i in range(n)]
    # Labels of rows that are neither in order nor a range.
    return table.set_index(pd.Index([7 * i % 61 for i in range(n)]))


@given(st.integers(0, 60), SHARES, st.integers(0, 5))
def test_shuffling_exchanges_pairs(n, share, seed):
    table = make_table(n)
    shuffled = shuffle_place_and_time(table, share, seed)
    pd.testing.assert_series_equal(shuffled["ID"], table["ID"])
    pairs = list(zip(table["location"], table["record_time"]))
    found = list(zip(shuffled["location"], shuffled["record_time"]))
    assert sorted(found) == sorted(pairs)
    changed = sum(a != b for a, b in zip(found, pairs))
    expected = round(share * n)
    assert changed == (expected if expected > 1 else 0)
    pd.testing.assert_frame_equal(table, make_table(n))


@given(st.integers(0, 60), SHARES, st.integers(0, 5))
def test_moving_changes_places_alone(n, share, seed):
    table, places = make_table(n), ["Nanchang", "Taiyuan"]
    moved = move_to_unseen(table, places, share, seed)
    columns = ["ID", "record_time"]
    pd.testing.assert_frame_equal(moved[columns], table[columns])
    changed = moved["location"] != table["location"]
    assert changed.sum() == round(share * n)
    assert set(moved.loc[changed, "location"]) <= set(places)


def test_seeds_differ_and_repeat():
    table = make_table(50)
    for change in (
        shuffle_place_and_time,
        lambda *args: move_to_unseen(args[0], ["A", "B"], *args[1:]),
    ):
        first = change(table, 0.5, 1)
        assert first.equals(change(table, 0.5, 1))
        assert not first.equals(change(table, 0.5, 2))


def test_hiding():
    hidden = hide_place_and_time(make_table(3))
    assert set(hidden["location"]) == set(hidden["record_time"]) == {""}


@pytest.mark.parametrize("share", [-0.1, 5])
def test_shares_are_no_percentages(share):
    with pytest.raises(ValueError, match="choose one from 0 to 1"):
        shuffle_place_and_time(make_table(3), share, 0)
