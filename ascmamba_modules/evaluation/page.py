"""A report as one HTML file that needs no other file and no network."""

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
import soundfile
from pandas.api import types
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import audio_problem, load_audio
from ascmamba_modules.utils.files import replacing

_RATE = 44100  # Hz
_LONGEST = 10  # seconds of a recording
_LARGEST_SVG = 150_000  # bytes
_PNG_RESOLUTION = 180  # dots per inch, for screens of twice the resolution
_PIXELS = 96  # of CSS per inch
_NARROW = 500  # pixels; what is wider is scrolled on a phone, not shrunk
_MISSING = "–"
_LONG = 24  # characters
# Numbers that come as text, such as "+5.0" or "75.0 (58.3 to 89.6)".
_NUMBER = re.compile(r"[<+−-]?\d[\d,.]*( %)?( \(.*\))?|–|")


@dataclass(frozen=True)
class Figure:
    """A plot.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The plot.
    caption : str
        What it shows.
    """

    figure: matplotlib.figure.Figure
    caption: str


@dataclass(frozen=True)
class Table:
    """A table.

    Arguments
    ---------
    dataframe : pandas.DataFrame
        Rows and columns.  Numbers are rounded, those of one column to the
        same decimals; an index that only counts is left out.
    caption : str
        What it shows.
    """

    dataframe: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Audio:
    """A recording to listen to: its first ten seconds, mono, as MP3.

    Arguments
    ---------
    path : str or Path
        Audio file.
    caption : str
        What it is.
    figure : matplotlib.figure.Figure, optional
        A plot of it, such as its spectrogram.
    """

    path: str | Path
    caption: str
    figure: matplotlib.figure.Figure | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page, with an entry in its table of contents.

    Arguments
    ---------
    title : str
        Its heading.
    text : str
        Plain text; an empty line begins a new paragraph.
    blocks : list
        :class:`Figure`, :class:`Table` and :class:`Audio`, in order.
        Recordings that follow each other stand side by side.
    """

    title: str
    text: str = ""
    blocks: list = field(default_factory=list)


def write_page(path, title, sections):
    """Writes a report as one HTML file, whole or not at all.

    The page loads nothing, and tells the browser that it may not.

    Arguments
    ---------
    path : str or Path
        HTML file to write; its folder is made if need be.
    title : str
        Title of the page.
    sections : list
        Its :class:`Section` s.

    Raises
    ------
    ValueError
        For a recording that cannot be used, with its file and the reason.

    Example
    -------
    >>> path = getfixture("tmp_path") / "report.html"
    >>> scores = pd.DataFrame({"model": ["ASCMamba"], "accuracy": [0.75]})
    >>> section = Section("Scores", "On <test>.", [Table(scores, "Accuracy")])
    >>> write_page(path, "Report", [section])
    >>> "On &lt;test&gt;." in path.read_text("utf-8")
    True
    """
    views = [
        {
            "id": f"section-{number}",
            "title": section.title,
            "paragraphs": section.text.split("\n\n") if section.text else [],
            "blocks": [_VIEWS[type(block)](block) for block in section.blocks],
        }
        for number, section in enumerate(sections, start=1)
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    with replacing(path) as temporary:
        temporary.write_text(
            template.render(title=title, sections=views), "utf-8"
        )


def _figure_view(block):
    return {
        "kind": "figure",
        "caption": block.caption,
        "image": _image(block.figure, block.caption),
    }


def _audio_view(block):
    source, seconds, whole = _encode_audio(block.path)
    cut = "" if seconds == whole else f"first {seconds:g} s of "
    return {
        "kind": "audio",
        "caption": block.caption,
        "source": source,
        "length": f"{cut}{whole:.1f} s",
        "image": block.figure and _image(block.figure, block.caption),
    }


def _table_view(block):
    table = block.dataframe
    has_names = not isinstance(table.index, pd.RangeIndex)
    # By position: two columns may have the same name.
    columns = [table.iloc[:, i] for i in range(table.shape[1])]
    cells = [_format_column(column) for column in columns]
    return {
        "kind": "table",
        "caption": block.caption,
        "index_name": str(table.index.name or "") if has_names else None,
        "columns": [
            {"name": str(column.name), "kind": _kind(column, texts)}
            for column, texts in zip(columns, cells)
        ],
        "rows": [
            {"name": str(name), "cells": row}
            for name, row in zip(table.index, zip(*cells))
        ],
    }


_VIEWS = {Figure: _figure_view, Table: _table_view, Audio: _audio_view}


def _is_number(column):
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _kind(column, texts):
    """How a column is laid out: "number", "long" (text that may need several
    lines) or "short"."""
    if _is_number(column) or all(map(_NUMBER.fullmatch, texts)):
        return "number"
    return "long" if max(map(len, texts), default=0) > _LONG else "short"


def _format_column(column):
    """Texts of a column's cells.

    Numbers get four digits, counted at the largest, of which at most three
    are decimals.
    """
    if types.is_bool_dtype(column):
        return ["yes" if value else "no" for value in column]
    if not _is_number(column):
        return [_MISSING if pd.isna(v) else str(v) for v in column]
    decimals = 0
    finite = column[np.isfinite(column.astype(float))]
    if len(finite) and (finite % 1 != 0).any():
        digits = int(np.floor(np.log10(finite.abs().max()))) + 1
        decimals = int(np.clip(4 - digits, 0, 3))
    return [_format_number(value, decimals) for value in column]


def _format_number(value, decimals):
    if pd.isna(value):
        return _MISSING
    text = f"{value:,.{decimals}f}"
    if value > 0 and float(text.replace(",", "")) == 0:
        return f"<{10**-decimals:.{decimals}f}"
    return text.replace("-", "−")


def _image(figure, caption):
    """Data of a figure for an ``img`` element, in the format that is small."""
    data, kind = _svg(figure), "svg+xml"
    if len(data) > _LARGEST_SVG:
        data, kind = _png(figure), "png"
    width, height = figure.get_size_inches() * _PIXELS
    axes = [
        f"{axes.get_ylabel()} against {axes.get_xlabel()}".replace("\n", " ")
        for axes in figure.axes
        if axes.get_xlabel() and axes.get_ylabel()
    ]
    return {
        "source": _data_uri(f"image/{kind}", data),
        "alt": ". ".join([f"Plot: {caption.rstrip('.')}", *axes]),
        "width": round(width),
        "height": round(height),
        "is_narrow": bool(width <= _NARROW),
    }


def _svg(figure):
    stream = io.BytesIO()
    # The same figure gives the same file: no random names, no date.
    with matplotlib.rc_context({"svg.hashsalt": "page"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_PNG_RESOLUTION)
    return stream.getvalue()


def _encode_audio(path):
    """Data URI of the beginning of a file, its seconds and the whole's."""
    problem = audio_problem(path)
    if problem:
        raise ValueError(f"{path}: {problem}")
    waveform = load_audio(path, AudioNormalizer(_RATE)).numpy()
    whole = len(waveform) / _RATE
    waveform = waveform[: _LONGEST * _RATE]
    stream = io.BytesIO()
    # Unlike Ogg, MP3 is played by every browser.
    soundfile.write(stream, waveform, _RATE, format="MP3")
    source = _data_uri("audio/mpeg", stream.getvalue())
    return source, len(waveform) / _RATE, whole


def _data_uri(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
