"""Plots: that they show what the tables say, and that it can be read."""

from itertools import combinations

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from ascmamba_modules.evaluation.scores import per_class_table
from ascmamba_modules.plots import (
    plot_bars,
    plot_confusion,
    plot_curves,
    plot_embedding,
    plot_pseudo_labels,
    plot_recalls,
    plot_reliability,
    plot_similarity,
    plot_spectrogram,
    save_figure,
)
from ascmamba_modules.plots.style import COLOURS, FADED_TEXT

LONG = "a class or model whose name is long, $ and 100 % of {it}"


def names(n):
    """The first and the last are long."""
    return [f"{i} {LONG}" if i in (0, n - 1) else f"name {i}" for i in range(n)]


def recalls(n):
    targets = np.arange(40 * n) % (n - 1)  # the last class has no clips
    return plot_recalls(per_class_table(targets, targets, names(n)), LONG)


def confusion(n):
    matrix = np.full((n, n), 1234)
    matrix[0, 1:] = 0  # 100 % in one cell
    return plot_confusion(matrix, names(n), LONG)


def reliability(n):
    bins = pd.DataFrame({"confidence": np.linspace(0, 1, 15)})
    bins = bins.assign(accuracy=bins["confidence"], clips=123456)
    return plot_reliability(dict.fromkeys(names(min(n, 3)), bins), LONG)


def similarity(n):
    return plot_similarity(0.99999 + 1e-6 * np.arange(n), 0.999995, LONG)


def curves(n):
    x = [0, 5, 10, 20, 50, 70, 100]
    rows = pd.MultiIndex.from_product([names(n), x], names=["model", "x"])
    rows = rows.to_frame(index=False).assign(value=0.5, lower=0.4, upper=0.6)
    return plot_curves(rows, "in %", LONG)


def bars(n):
    rows = pd.MultiIndex.from_product([names(n), names(5)])
    rows = rows.set_names(["model", "condition"]).to_frame(index=False)
    rows = rows.assign(value=1.0, lower=0.9, upper=1, clips=98765)
    return plot_bars(rows, LONG)


def embedding(n):
    points = np.random.default_rng(0).normal(size=(n * 3, 2))
    return plot_embedding(points, names(n) * 3, LONG)


def spectrogram(n):
    return plot_spectrogram(-np.random.rand(50 * n, 64), 0.02, LONG)


def pseudo_labels(n):
    chosen = pd.DataFrame(
        {"scene_label": names(n), "confidence": 0.5, "step": np.arange(n) % 3}
    )
    counts = pd.DataFrame(9, ["step 1", "step 2", "rejected"], names(n))
    return plot_pseudo_labels(chosen, counts)


def are_apart(boxes):
    return not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def text_boxes(artists):
    return [
        text.get_window_extent()
        for text in artists
        if text.get_visible() and text.get_text()
    ]


def texts(artists):
    return [text.get_text() for text in artists]


@pytest.mark.parametrize("n", [2, 15])
@pytest.mark.parametrize(
    "draw",
    [
        recalls,
        confusion,
        reliability,
        similarity,
        curves,
        bars,
        embedding,
        spectrogram,
        pseudo_labels,
    ],
)
def test_nothing_overlaps_or_is_cut(draw, n):
    figure = draw(n)
    figure.draw_without_rendering()
    assert figure.get_suptitle()
    around = [figure._suptitle.get_window_extent()]
    around += [legend.get_window_extent() for legend in figure.legends]
    for axes in figure.axes:
        assert are_apart(text_boxes(axes.get_xticklabels()))
        assert are_apart(text_boxes(axes.get_yticklabels()))
        assert are_apart(text_boxes(axes.texts))
        around.append(axes.get_tightbbox())
    if len(figure.axes) == 1:
        assert are_apart(around)
    for legend in figure.legends:
        assert are_apart(text_boxes(legend.get_texts()))
    for box in around:
        assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1


def test_recalls():
    targets = [0] * 12 + [2]
    table = per_class_table(targets, [1] * 3 + targets[3:], ["a", "b", "c"])
    (axes,) = plot_recalls(table).axes
    assert texts(axes.get_yticklabels()) == ["a", "b", "c", "macro average"]
    shown = ["75.0 %  (12)", "no clips", "100.0 %  (1)", "87.5 %  (13)"]
    assert texts(axes.texts) == shown
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([75, 0, 100, 87.5])
    # Few clips are pale.
    assert [bar.get_alpha() for bar in axes.patches] == [None, 0.4, 0.4, None]
    colours = [text.get_color() == FADED_TEXT for text in axes.texts]
    assert colours == [False, True, True, False]
    (bottom, top) = axes.get_ylim()
    assert bottom > top  # the first class on top


def test_confusion_shows_shares_of_the_true_class():
    matrix = np.array([[30, 10, 0], [0, 0, 0], [1, 0, 1999]])
    (axes,) = plot_confusion(matrix, ["a", "b", "c"]).axes
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "75", (1, 0): "25", (0, 2): "<1", (2, 2): "100"}
    np.testing.assert_allclose(
        axes.images[0].get_array(),
        [[75, 25, 0], [0, 0, 0], [0.05, 0, 99.95]],
    )
    labels = axes.get_yticklabels()
    assert texts(labels) == ["a (40)", "b (0)", "c (2,000)"]
    faded = [label.get_color() == FADED_TEXT for label in labels]
    assert faded == [False, True, False]


def luminance(colour):
    """Relative luminance of the Web Content Accessibility Guidelines 2.1."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(
        rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(*colours):
    light = sorted(map(luminance, colours))
    return (light[1] + 0.05) / (light[0] + 0.05)


def test_text_can_be_read_on_its_background():
    shares = np.arange(1, 100, 2)
    matrix = np.zeros((50, 50), int)
    matrix[:, 0], matrix[:, 1] = shares, 100 - shares
    (axes,) = plot_confusion(matrix, [str(i) for i in range(50)]).axes
    image = axes.images[0]
    for text in axes.texts:
        column, row = text.get_position()
        paper = image.cmap(image.norm(image.get_array()[row, column]))
        assert contrast(text.get_color(), paper[:3]) > 4.5  # level AA
    assert contrast(FADED_TEXT, "white") > 4.5


def test_reliability():
    bins = pd.DataFrame(
        {"confidence": [0.3, 0.9], "accuracy": [0.5, 0.8], "clips": [3, 70]}
    )
    after = bins.assign(confidence=[0.4, 0.8])
    figure = plot_reliability({"before": bins, "after": after})
    upper, lower = figure.axes
    shown = ["before", "after", "perfect calibration"]
    assert texts(figure.legends[0].get_texts()) == shown
    diagonal, *lines = upper.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    for line, dots, table in zip(lines, lower.lines, (bins, after)):
        np.testing.assert_allclose(
            line.get_xydata(), 100 * table[["confidence", "accuracy"]]
        )
        np.testing.assert_allclose(dots.get_ydata(), table["clips"])
        assert line.get_color() == dots.get_color()
    assert lines[0].get_color() != lines[1].get_color()


def test_similarity_counts_what_is_above_the_threshold():
    values = np.r_[np.full(5, 0.2), np.full(2, 0.9), np.full(4, 0.95)]
    figure = plot_similarity(values, 0.9)
    shown = texts(figure.legends[0].get_texts())
    assert shown[:2] == ["Valid-Easy: 7 clips", "Valid-Hard: 4 clips"]
    easy, hard = figure.axes[0].containers
    assert sum(bar.get_height() for bar in easy) == 7
    assert sum(bar.get_height() for bar in hard) == 4
    assert "median 0.9," in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_similarities_all_alike(threshold):
    figure = plot_similarity(np.full(3, 0.9), threshold)
    figure.draw_without_rendering()
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 3


def test_curves():
    table = pd.DataFrame(
        {
            "model": ["b", "a", "b", "a"],
            "x": [50, 5, 5, 50],
            "value": [0.5, 0.75, 0.7, np.nan],
            "lower": [0.4, np.nan, 0.6, np.nan],
            "upper": [0.6, np.nan, 0.8, np.nan],
        }
    )
    figure = plot_curves(table, "clips shuffled in %")
    (axes,) = figure.axes
    assert texts(figure.legends[0].get_texts()) == ["b", "a"]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[5, 70], [50, 50]])
    np.testing.assert_allclose(
        axes.lines[1].get_xydata(), [[5, 75], [50, np.nan]]
    )
    band = axes.collections[0].get_paths()[0].vertices
    corners = {(5, 60), (5, 80), (50, 40), (50, 60)}
    assert set(map(tuple, band.round(6))) == corners
    assert texts(axes.get_xticklabels()) == ["5", "50"]
    assert axes.get_xlabel() == "clips shuffled in %"
    assert axes.get_ylabel() == "macro accuracy in %"


@pytest.mark.parametrize("value", [0.0, 0.97, 1.0])
def test_curve_at_the_end_of_the_scale_is_inside(value):
    table = pd.DataFrame({"model": "a", "x": [1, 2], "value": value})
    (axes,) = plot_curves(table.assign(lower=value, upper=value), "x").axes
    low, high = axes.get_ylim()
    assert low < 100 * value < high and high - low >= 20


def test_bars():
    table = pd.DataFrame(
        {
            "model": ["a", "b", "b", "a"],
            "condition": ["seen", "seen", "unseen", "unseen"],
            "value": [0.9, 0.8, np.nan, 0.5],
            "lower": [0.85, np.nan, np.nan, 0.4],
            "upper": [0.95, np.nan, np.nan, 0.7],
            "clips": [1000, 1000, 0, 9],
        }
    )
    figure = plot_bars(table)
    (axes,) = figure.axes
    bars = axes.patches
    assert [bar.get_width() for bar in bars] == [90, 80, 50, 0]
    assert [bar.get_facecolor()[3] for bar in bars] == [1, 1, 0.4, 0.4]
    colours = [bar.get_facecolor()[:3] for bar in bars]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    assert texts(axes.texts) == ["90.0", "80.0", "50.0", "no clips"]
    labels = axes.get_yticklabels()
    shown = ["seen\n(1,000 clips)", "unseen\n(0 to 9 clips)"]
    assert texts(labels) == shown
    assert [text.get_color() == FADED_TEXT for text in labels] == [False, True]
    whiskers = [
        tuple(segment[:, 0])
        for collection in axes.collections
        for segment in collection.get_segments()
    ]
    assert np.ravel(whiskers) == pytest.approx([85, 95, 40, 70])
    assert texts(figure.legends[0].get_texts()) == ["a", "b"]
    assert axes.get_xlabel() == "macro accuracy in %"


def test_interval_beside_its_value_is_drawn():
    row = {"model": "a", "condition": "b", "value": 0.5, "clips": 100}
    table = pd.DataFrame([{**row, "lower": 0.6, "upper": 0.7}])
    (axes,) = plot_bars(table).axes
    (whisker,) = axes.collections[0].get_segments()
    assert whisker[:, 0] == pytest.approx([50, 70])


def test_conditions_without_some_models_have_no_gaps():
    table = pd.DataFrame(
        [("a", "all"), ("b", "all"), ("b", "one"), ("a", "two"), ("b", "two")],
        columns=["model", "condition"],
    ).assign(value=0.5, lower=0.4, upper=0.6, clips=1)
    (axes,) = plot_bars(table).axes
    places = sorted(bar.get_y() for bar in axes.patches)
    # Two bars of a condition touch; between conditions there is a gap.
    assert np.diff(places) == pytest.approx([1, 2.5, 2.5, 1])
    assert axes.get_yticks() == pytest.approx([0.5, 3.5, 6.5])
    assert texts(axes.get_yticklabels())[1] == "one\n(1 clip)"


def test_embedding_tells_groups_apart_without_colours():
    points = np.arange(48.0).reshape(24, 2)
    groups = [f"city {i:02d}" for i in range(24)]
    figure = plot_embedding(points, groups[::-1])
    (axes,) = figure.axes
    assert texts(figure.legends[0].get_texts()) == [f"{g} (1)" for g in groups]
    for dots, point in zip(axes.collections, points[::-1]):
        np.testing.assert_allclose(dots.get_offsets(), [point])
    looks = [
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
        for dots in axes.collections
    ]
    assert len(set(looks)) == 24
    for (colour, marker), (next_colour, next_marker) in zip(looks, looks[1:]):
        assert colour != next_colour and marker != next_marker


def test_spectrogram():
    features = np.arange(12.0).reshape(4, 3)
    figure = plot_spectrogram(features, 0.5)
    image = figure.axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), features.T)
    assert image.origin == "lower"
    assert image.get_extent() == [0, 2, 0, 3]
    assert figure.axes[1].get_ylabel() == "dB"


def test_colours_are_seen_on_white_and_by_the_colour_blind():
    assert all(contrast(colour, "white") > 2 for colour in COLOURS)
    # Deuteranopia; source: G. Machado et al., "A Physiologically-based Model
    # for Simulation of Color Vision Deficiency", 2009, severity 1.
    seen = np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    )
    rgb = np.array([to_rgb(colour) for colour in COLOURS])
    linear = np.where(
        rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    linear = np.clip(linear @ seen.T, 0, 1)
    for a, b in combinations(linear ** (1 / 2.4), 2):
        assert np.linalg.norm(a - b) > 0.1


def test_figures_are_written_whole(tmp_path):
    figure = spectrogram(2)
    save_figure(figure, tmp_path / "new" / "a.png")
    with pytest.raises(ValueError):
        save_figure(figure, tmp_path / "new" / "a.xyz")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    height, width, _ = matplotlib.image.imread(tmp_path / "new/a.png").shape
    assert width / height == pytest.approx(4.5 / 2.6, rel=0.01)
