"""A report as one HTML file that needs no other file and no network."""

import base64
import io
from pathlib import Path

import jinja2
import soundfile
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import audio_problem, load_audio
from ascmamba_modules.plots.style import to_svg
from ascmamba_modules.utils.files import replacing

RATE = 44100  # Hz
LONGEST = 10  # seconds of a recording
# Such as "+5.0", "< 0.001", "50.0*" or "75.0 (58.3 to 89.6)".
_NUMBER = r"(< |[+-])?[\d.]+\*?( .*)?"


def write_page(path, title, sections, lead="", details=""):
    """Writes a report as one HTML file, whole or not at all.

    The page loads nothing, and tells the browser that it may not.

    Arguments
    ---------
    path : str or Path
        HTML file to write; its folder is made if need be.
    title : str
        Title of the page.
    sections : list
        Tuples: heading, text (a line a paragraph), list of :func:`figure`,
        :func:`table` and :func:`audio`.
    lead : str
        The main result, below the title.
    details : str
        What was evaluated, below the title in small print.

    Example
    -------
    >>> import pandas as pd
    >>> path = getfixture("tmp_path") / "report.html"
    >>> scores = pd.DataFrame({"model": ["ASCMamba"], "accuracy": ["75.0"]})
    >>> sections = [("Scores", "On <test>.", [table(scores, "Accuracy")])]
    >>> write_page(path, "Report", sections)
    >>> "On &lt;test&gt;." in path.read_text("utf-8")
    True
    """
    render(
        path,
        "page.html",
        title=title,
        lead=lead,
        details=details,
        sections=sections,
    )


def render(path, template, **values):
    """Fills in a template of this folder, and writes it whole or not at all.

    Arguments
    ---------
    path : str or Path
        HTML file to write; its folder is made if need be.
    template : str
        Name of the template.
    **values
        What it takes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda x: base64.b64encode(x).decode()
    html = environment.get_template(template).render(**values)
    with replacing(path) as temporary:
        temporary.write_text(html, "utf-8")


def figure(drawing, caption):
    """A plot.

    Arguments
    ---------
    drawing : matplotlib.figure.Figure
        The plot.
    caption : str
        What it shows.

    Returns
    -------
    dict
        For :func:`write_page`.
    """
    title = drawing.get_suptitle().replace("\n", " ").replace(r"\$", "$")
    return {
        "kind": "figure",
        "caption": caption,
        "alt": f"Plot: {title}. {caption}",
        "svg": to_svg(drawing),
        "width": round(96 * drawing.get_figwidth()),  # CSS pixels
        "height": round(96 * drawing.get_figheight()),
    }


def table(dataframe, caption):
    """A table.

    Arguments
    ---------
    dataframe : pandas.DataFrame
        Texts; the first column names the rows and stays when the others are
        scrolled, numbers are aligned to the right, texts that end in a star
        are grey.
    caption : str
        What it shows.

    Returns
    -------
    dict
        For :func:`write_page`.
    """
    texts = dataframe.astype(str)
    is_number = [texts[name].str.fullmatch(_NUMBER).any() for name in texts]
    return {
        "kind": "table",
        "caption": caption,
        "columns": list(texts),
        "rows": texts.to_numpy().tolist(),
        "is_number": [False, *is_number[1:]],
    }


def audio(path, caption, drawing):
    """A recording to listen to: its first ten seconds, mono, as MP3.

    Arguments
    ---------
    path : str or Path
        Audio file.
    caption : str
        What it is.
    drawing : matplotlib.figure.Figure
        A plot of it, such as its spectrogram.

    Returns
    -------
    dict
        For :func:`write_page`.

    Raises
    ------
    ValueError
        If the file cannot be used, with its name and the reason.
    """
    problem = audio_problem(path)
    if problem:
        raise ValueError(f"{path}: {problem}")
    waveform = load_audio(path, AudioNormalizer(RATE)).numpy()
    seconds = len(waveform) / RATE
    cut = f"first {LONGEST} s of " if seconds > LONGEST else ""
    stream = io.BytesIO()
    # Unlike Ogg, MP3 is played by every browser.
    soundfile.write(stream, waveform[: LONGEST * RATE], RATE, format="MP3")
    caption = f"{caption} ({cut}{seconds:.1f} s)"
    block = figure(drawing, caption)
    return {**block, "kind": "audio", "mp3": stream.getvalue()}
