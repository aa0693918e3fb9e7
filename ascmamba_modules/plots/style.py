"""What all plots share: colours, markers, names, writing to a file."""

import math
import textwrap

from matplotlib.figure import Figure

from ascmamba_modules.utils.files import replacing

# Safe for colour-blind readers.  Source: M. Okabe and K. Ito, "Color Universal
# Design", 2008; grey in place of their yellow, which white paper hides.
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
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BLUE, ORANGE, GREY = COLOURS[0], COLOURS[4], COLOURS[7]
NARROW = 5.0  # inches; shrinks to the width of a phone and can be read
TEXT_SIZE = 9  # points
_LINE = 0.19  # inches from line to line at that size
_CHARACTER = 0.075  # inches at that size, on average


def new_figure(width, height):
    """Makes an empty figure.

    Arguments
    ---------
    width, height : float
        Inches.

    Returns
    -------
    matplotlib.figure.Figure
        Nothing that is drawn into it will overlap the rest.
    """
    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def colour_and_marker(number):
    """Tells two things or more apart, with colours and without.

    Arguments
    ---------
    number : int
        Number of the thing, from 0.

    Returns
    -------
    tuple
        Colour and marker.  Neighbours differ in both, the first 64 in one.

    Example
    -------
    >>> len({colour_and_marker(number) for number in range(64)})
    64
    """
    turn, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[(place + turn) % len(MARKERS)]


def shown_name(name, width=26):
    """Prepares a name for matplotlib: long ones get several lines.

    Arguments
    ---------
    name : object
        Name of a class, a model or a place.
    width : int
        Characters in a line.

    Returns
    -------
    str
        The text, in which a dollar sign begins no formula.

    Example
    -------
    >>> print(shown_name("a very long name of a class, $ and all"))
    a very long name of a
    class, \\$ and all
    """
    lines = textwrap.wrap(str(name), width) or [""]
    return "\n".join(lines).replace("$", r"\$")


def tidy(axes):
    """Takes away what frames the axes without need."""
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure, handles, labels, **options):
    """Puts a legend above the axes, in as many columns as there is room for.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    handles : list
        What is explained.
    labels : list
        Names, as :func:`shown_name` makes.
    **options
        Passed to ``figure.legend``, e.g. another place.
    """
    options = {"loc": "outside upper left", **options}
    figure.legend(
        handles,
        labels,
        ncols=_columns(labels, figure.get_figwidth()),
        frameon=False,
        fontsize=TEXT_SIZE,
        **options,
    )


def legend_height(labels, width=NARROW):
    """How high a legend of :func:`add_legend` is.

    Arguments
    ---------
    labels : list
        Names, as :func:`shown_name` makes.
    width : float
        Width of the figure in inches.

    Returns
    -------
    float
        Inches, about.
    """
    rows = math.ceil(len(labels) / _columns(labels, width))
    return rows * name_height(labels)


def _columns(labels, width):
    # Before each name stands a line or a marker.
    columns = int(width / (name_length(labels) + 0.5))
    return max(1, min(columns, len(labels)))


def name_length(names):
    """How much room the longest of some names takes.

    Arguments
    ---------
    names : list
        As :func:`shown_name` makes.

    Returns
    -------
    float
        Inches, about.
    """
    longest = max(len(line) for name in names for line in name.splitlines())
    return _CHARACTER * longest


def name_height(names):
    """How much room the one of some names with the most lines takes.

    Arguments
    ---------
    names : list
        As :func:`shown_name` makes.

    Returns
    -------
    float
        Inches, about.
    """
    return _LINE * max(len(name.splitlines()) for name in names)


def save_figure(figure, path):
    """Writes a figure, whole or not at all.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    path : str or Path
        Where to; the suffix tells the format.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary)
