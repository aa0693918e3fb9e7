"""Plots of clips: how like each other they are, and one alone."""

import numpy as np

from ascmamba_modules.plots.style import (
    BLUE,
    NARROW,
    ORANGE,
    add_legend,
    colour_and_marker,
    legend_height,
    new_figure,
    shown_name,
    tidy,
)


def plot_similarity(similarities, threshold):
    """Draws how near validation clips are to the evaluation set.

    Arguments
    ---------
    similarities : array-like
        Cosine similarities (clips).
    threshold : float
        Clips above it are Valid-Hard, the others Valid-Easy.

    Returns
    -------
    matplotlib.figure.Figure
        Histogram, with the threshold and the numbers of clips.

    Example
    -------
    >>> legend = plot_similarity([0.5, 0.92, 0.95], 0.9).legends[0]
    >>> [text.get_text() for text in legend.get_texts()]
    ['Valid-Easy: 1 clip', 'Valid-Hard: 2 clips', 'threshold 0.9']
    """
    similarities = np.asarray(similarities, float)
    is_hard = similarities > threshold
    groups = similarities[~is_hard], similarities[is_hard]
    values = [*similarities, threshold]
    n_bins = int(np.clip(2 * np.sqrt(len(similarities)), 10, 40))
    figure = new_figure(NARROW, 3.6)
    axes = figure.subplots()
    *_, (easy, hard) = axes.hist(
        groups,
        bins=np.histogram_bin_edges(values, n_bins),
        stacked=True,
        color=[BLUE, ORANGE],
    )
    line = axes.axvline(threshold, color="black", ls="--")
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=4)
    axes.yaxis.get_major_locator().set_params(integer=True)
    low, median, high = np.quantile(similarities, (0.05, 0.5, 0.95))
    axes.set_xlabel(
        "cosine similarity to the evaluation set\n"
        f"(median {median:.6g}, 90 % of clips from {low:.6g} to {high:.6g})"
    )
    axes.set_ylabel("clips")
    tidy(axes)
    counts = [
        f"{name}: {len(group):,} clip{'' if len(group) == 1 else 's'}"
        for name, group in zip(("Valid-Easy", "Valid-Hard"), groups)
    ]
    add_legend(
        figure, [easy, hard, line], [*counts, f"threshold {threshold:g}"]
    )
    return figure


def plot_embedding(coordinates, groups, title):
    """Draws a map of clips, coloured by group.

    Arguments
    ---------
    coordinates : array-like
        (clips, 2).
    groups : list
        Name of each clip's group, such as its class or its city; up to 64.
    title : str
        What the groups are.

    Returns
    -------
    matplotlib.figure.Figure
        A colour and a marker for each group, in the order of their names.
        The axes have no scale, since such maps have none.

    Example
    -------
    >>> figure = plot_embedding([[0, 1], [1, 0], [1, 1]], list("bab"), "city")
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['a (1)', 'b (2)']
    """
    coordinates, groups = np.asarray(coordinates), np.asarray(groups)
    names, counts = np.unique(groups, return_counts=True)
    labels = [
        f"{shown_name(name)} ({clips:,})" for name, clips in zip(names, counts)
    ]
    # The legend grows downwards, so that the map keeps its size.
    figure = new_figure(NARROW, NARROW + legend_height(labels))
    axes = figure.subplots()
    size = np.clip(3000 / len(groups), 12, 45)  # square points
    dots = []
    for number, name in enumerate(names):
        colour, marker = colour_and_marker(number)
        dots.append(
            axes.scatter(
                *coordinates[groups == name].T,
                s=size,
                color=colour,
                marker=marker,
                alpha=0.75,
                linewidths=0,
            )
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(shown_name(title, 50), fontsize=10)
    add_legend(figure, dots, labels, loc="outside lower left", markerscale=1.3)
    return figure


def plot_spectrogram(features, hop_seconds, title):
    """Draws the features of one clip.

    Arguments
    ---------
    features : array-like
        Log-mel spectrogram in dB (time, mels).
    hop_seconds : float
        Seconds from one frame to the next.
    title : str
        What the clip is.

    Returns
    -------
    matplotlib.figure.Figure
        Low bands at the bottom.

    Example
    -------
    >>> figure = plot_spectrogram(np.zeros((500, 64)), 0.02, "Bus")
    >>> figure.axes[0].get_xlim()[1]  # seconds
    np.float64(10.0)
    """
    features = np.asarray(features)
    frames, bands = features.shape
    figure = new_figure(4.4, 2.6)
    axes = figure.subplots()
    image = axes.imshow(
        features.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        extent=(0, frames * hop_seconds, 0, bands),
    )
    figure.colorbar(image, ax=axes, label="dB")
    axes.set_xlabel("time in s")
    axes.set_ylabel("mel band")
    axes.set_title(shown_name(title, 50), fontsize=10)
    return figure
