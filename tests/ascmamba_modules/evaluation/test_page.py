"""The page: read with Python's HTML parser, its data decoded again."""

import base64
import io
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.figure import Figure as Drawing
from matplotlib.image import imread
from scipy.signal import chirp

from ascmamba_modules.evaluation.page import (
    Audio,
    Figure,
    Section,
    Table,
    write_page,
)

VOID = {"meta", "img"}  # of the elements that the page uses
MARKUP = """<script>alert("x")</script> & '<b>bold</b>'"""


class Node:
    def __init__(self, tag, attributes):
        self.tag, self.attributes = tag, dict(attributes)
        self.children = []

    def all(self, tag):
        """Elements of this name below this one, in order."""
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag:
                    yield child
                yield from child.all(tag)

    @property
    def text(self):
        parts = [c if isinstance(c, str) else c.text for c in self.children]
        return " ".join("".join(parts).split())


class Reader(HTMLParser):
    """Makes a tree, and insists that every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.root = Node("root", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes)
        assert len(node.attributes) == len(attributes)  # none twice
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(path):
    return Reader(path.read_text("utf-8")).root


def write_and_read(folder, *blocks):
    path = folder / "page.html"
    write_page(path, "Page", [Section("Section", "", list(blocks))])
    return read(path)


def decode(uri, kind):
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri[len(start) :])


def draw(points=3, width=4.0):
    drawing = Drawing(figsize=(width, 2))
    axes = drawing.subplots()
    axes.plot(np.random.default_rng(0).normal(size=points), "o")
    axes.set_xlabel("time in s")
    axes.set_ylabel(f"level of {points}")
    return drawing


@pytest.fixture
def recording(tmp_path):
    """Twelve seconds in stereo at another rate than the page's."""
    rate, seconds = 22050, 12
    time = np.arange(rate * seconds) / rate
    left = 0.4 * chirp(time, 100, seconds, 5000)
    samples = np.stack([left, 0.5 * left], axis=1)
    soundfile.write(tmp_path / "a.flac", samples, rate)
    return tmp_path / "a.flac"


def test_page_needs_nothing_else(tmp_path, recording):
    table = pd.DataFrame({"a": ["see https://example.org/x.png"]})
    blocks = [
        Figure(draw(), "plot"),
        Table(table, "table"),
        Audio(recording, "clip", draw()),
        Audio(recording, "clip alone"),
    ]
    path = tmp_path / "new" / "page.html"
    write_page(path, "Page", [Section("One", "text", blocks), Section("Two")])
    page = read(path)
    everything = list(nodes(page))
    assert {node.tag for node in everything}.isdisjoint(
        {"link", "script", "iframe", "object", "embed", "base", "form"}
    )
    ids = [n.attributes["id"] for n in everything if "id" in n.attributes]
    assert len(ids) == len(set(ids))
    for node in everything:
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            if name == "href":
                assert value[0] == "#" and value[1:] in ids
            elif name == "src":
                assert value.startswith(("data:image/", "data:audio/"))
            else:
                assert name not in ("srcset", "action", "poster", "data")
    (style,) = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text
    # Should something slip in, the browser does not fetch it.
    policy = [
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy[0].startswith("default-src 'none'; ")
    assert "http" not in policy[0]
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def nodes(node):
    for child in node.children:
        if isinstance(child, Node):
            yield child
            yield from nodes(child)


def test_outline(tmp_path):
    sections = [Section("Scores", "One.\n\nTwo & <three>."), Section("More")]
    write_page(tmp_path / "page.html", "The report", sections)
    page = read(tmp_path / "page.html")
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    (title,), (heading,) = page.all("title"), page.all("h1")
    assert title.text == heading.text == "The report"
    (main,), (contents,) = page.all("main"), page.all("nav")
    assert [h.text for h in main.all("h2")] == ["Scores", "More"]
    assert [a.text for a in contents.all("a")] == ["Scores", "More"]
    targets = [a.attributes["href"] for a in contents.all("a")]
    assert targets == [f"#{s.attributes['id']}" for s in main.all("section")]
    assert [p.text for p in main.all("p")] == ["One.", "Two & <three>."]
    names = [meta.attributes.get("name") for meta in page.all("meta")]
    assert "viewport" in names


def test_all_text_is_escaped(tmp_path, recording):
    table = pd.DataFrame({MARKUP: [MARKUP]}, index=[MARKUP])
    table.index.name = MARKUP
    blocks = [
        Table(table, MARKUP),
        Figure(draw(), MARKUP),
        Audio(recording, MARKUP, draw()),
    ]
    path = tmp_path / "page.html"
    write_page(path, MARKUP, [Section(MARKUP, MARKUP, blocks)])
    page = read(path)
    assert not list(page.all("script")) and not list(page.all("b"))
    for tag in ("title", "h1", "p", "a", "td"):
        assert {node.text for node in page.all(tag)} == {MARKUP}
    assert {node.text for node in page.all("th")} == {MARKUP}
    (main,) = page.all("main")
    assert [node.text for node in main.all("h2")] == [MARKUP]
    for node in page.all("img"):
        assert MARKUP in node.attributes["alt"]
    (audio,) = page.all("audio")
    assert audio.attributes["aria-label"] == MARKUP


def test_figures_are_svg_or_png_by_size(tmp_path):
    page = write_and_read(
        tmp_path, Figure(draw(3), "Few."), Figure(draw(3000, 8), "Many.")
    )
    few, many = page.all("img")
    svg = ElementTree.fromstring(decode(few.attributes["src"], "image/svg+xml"))
    assert svg.attrib["width"] == "288pt"  # 4 inches
    png = imread(io.BytesIO(decode(many.attributes["src"], "image/png")))
    assert png.shape[:2] == (360, 1440)
    sizes = [
        (i.attributes["width"], i.attributes["height"]) for i in (few, many)
    ]
    assert sizes == [("384", "192"), ("768", "192")]
    # What shrinks to a phone's width is told from what is scrolled.
    assert [i.attributes.get("class") for i in (few, many)] == ["narrow", None]
    assert [i.attributes["alt"] for i in (few, many)] == [
        "Plot: Few. level of 3 against time in s",
        "Plot: Many. level of 3000 against time in s",
    ]
    assert [c.text for c in page.all("figcaption")] == ["Few.", "Many."]


def test_same_figures_same_page(tmp_path):
    for name in ("a", "b"):
        section = Section("S", "", [Figure(draw(), "plot")])
        write_page(tmp_path / name, "Page", [section])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def body(page):
    (table,) = page.all("table")
    rows = [
        [cell.text for cell in row.children if isinstance(cell, Node)]
        for row in table.all("tr")
    ]
    return rows[0], rows[1:]


def test_table(tmp_path):
    table = pd.DataFrame(
        {
            "clips": [12345, 8],
            "recall": [0.66666, np.nan],
            "loss": [1.5, 123.456],
            "p": [0.0001, 0.04],
            "change": [-1.25, 0.0],
            "ok": [True, False],
            "note": ["a", None],
        },
        index=pd.Index(["bus", "park"], name="class"),
    )
    page = write_and_read(tmp_path, Table(table, "Scores"))
    head, rows = body(page)
    assert head == ["class", *table.columns]
    assert rows == [
        ["bus", "12,345", "0.667", "1.5", "<0.001", "−1.250", "yes", "a"],
        ["park", "8", "–", "123.5", "0.040", "0.000", "no", "–"],
    ]
    (found,) = page.all("table")
    right = [
        cell.text
        for cell in found.all("td")
        if cell.attributes["class"] == "number"
    ]
    assert right == [text for row in rows for text in row[1:6]]
    scopes = [cell.attributes["scope"] for cell in found.all("th")]
    assert scopes == ["col"] * 8 + ["row"] * 2
    (caption,) = page.all("figcaption")
    assert caption.text == found.attributes["aria-label"] == "Scores"


def test_table_whose_index_only_counts_and_whose_columns_are_alike(tmp_path):
    table = pd.DataFrame([[1, "x"], [2, "y"]], columns=["a", "a"])
    head, rows = body(write_and_read(tmp_path, Table(table, "Scores")))
    assert head == ["a", "a"] and rows == [["1", "x"], ["2", "y"]]


def test_columns_are_laid_out_by_what_they_hold(tmp_path):
    columns = {
        "interval": ["75.0 (58.3 to 89.6)", "80.0 (60.7 to 100.0)"],
        "change": ["+5.0", None],
        "points": ["12.5", ""],
        "date": ["2023-05-13", "2023-05-14"],
        "sentence": ["of more than just a few words", "short"],
    }
    page = write_and_read(tmp_path, Table(pd.DataFrame(columns), "t"))
    kinds = [cell.attributes["class"] for cell in page.all("td")]
    assert kinds == ["number"] * 3 + ["short", "long"] + ["number"] * 3 + [
        "short",
        "long",
    ]


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, 2.0], ["1", "2"]),
        ([1.0, 2.5], ["1.000", "2.500"]),
        ([97.25, 3.0], ["97.25", "3.00"]),
        ([1234.5, -0.25], ["1,234", "−0"]),
        ([np.nan, np.nan], ["–", "–"]),
        ([np.inf, 0.5], ["inf", "0.500"]),
        ([], []),
    ],
)
def test_numbers_of_a_column_have_the_same_decimals(tmp_path, values, expected):
    table = pd.DataFrame({"a": pd.Series(values, dtype=float)})
    _, rows = body(write_and_read(tmp_path, Table(table, "t")))
    assert rows == [[text] for text in expected]


def test_audio_is_the_beginning_of_the_recording(tmp_path, recording):
    short = tmp_path / "short.wav"
    samples, rate = soundfile.read(recording)
    soundfile.write(short, samples[: 2 * rate], rate)
    page = write_and_read(
        tmp_path, Audio(recording, "A chirp."), Audio(short, "Short.")
    )
    cut, whole = page.all("audio")
    captions = [caption.text for caption in page.all("figcaption")]
    assert captions == ["A chirp. (first 10 s of 12.0 s)", "Short. (2.0 s)"]
    for element, seconds in ((cut, 10), (whole, 2)):
        assert "controls" in element.attributes
        data = decode(element.attributes["src"], "audio/mpeg")
        assert len(data) < 20e3 * seconds  # bytes
        found, found_rate = soundfile.read(io.BytesIO(data))
        assert found_rate == 44100 and found.shape == (44100 * seconds,)
        # Every other sample is one of the source's, both channels averaged.
        expected = samples[: seconds * rate].mean(axis=1)
        assert np.corrcoef(found[::2], expected)[0, 1] > 0.99
        level = np.std(found) / np.std(expected)
        assert level == pytest.approx(1, abs=0.05)


def test_recordings_that_follow_each_other_stand_together(tmp_path, recording):
    clip = Audio(recording, "clip")
    table = Table(pd.DataFrame({"a": [1]}), "t")
    page = write_and_read(tmp_path, clip, clip, table, clip)
    groups = [
        len(list(node.all("audio")))
        for node in page.all("div")
        if node.attributes.get("class") == "clips"
    ]
    assert groups == [2, 1]


def test_bad_recording_leaves_the_older_page(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, "Older", [])
    (tmp_path / "bad.wav").write_text("no audio")
    for name, reason in (
        ("bad.wav", "not an audio"),
        ("none.wav", "not found"),
    ):
        section = Section("S", "", [Audio(tmp_path / name, "clip")])
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            write_page(path, "Newer", [section])
    assert "Older" in path.read_text("utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bad.wav",
        "page.html",
    ]
