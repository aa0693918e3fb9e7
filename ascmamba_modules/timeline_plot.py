"""Plot of a timeline."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator


def plot_timeline(timeline):
    """Draws posteriors over time, with a line along the best class.

    Arguments
    ---------
    timeline : ascmamba_modules.timeline.Timeline
        The timeline.

    Returns
    -------
    matplotlib.figure.Figure
        Classes down, the first on top, time across.
    """
    classes = timeline.classes
    figure = Figure(
        figsize=(10, 1.2 + 0.3 * len(classes)), layout="constrained", dpi=120
    )
    axes = figure.subplots()
    colours = axes.pcolormesh(
        timeline.boundaries(),
        [row - 0.5 for row in range(len(classes) + 1)],
        timeline.table[classes].to_numpy().T,
        cmap="Blues",
        vmin=0,
        vmax=1,
        rasterized=True,  # else a day has 170,000 rectangles in a PDF
    )
    segments = timeline.segments()
    rows = [classes.index(label) for label in segments["scene_label"]]
    axes.hlines(
        rows, segments["start"], segments["end"], color="#D55E00", linewidth=2
    )
    axes.set_yticks(range(len(classes)), classes)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(
        MaxNLocator(8, steps=[1, 1.5, 2, 3, 5, 6, 10], integer=True)
    )
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    axes.set_xlabel("time (h:mm:ss)")
    figure.colorbar(colours, label="posterior", pad=0.01)
    return figure


def _clock(seconds, position=None):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
