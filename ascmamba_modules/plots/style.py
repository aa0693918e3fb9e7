"""Colours, sizes and layout that all plots share."""

import io
import textwrap

import matplotlib
from matplotlib.figure import Figure

from ascmamba_modules.utils.files import replacing

# Safe for colour-blind readers.  Source: M. Okabe and K. Ito, "Color Universal
# Design", 2008; grey instead of their yellow, which is hard to see on white.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#5A5A5A",
)
BLUE, VERMILION, ORANGE, GREY = (COLOURS[i] for i in (0, 1, 4, 7))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GRID = "#e4e4e4"
FADED_TEXT = "#767676"
WIDTH = 4.5  # inches; two side by side in the report, one on a phone
TEXT_SIZE = 9  # points
FEW_CLIPS = 10  # results on fewer are greyed


def new_figure(title, height, width=WIDTH):
    """Makes an empty figure.

    Arguments
    ---------
    title : str
        What it shows.
    height, width : float
        Inches.

    Returns
    -------
    matplotlib.figure.Figure
        Its layout keeps whatever is drawn into it from overlapping.
    """
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    title = wrap(title, int(12 * width))
    figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    return figure


def colour_and_marker(number):
    """Colour and marker of the n-th series of a plot.

    Arguments
    ---------
    number : int
        From 0.

    Returns
    -------
    tuple
        Colour and marker; the first 64 pairs differ, neighbours in both.

    Example
    -------
    >>> len({colour_and_marker(number) for number in range(64)})
    64
    """
    turn, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[(place + turn) % len(MARKERS)]


def wrap(name, width=22):
    """Breaks a name into lines for matplotlib.

    Arguments
    ---------
    name : object
        Name of a class, a model or a place.
    width : int
        Characters a line.

    Returns
    -------
    str
        At most two lines; dollar signs are escaped, so that none begins a
        formula.

    Example
    -------
    >>> print(wrap("a very long name of a class, $ and all of that"))
    a very long name of a
    class, \\$ and all [...]
    """
    lines = textwrap.wrap(str(name), width, max_lines=2) or [""]
    return "\n".join(lines).replace("$", r"\$")


def hide_frame(axes):
    """Hides the axes' top and right lines."""
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure, handles, labels):
    """Adds a legend below the axes, and makes the figure higher by it.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    handles : list
        Artists.
    labels : list
        Their names, as :func:`wrap` returns.
    """
    columns = min(2, len(labels))
    lines = sum(label.count("\n") + 1 for label in labels)
    height = 0.15 + 0.2 * lines / columns  # inches
    figure.set_figheight(figure.get_figheight() + height)
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=TEXT_SIZE,
    )


def to_svg(figure):
    """Draws a figure as SVG; the same figure always gives the same bytes.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.

    Returns
    -------
    bytes
        The file's content.
    """
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ascmamba"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, dpi=180)
    return stream.getvalue()


def save_figure(figure, path):
    """Writes a figure, whole or not at all.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    path : str or Path
        File; its suffix names the format.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary)
