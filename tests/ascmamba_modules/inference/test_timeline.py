"""Segments of a timeline, by hand and by rule, and its plot."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import (
    given,
    strategies as st,
)

from ascmamba_modules.inference.timeline import Timeline

CLASSES = ["Bus", "Bar", "Park"]


def test_segments_by_hand():
    # Windows of 10 s every 4 s; the last is moved back to the end at 20 s.
    posteriors = [
        [0.8, 0.1, 0.1],
        [0.6, 0.3, 0.1],
        [0.1, 0.9, 0.0],
        [0.3, 0.4, 0.3],
    ]
    timeline = Timeline([0, 4, 8, 10], [10, 14, 18, 20], posteriors, CLASSES)
    # Centres 5, 9, 13, 15: taken over at 7, 11 and 14 s.
    assert timeline.boundaries().tolist() == [0, 7, 11, 14, 20]
    expected = pd.DataFrame(
        {
            "start": [0.0, 11.0],
            "end": [11.0, 20.0],
            "scene_label": ["Bus", "Bar"],
            "probability": [
                (7 * 0.8 + 4 * 0.6) / 11,
                (3 * 0.9 + 6 * 0.4) / 9,
            ],
        }
    )
    pd.testing.assert_frame_equal(
        timeline.segments(), expected, check_dtype=False
    )


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.floats(0.1, 9))
def test_segments_are_the_windows_joined(best, hop):
    starts = hop * np.arange(len(best))
    posteriors = np.full((len(best), 3), 0.2)
    posteriors[np.arange(len(best)), best] = 0.6
    timeline = Timeline(starts, starts + 10, posteriors, CLASSES)
    segments, bounds = timeline.segments(), timeline.boundaries()
    # They cover the recording, and neighbours differ.
    assert segments["start"].iloc[0] == 0
    assert segments["end"].iloc[-1] == starts[-1] + 10
    assert (segments["end"][:-1].values == segments["start"][1:].values).all()
    labels = segments["scene_label"].tolist()
    assert all(a != b for a, b in zip(labels, labels[1:]))
    assert np.allclose(segments["probability"], 0.6)
    # In the middle of what a window speaks for, its class is the segment's.
    for time, index in zip((bounds[1:] + bounds[:-1]) / 2, best):
        inside = (segments["start"] < time) & (time < segments["end"])
        assert segments["scene_label"][inside].tolist() == [CLASSES[index]]


@pytest.mark.parametrize("windows", [1, 50])
def test_plot_shows_posteriors_and_segments(windows):
    posteriors = np.random.default_rng(0).dirichlet([1, 1, 1], windows)
    starts = 3600.0 * np.arange(windows)
    timeline = Timeline(starts, starts + 3600, posteriors, CLASSES)
    figure = timeline.plot()
    figure.draw_without_rendering()
    axes = figure.axes[0]
    mesh, lines = axes.collections
    assert np.allclose(mesh.get_array(), posteriors.T)
    assert len(lines.get_segments()) == len(timeline.segments())
    assert [t.get_text() for t in axes.get_yticklabels()] == CLASSES
    top, bottom = axes.transData.transform([(0, 0), (0, 2)])[:, 1]
    assert top > bottom
    if windows == 50:
        assert "12:00:00" in [t.get_text() for t in axes.get_xticklabels()]


def test_classes_may_have_the_names_of_columns():
    names = ["start", "end", "Bus"]
    posteriors = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]
    timeline = Timeline([0, 5], [10, 15], posteriors, names)
    assert timeline.table.columns.tolist() == [
        *("start", "end", "scene_label", "p(start)", "p(end)", "Bus")
    ]
    plain = Timeline([0, 5], [10, 15], posteriors, CLASSES)
    columns = ["start", "end", "probability"]
    pd.testing.assert_frame_equal(
        timeline.segments()[columns], plain.segments()[columns]
    )
