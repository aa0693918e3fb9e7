"""Plots of clips: similarity, embeddings, spectrogram."""

import numpy as np

from ascmamba_modules.plots.style import (
    BLUE,
    ORANGE,
    WIDTH,
    add_legend,
    colour_and_marker,
    hide_frame,
    new_figure,
    wrap,
)


def plot_similarity(
    similarities, threshold, title="Similarity to the evaluation set"
):
    """Draws a histogram of the clips' similarity to the evaluation set.

    Arguments
    ---------
    similarities : array-like
        Cosine similarities (clips).
    threshold : float
        Clips above it are Valid-Hard, the others Valid-Easy.
    title : str
        What is shown.

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
    n_bins = int(np.clip(2 * np.sqrt(len(similarities)), 10, 40))
    bins = np.histogram_bin_edges([*similarities, threshold], n_bins)
    figure = new_figure(title, 3.4)
    axes = figure.subplots()
    *_, (easy, hard) = axes.hist(
        groups, bins=bins, stacked=True, color=[BLUE, ORANGE]
    )
    line = axes.axvline(threshold, color="black", ls="--")
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=4)
    axes.yaxis.get_major_locator().set_params(integer=True)
    low, median, high = np.quantile(similarities, (0.05, 0.5, 0.95))
    axes.set_xlabel(
        f"cosine similarity (median {median:.6g},\n"
        f"90 % of clips from {low:.6g} to {high:.6g})"
    )
    axes.set_ylabel("clips")
    hide_frame(axes)
    counts = [
        f"{name}: {len(group):,} clip{'' if len(group) == 1 else 's'}"
        for name, group in zip(("Valid-Easy", "Valid-Hard"), groups)
    ]
    add_legend(
        figure, [easy, hard, line], [*counts, f"threshold {threshold:g}"]
    )
    return figure


def plot_embedding(coordinates, groups, title="Embeddings"):
    """Draws a map of clips, coloured by group.

    Arguments
    ---------
    coordinates : array-like
        (clips, 2).
    groups : list
        Name of each clip's group, e.g. its class or its city.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        A colour and a marker for each of up to 64 groups, in order of name.
        The axes have no scale, since such maps have none.

    Example
    -------
    >>> figure = plot_embedding([[0, 1], [1, 0], [1, 1]], list("bab"))
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['a (1)', 'b (2)']
    """
    coordinates, groups = np.asarray(coordinates), np.asarray(groups)
    names, counts = np.unique(groups, return_counts=True)
    figure = new_figure(title, WIDTH)
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
                rasterized=True,  # keeps the SVG small
            )
        )
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    labels = [wrap(f"{name} ({n:,})") for name, n in zip(names, counts)]
    add_legend(figure, dots, labels)
    return figure


def plot_spectrogram(features, hop_seconds, title="Spectrogram"):
    """Draws the features of one clip.

    Arguments
    ---------
    features : array-like
        Log-mel spectrogram in dB (time, mels).
    hop_seconds : float
        Seconds from one frame to the next.
    title : str
        What is shown.

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
    figure = new_figure(title, 2.6)
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
    return figure
