"""Plot of a timeline."""

from matplotlib.ticker import FuncFormatter, MultipleLocator

from ascmamba_modules.plots.style import VERMILION, new_figure, wrap

# Seconds between ticks that read well on a clock.
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_STEPS += (7200, 10800, 21600, 43200, 86400)


def plot_timeline(timeline, title="Scene posteriors over time"):
    """Draws posteriors over time, with a line along the best class.

    Arguments
    ---------
    timeline : ascmamba_modules.inference.timeline.Timeline
        The timeline.
    title : str
        What is shown.

    Returns
    -------
    matplotlib.figure.Figure
        Classes down, the first on top, time across.
    """
    classes = timeline.classes
    figure = new_figure(title, 1.5 + 0.3 * len(classes), 10)
    axes = figure.subplots()
    colours = axes.pcolormesh(
        timeline.boundaries(),
        [row - 0.5 for row in range(len(classes) + 1)],
        timeline.posteriors.T,
        cmap="Blues",
        vmin=0,
        vmax=1,
        rasterized=True,  # else a day has 170,000 rectangles in a PDF
    )
    segments = timeline.segments()
    start, end = segments["start"], segments["end"]
    rows = [classes.index(label) for label in segments["scene_label"]]
    axes.hlines(rows, start, end, color=VERMILION, linewidth=2)
    axes.set_yticks(range(len(classes)), map(wrap, classes))
    axes.invert_yaxis()
    length = end.iloc[-1] - start.iloc[0]
    step = next((s for s in _STEPS if length / s <= 10), _STEPS[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    axes.set_xlabel("time (h:mm:ss)")
    figure.colorbar(colours, label="posterior", pad=0.01)
    return figure


def _clock(seconds, position=None):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
