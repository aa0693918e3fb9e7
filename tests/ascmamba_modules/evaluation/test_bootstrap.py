"""Intervals and tests over sessions, against enumeration and by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import (
    given,
    strategies as st,
)

from ascmamba_modules.evaluation.bootstrap import (
    interval_by_session,
    paired_test,
)
from ascmamba_modules.evaluation.scores import macro_accuracy


def test_interval_is_that_of_all_draws_of_sessions():
    # Three sessions of unequal size: all 27 draws can be listed.
    right = np.array([1, 1, 1, 0, 0, 1])
    sessions = np.array(list("aaabbc"))
    targets = np.array([0, 0, 1, 1, 0, 1])
    scores = []
    for drawn in product("abc", repeat=3):
        rows = np.concatenate([np.flatnonzero(sessions == s) for s in drawn])
        found = np.where(right[rows], targets[rows], 1 - targets[rows])
        scores.append(macro_accuracy(targets[rows], found))
    low, high = interval_by_session(
        right, sessions, targets, level=0.5, resamples=4000
    )
    for found, share in ((low, 0.25), (high, 0.75)):
        around = np.quantile(scores, [share - 0.05, share + 0.05])
        assert around[0] <= found <= around[1]
    assert low < high


def test_clips_of_one_session_are_not_taken_for_independent():
    right = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 25)
    sessions = np.repeat(np.arange(40), 25)
    low, high = interval_by_session(right, sessions)
    # Of 40 independent answers, not of 1000.
    deviation = np.sqrt(right.mean() * (1 - right.mean()) / 40)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    low, high = interval_by_session(right, np.arange(1000))
    assert high - low < deviation


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2)),
        min_size=1,
        max_size=20,
    )
)
def test_interval_holds_what_can_be(rows):
    right, sessions, targets = map(np.array, zip(*rows))
    low, high = interval_by_session(right, sessions, targets, resamples=50)
    if len(set(sessions)) == 1:
        assert np.isnan(low) and np.isnan(high)
    else:
        assert 0 <= low <= high <= 1
        if right.all():
            assert low == 1


def test_paired_test_counts_the_swaps_of_sessions():
    rng = np.random.default_rng(0)
    sessions = np.repeat(np.arange(7), 3)
    targets = rng.integers(0, 2, 21)
    first = rng.integers(0, 2, 21).astype(float)
    second = rng.integers(0, 2, 21).astype(float)

    def score(values):
        return np.mean([values[targets == c].mean() for c in (0, 1)])

    observed = score(first) - score(second)
    swapped = []
    for swap in product((False, True), repeat=7):
        mask = np.array(swap)[sessions]
        a, b = np.where(mask, second, first), np.where(mask, first, second)
        swapped.append(score(a) - score(b))
    extreme = np.abs(swapped) >= abs(observed) - 1e-12
    difference, p_value = paired_test(first, second, sessions, targets)
    assert difference == pytest.approx(observed)
    assert p_value == pytest.approx(extreme.mean(), abs=1e-9)


def test_paired_test_of_nothing_to_tell_apart():
    same = np.ones(6)
    assert paired_test(same, same, list("aabbcc")) == (0.0, 1.0)
    assert paired_test(same, 0 * same, ["a"] * 6) == (1.0, 1.0)
