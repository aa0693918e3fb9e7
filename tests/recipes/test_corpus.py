"""What the preparation of all corpora has in common."""

import pandas as pd
import pytest
import soundfile
from corpus import (
    check_output,
    drop_unusable_clips,
    find_corpus,
    read_table,
    scenes_of,
    to_unified,
    unified_scenes,
)

from ascmamba_modules.data.manifest import ManifestError


def test_unified_set_is_the_one_of_the_paper():
    # Table 1, its rows and its total.
    paper = [2302, 8125, 5845, 8201, 8201, 2303, 5933, 2303, 8049, 8048]
    scenes = unified_scenes()
    is_kept = scenes["unified"] != ""
    assert scenes["clips"].notna().equals(is_kept)
    assert scenes[is_kept].groupby("unified")["clips"].sum().tolist() == paper
    assert sum(paper) == 59310


@pytest.mark.parametrize("corpus, n", [("TAU", 10), ("CochlScene", 13)])
def test_every_class_of_a_corpus_is_mapped_or_dropped_once(corpus, n):
    table = unified_scenes()
    names = table["scene"][table["corpus"] == corpus]
    assert len(names) == names.nunique() == n
    mapped = [unified for unified in scenes_of(corpus).values() if unified]
    rows = to_unified(pd.DataFrame({"scene_label": names}), corpus)
    assert rows["scene_label"].tolist() == mapped
    assert rows["scene_label"].is_unique


def test_corpus_is_found_in_its_folder_and_above(tmp_path):
    (tmp_path / "NAME" / "audio").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "NAME", str(tmp_path)):
        assert find_corpus(folder, "NAME", ["audio"], "") == tmp_path / "NAME"


@pytest.mark.parametrize(
    "names, found",
    [(["a", "b"], "found a, b"), ([], "found nothing"), (None, "no such")],
)
def test_wrong_folder_tells_what_was_expected_and_found(tmp_path, names, found):
    folder = tmp_path / "x"
    if names is not None:
        folder.mkdir()
    for name in names or []:
        (folder / name).touch()
    with pytest.raises(FileNotFoundError) as error:
        find_corpus(folder, "NAME", ["meta.csv", "audio"], "Fetch it.")
    text = str(error.value)
    assert "expected meta.csv and audio" in text and found in text
    assert text.endswith("Fetch it.")


def test_table_is_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "t.csv"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("name,place\na, Xi'an \n\nNA,\n", encoding)
        table = read_table(path, ["name", "place"])
        assert table.values.tolist() == [["a", "Xi'an", 2], ["NA", "", 4]]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a CSV file"),
        (b"name,place\n\xff\xfe,x\n", "not a CSV file"),
        (b"name,place\na,b\na,b,c\n", "line 3"),
        (b"name;place\na;b\n", "missing column 'place'; .*'name;place'"),
    ],
)
def test_unreadable_table(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as error:
        read_table(path, ["name", "place"])
    assert str(path) in str(error.value)
    with pytest.raises(ManifestError, match="No such file"):
        read_table(tmp_path / "none.csv", ["name"])


def test_output_is_tried_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        check_output(tmp_path / "file" / "m.csv")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_output(tmp_path)
    check_output(tmp_path / "new" / "m.csv")


def make_rows(world, n):
    files = sorted((world / "CochlScene").glob("Train/*/*.wav"))[:n]
    return pd.DataFrame(
        {"ID": [file.stem for file in files], "wav": [str(f) for f in files]}
    )


def test_unusable_clips_are_left_out_and_reported(own_world, tmp_path):
    rows = make_rows(own_world, 20)
    with open(rows["wav"][3], "r+b") as file:
        file.truncate(1000)
    long = own_world / "long.wav"
    long.write_bytes(b"")
    rows.loc[5, "wav"] = str(long)
    rows.loc[7, "wav"] = str(own_world / "CochlScene" / "gone.wav")
    before = [{"ID": "x", "wav": "", "problem": "no file"}]

    kept = drop_unusable_clips(rows, tmp_path / "m.csv", 0.2, before)
    assert kept["ID"].tolist() == rows["ID"].drop([3, 5, 7]).tolist()
    assert kept["duration"].eq(0.2).all()
    report = pd.read_csv(tmp_path / "m_problems.csv")
    assert report["ID"].tolist() == ["x", *rows["ID"][[3, 5, 7]]]
    assert report["left_out"].all()
    words = ["no file", "truncated", "empty", "not found"]
    assert all(w in p for w, p in zip(words, report["problem"]))

    # 4 of 21: more than a tenth.  The report is there all the same.
    (tmp_path / "m_problems.csv").unlink()
    with pytest.raises(ManifestError, match="4 of 21 clips.*--max-problems"):
        drop_unusable_clips(rows, tmp_path / "m.csv", 0.1, before)
    assert len(pd.read_csv(tmp_path / "m_problems.csv")) == 4


def test_clips_of_odd_length_are_kept_and_reported(own_world, tmp_path):
    rows = make_rows(own_world, 10)
    samples, rate = soundfile.read(rows["wav"][2])
    soundfile.write(rows["wav"][2], samples[: len(samples) // 2], rate)
    kept = drop_unusable_clips(rows, tmp_path / "m.csv", 0.0)
    assert len(kept) == 10 and kept["duration"][2] == 0.1
    report = pd.read_csv(tmp_path / "m_problems.csv")
    assert report["ID"].tolist() == [rows["ID"][2]]
    assert not report["left_out"].any()
    assert report["problem"][0] == "0.10 s long, most are 0.20 s"
