"""The figure of classes against places and hours: what it draws."""

import numpy as np
import pandas as pd
import pytest

from ascmamba_modules.plots.metadata import plot_metadata


def table(places, times, labels):
    frame = pd.DataFrame({"location": places, "record_time": times})
    frame["ID"] = [f"clip{i}" for i in range(len(frame))]
    return frame.assign(scene_label=labels)


@pytest.fixture
def clips():
    return table(
        ["Hefei"] * 4 + ["Jinan"] * 2 + ["", "Xi'an"],
        ["2023-05-21 10:00:00"] * 4
        + ["2023-05-21 23:59:00", "2023-05-21", "", "2023-05-21 00:30:00"],
        ["Bus"] * 4 + ["Bar"] * 3 + [""],
    )


def circles(axes, classes):
    """{(column, class): area} by the names at the axes' ticks."""
    columns = [text.get_text() for text in axes.get_xticklabels()]
    collection = axes.collections[0]
    return {
        (columns[round(x)], classes[round(y)]): area
        for (x, y), area in zip(
            collection.get_offsets(), collection.get_sizes()
        )
    }


def test_areas_are_the_numbers_of_labelled_clips(clips):
    by_place, by_hour = plot_metadata(clips).axes
    classes = [text.get_text() for text in by_place.get_yticklabels()]
    for axes, expected in (
        (
            by_place,
            {
                ("Hefei", "Bus"): 4,
                ("Jinan", "Bar"): 2,
                ("unknown", "Bar"): 1,
            },
        ),
        (by_hour, {("10", "Bus"): 4, ("23", "Bar"): 1, ("unknown", "Bar"): 2}),
    ):
        areas = circles(axes, classes)
        scale = areas[next(iter(expected))] / 4
        counts = {key: area / scale for key, area in areas.items()}
        assert counts == pytest.approx(expected)
    assert len(by_hour.get_xticklabels()) == 25


def test_places_with_few_clips_share_a_column():
    places = [f"place {i:02d}" for i in range(40)] * 2
    places += [f"place {i:02d}" for i in range(29)]
    times, labels = "2023-05-21 10:00:00", "Bus"
    by_place, _ = plot_metadata(table(places, times, labels)).axes
    names = [text.get_text() for text in by_place.get_xticklabels()]
    assert names == ["11 others"] + [f"place {i:02d}" for i in range(29)]


@pytest.mark.parametrize("n_places, n_classes", [(3, 2), (30, 13)])
def test_nothing_overlaps(n_places, n_classes):
    n = n_places * n_classes * 24
    clips = table(
        [f"a place of the name {i % n_places}" for i in range(n)],
        [f"2023-05-21 {i % 24:02d}:00:00" for i in range(n)],
        [f"class {i // 24 % n_classes}" for i in range(n)],
    )
    clips.loc[0, "record_time"] = ""
    figure = plot_metadata(clips)
    figure.draw_without_rendering()
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [
                label.get_window_extent()
                for label in labels
                if label.get_visible()
            ]
            for a, b in zip(boxes, boxes[1:]):
                assert not a.overlaps(b)
        scatter = axes.collections[0]
        diameter = np.sqrt(scatter.get_sizes().max()) * figure.dpi / 72
        (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)])
        assert diameter <= min(abs(x1 - x0), abs(y1 - y0))
    legend = figure.axes[1].get_legend().get_window_extent()
    assert not legend.overlaps(figure.axes[1].get_window_extent())
    assert legend.x1 <= figure.bbox.x1


def test_nothing_to_plot(clips):
    with pytest.raises(ValueError, match="no clip has a scene_label"):
        plot_metadata(clips.assign(scene_label=""))
