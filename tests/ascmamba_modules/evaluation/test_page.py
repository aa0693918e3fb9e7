"""The page: read with Python's HTML parser, its data decoded again."""

import io
from base64 import b64decode
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.signal import chirp

from ascmamba_modules.evaluation.page import audio, figure, table, write_page
from ascmamba_modules.plots.style import new_figure

VOID = {"meta", "img"}  # of the elements that the page uses
MARKUP = """<script>alert("x")</script> & '<b>bold</b>'"""


class Reader(HTMLParser):
    """Collects (tag, attributes, text); insists that elements are closed."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)  # none twice
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self.open:
            texts.append(data)

    def texts(self, *tags):
        return [
            " ".join("".join(texts).split())
            for tag, _, texts in self.elements
            if tag in tags
        ]

    def attributes(self, *tags):
        return [values for tag, values, _ in self.elements if tag in tags]


def write_and_read(folder, *blocks):
    path = folder / "page.html"
    write_page(path, "Page", [("Section", "", blocks)])
    return Reader(path.read_text("utf-8"))


def decode(uri, kind):
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return b64decode(uri[len(start) :])


def draw():
    drawing = new_figure("Title $", 2, 4)
    drawing.subplots().plot([1, 3, 2], "o")
    return drawing


@pytest.fixture
def recording(tmp_path):
    """Twelve seconds in stereo at another rate than the page's."""
    rate, seconds = 22050, 12
    left = 0.4 * chirp(np.arange(rate * seconds) / rate, 100, seconds, 5000)
    samples = np.stack([left, 0.5 * left], axis=1)
    soundfile.write(tmp_path / "a.flac", samples, rate)
    return tmp_path / "a.flac"


def test_page_needs_nothing_else_and_escapes_all_text(tmp_path, recording):
    path = tmp_path / "new" / "page.html"
    scores = pd.DataFrame({MARKUP: [MARKUP], "b": MARKUP + "*"})
    blocks = [
        figure(draw(), MARKUP),
        table(scores, MARKUP),
        audio(recording, MARKUP, draw()),
    ]
    sections = [(MARKUP, MARKUP, blocks), ("Two", "", [])]
    write_page(path, MARKUP, sections, MARKUP, MARKUP)
    page = Reader(path.read_text("utf-8"))
    tags = {tag for tag, _, _ in page.elements}
    assert tags.isdisjoint({"script", "b", "link", "iframe", "object", "form"})
    for tag in ("title", "h1", "p"):
        assert set(page.texts(tag)) == {MARKUP}
    assert page.texts("h2") == page.texts("a") == [MARKUP, "Two"]
    assert page.texts("th") == [MARKUP, "b", MARKUP]
    assert page.texts("td") == [MARKUP + "*"]
    assert page.texts("figcaption")[:2] == [MARKUP] * 2
    ids = [f"#{values['id']}" for values in page.attributes("section")]
    assert [values["href"] for values in page.attributes("a")] == ids
    for _, values, _ in page.elements:
        assert not [name for name in values if name.startswith("on")]
        assert values.get("src", "data:").startswith("data:")
    (style,) = page.texts("style")
    assert "url(" not in style and "@import" not in style
    # Should something slip in, the browser does not fetch it.
    (policy,) = [
        values["content"]
        for values in page.attributes("meta")
        if values.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ") and "http" not in policy
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_text_has_a_paragraph_a_line(tmp_path):
    write_page(tmp_path / "a", "Page", [("S", "One.\nTwo.", [])])
    page = Reader((tmp_path / "a").read_text("utf-8"))
    assert page.texts("p") == ["One.", "Two."]


def test_figure_is_the_same_each_time(tmp_path):
    first, second = figure(draw(), "Few."), figure(draw(), "Few.")
    assert first == second
    (image,) = write_and_read(tmp_path, first).attributes("img")
    svg = ElementTree.fromstring(decode(image["src"], "image/svg+xml"))
    assert svg.attrib["width"] == "288pt"  # 4 inches
    assert (image["width"], image["height"]) == ("384", "192")
    assert image["alt"] == "Plot: Title $. Few."


def test_table(tmp_path):
    scores = pd.DataFrame(
        {
            "model": ["a", "3D-CNN"],
            "condition": ["all", "hard"],
            "recall": ["75.0 (58.3 to 89.6)", "50.0*"],
            "change": ["+5.0", ""],
            "p": ["< 0.001", "no clips"],
        }
    )
    page = write_and_read(tmp_path, table(scores, "Scores"))
    assert page.texts("th") == [*scores, "a", "3D-CNN"]
    assert page.texts("td") == list(scores.iloc[:, 1:].to_numpy().ravel())
    kinds = [values["class"].split() for values in page.attributes("td")]
    number = ["number"]
    assert kinds == [[], number, number, number] + [
        *([], ["number", "few"], number, number)
    ]
    head = page.attributes("th")[:5]
    assert [v.get("class") for v in head] == [None, None] + ["number"] * 3


def test_audio_is_the_beginning_of_the_recording(tmp_path, recording):
    short = tmp_path / "short.wav"
    samples, rate = soundfile.read(recording)
    soundfile.write(short, samples[: 2 * rate], rate)
    page = write_and_read(
        tmp_path,
        audio(recording, "A chirp.", draw()),
        audio(short, "Short.", draw()),
    )
    captions = ["A chirp. (first 10 s of 12.0 s)", "Short. (2.0 s)"]
    assert page.texts("figcaption") == captions
    for element, seconds in zip(page.attributes("audio"), (10, 2)):
        assert "controls" in element
        data = decode(element["src"], "audio/mpeg")
        assert len(data) < 20e3 * seconds  # bytes
        found, found_rate = soundfile.read(io.BytesIO(data))
        assert found_rate == 44100 and found.shape == (44100 * seconds,)
        # Every other sample is one of the source's, both channels averaged.
        expected = samples[: seconds * rate].mean(axis=1)
        assert np.corrcoef(found[::2], expected)[0, 1] > 0.99
        level = np.std(found) / np.std(expected)
        assert level == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "name, reason", [("bad.wav", "not an audio"), ("none.wav", "not found")]
)
def test_bad_recording(tmp_path, name, reason):
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(ValueError, match=f"{name}.*{reason}"):
        audio(tmp_path / name, "clip", draw())


def test_older_page_stays_if_a_newer_one_cannot_be_written(tmp_path):
    write_page(tmp_path / "page.html", "Older", [])
    with pytest.raises(ValueError):
        write_page(tmp_path / "page.html", "Newer", ["no section"])
    assert "Older" in (tmp_path / "page.html").read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
