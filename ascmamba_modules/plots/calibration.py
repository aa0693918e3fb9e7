"""Reliability diagram."""

from ascmamba_modules.plots.style import (
    GRID,
    add_legend,
    colour_and_marker,
    hide_frame,
    new_figure,
    wrap,
)


def plot_reliability(bins, title="Reliability diagram"):
    """Draws a reliability diagram: accuracy against confidence.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017, Fig. 1.

    Arguments
    ---------
    bins : dict
        Tables by label, e.g. before and after temperature scaling, as
        :func:`~ascmamba_modules.evaluation.calibration.reliability_bins`
        returns.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        Accuracy against confidence, and below it the clips of each bin.

    Example
    -------
    >>> import pandas as pd
    >>> bins = pd.DataFrame(
    ...     {"confidence": [0.6, 0.9], "accuracy": [0.5, 1], "clips": [4, 8]}
    ... )
    >>> upper, lower = plot_reliability({"as trained": bins}).axes
    >>> upper.lines[-1].get_ydata()
    array([ 50., 100.])
    >>> lower.lines[-1].get_ydata()
    array([4, 8])
    """
    figure = new_figure(title, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    (perfect,) = upper.plot([0, 100], [0, 100], color="black", ls=":", lw=1)
    lines = []
    for number, table in enumerate(bins.values()):
        colour, marker = colour_and_marker(number)
        style = {"color": colour, "marker": marker, "markersize": 5}
        x, clips = 100 * table["confidence"], table["clips"]
        lines += upper.plot(x, 100 * table["accuracy"], **style)
        lower.vlines(x, 0, clips, color=colour)
        lower.plot(x, clips, ls="", **style)
    upper.set(xlim=(-2, 102), ylim=(-2, 102), ylabel="accuracy in %")
    lower.set(ylim=(0, None), xlabel="confidence in %", ylabel="clips")
    lower.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    for axes in (upper, lower):
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        hide_frame(axes)
    labels = [*map(wrap, bins), "perfect calibration"]
    add_legend(figure, [*lines, perfect], labels)
    return figure
