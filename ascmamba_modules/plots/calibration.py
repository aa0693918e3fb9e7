"""The reliability diagram."""

from ascmamba_modules.plots.style import (
    NARROW,
    add_legend,
    colour_and_marker,
    new_figure,
    shown_name,
    tidy,
)


def plot_reliability(bins):
    """Draws how often a model is right when it is so sure.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017, Fig. 1.

    Arguments
    ---------
    bins : pandas.DataFrame or dict
        Columns confidence and accuracy (means, 0 to 1) and clips, a row a
        bin that is not empty; or label to such tables, to compare them, e.g.
        before and after temperature scaling.

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
    >>> upper, lower = plot_reliability(bins).axes
    >>> upper.lines[-1].get_ydata()
    array([ 50., 100.])
    >>> lower.lines[-1].get_ydata()
    array([4, 8])
    """
    tables = bins if isinstance(bins, dict) else {"model": bins}
    figure = new_figure(NARROW, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    (perfect,) = upper.plot([0, 100], [0, 100], color="black", ls=":", lw=1)
    lines = []
    for number, table in enumerate(tables.values()):
        colour, marker = colour_and_marker(number)
        style = {"color": colour, "marker": marker, "markersize": 5}
        x, clips = 100 * table["confidence"], table["clips"]
        lines += upper.plot(x, 100 * table["accuracy"], **style)
        lower.vlines(x, 0, clips, color=colour)
        lower.plot(x, clips, ls="", **style)
    upper.set_xlim(-2, 102)
    upper.set_ylim(-2, 102)
    upper.set_ylabel("accuracy in %")
    lower.set_ylim(bottom=0)
    lower.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    lower.set_ylabel("clips")
    lower.set_xlabel("confidence in %")
    for axes in (upper, lower):
        axes.grid(color="#e4e4e4")
        axes.set_axisbelow(True)
        tidy(axes)
    names = [shown_name(name) for name in tables]
    add_legend(figure, [*lines, perfect], [*names, "as sure as right"])
    return figure
