"""Reading and checking manifests."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.context import ContextTokenizer
from ascmamba_modules.data.manifest import (
    COLUMNS,
    ManifestError,
    make_dataset,
    read_manifest,
    read_training_rows,
    write_manifest,
)

CLASSES = ["Bus", "Bar"]


def write_audio(path, seconds=0.2, rate=8000, channels=1, **options):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (int(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)


def table(n=4, **columns):
    rows = pd.DataFrame(
        {
            "ID": [f"clip{i}" for i in range(n)],
            "wav": [f"clip{i}.wav" for i in range(n)],
            "duration": "0.2",
            "scene_label": [CLASSES[i % 2] for i in range(n)],
            "location": "Xi'an",
            "record_time": "2023-04-21 18:30:00",
            "session": "",
            "dataset": "test",
            "split": "train",
            "label_source": "human",
        }
    )
    return rows.assign(**columns)


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        write_audio(tmp_path / f"clip{i}.wav")
    return tmp_path


def check(folder, rows):
    path = folder / "manifest.csv"
    write_manifest(rows, path)
    return read_training_rows(path, CLASSES)


def problems(folder, rows):
    with pytest.raises(ManifestError) as error:
        check(folder, rows)
    return str(error.value)


def test_rows_are_split_and_unlabelled_ones_left_out(folder):
    rows = check(
        folder,
        table(
            scene_label=["Bus", "Bar", "", "Bus"],
            split=["train", "valid", "train", "evaluation"],
        ),
    )
    assert {k: list(v["ID"]) for k, v in rows.items()} == {
        "train": ["clip0"],
        "valid": ["clip1"],
        "test": [],
    }
    assert rows["train"]["wav"].iloc[0] == str(folder / "clip0.wav")


def test_byte_order_mark_spaces_and_extra_columns_are_fine(folder):
    rows = table(scene_label=" Bus ").assign(comment="x")
    path = folder / "manifest.csv"
    rows.to_csv(path, index=False, encoding="utf-8-sig")
    assert set(read_manifest(path)["scene_label"]) == {"Bus"}
    rows["d"] = ""
    header = [*table().columns, "", ""]  # as spreadsheets leave them
    rows.to_csv(path, index=False, header=header)
    assert set(read_manifest(path)["scene_label"]) == {"Bus"}


def test_missing_columns_are_empty_unless_needed(folder):
    path = folder / "manifest.csv"
    full = table(scene_label="Bus", split="train")
    full[["ID", "wav"]].to_csv(path, index=False)
    found = read_manifest(path)
    assert list(found.columns) == [*COLUMNS, "line"]
    assert set(found["location"]) == {""} and found["duration"].isna().all()
    for column in ("ID", "wav", "scene_label", "split"):
        full.drop(columns=column).to_csv(path, index=False)
        with pytest.raises(ManifestError, match=f"missing column '{column}'"):
            read_training_rows(path, ["Bus"])


@pytest.mark.parametrize(
    "columns, line, message",
    [
        ({"ID": ["a", "b", "a", "c"]}, 4, "duplicate ID, first on line 2"),
        ({"ID": ["a", "", "b", "c"]}, 3, "the ID is empty"),
        ({"wav": ["clip0.wav", "", "", ""]}, 3, "no file is named"),
        ({"duration": ["0.2", "long", "", "0.2"]}, 3, "'long' is not a"),
        ({"duration": ["0.2", "-1", "", "0.2"]}, 3, "'-1' is not a"),
        ({"record_time": ["", "noon", "", ""]}, 3, "'noon' is not a time"),
        ({"scene_label": ["Bus", "Bar", "Moon", ""]}, 4, "class 'Moon'"),
        (
            {"wav": ["clip0.wav", "no.wav", "clip1.wav", "clip2.wav"]},
            3,
            "not f",
        ),
    ],
)
def test_bad_rows_are_named_with_line(folder, columns, line, message):
    text = problems(folder, table(**columns))
    assert any(
        f"line {line}" in row and message in row for row in text.split("\n")
    )


def test_unknown_classes_come_with_the_option_to_paste(folder):
    text = problems(folder, table(scene_label=["rain", "sea's", "Bus", "rain"]))
    option = re.search(r"--scene_labels .*", text)[0]
    assert shlex.split(option)[1] == """['Bus', 'rain', "sea's"]"""


@pytest.mark.parametrize(
    "change, encoding, message",
    [
        (lambda text: text.replace(",", ";"), "utf-8", "by semicolons: save"),
        (lambda text: "sep=;\n" + text.replace(",", ";"), "utf-8", "by semi"),
        (lambda text: text.replace(",", "\t"), "utf-8-sig", "by tabs: save it"),
        (lambda text: text.replace("Xi'an", "Köln"), "latin-1", "0xf6 on lin"),
        (lambda text: text.replace(",", "\t"), "utf-16", "but in UTF-16: save"),
    ],
)
def test_tables_of_other_forms_are_named_in_one_line(
    folder, change, encoding, message
):
    path = folder / "manifest.csv"
    path.write_bytes(change(table().to_csv(index=False)).encode(encoding))
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(path)
    (problem,) = error.value.problems
    assert "as CSV with commas, in UTF-8" in problem


def test_upper_case_headers_and_labels_of_any_form_are_read(folder):
    names = ["Café", "Cafe\u0301", " Café\u200b ", "\xa0Cafe\u0301"]
    path = folder / "manifest.csv"
    rows = table(scene_label=names).rename(columns=str.upper)
    rows.to_csv(path, index=False)
    rows = read_training_rows(path, ["Café"])["train"]
    assert list(rows["scene_label"]) == ["Café"] * 4


def test_same_file_in_training_and_validation_is_refused(folder):
    wavs = ["clip0.wav", "./clip0.wav", "clip1.wav", ".//clip1.wav"]
    splits = ["train", "valid", "valid", "train"]
    text = problems(folder, table(wav=wavs, scene_label="Bus", split=splits))
    assert "2 problems" in text
    assert "line 3 (ID clip1): split 'valid', but the same file is in" in text
    assert "line 5 (ID clip3): split 'train', but the same" in text
    # More often in one split is what its author wants.
    check(folder, table(wav="clip0.wav", scene_label="Bus"))


def test_same_file_with_two_classes_is_warned_of(folder, caplog):
    check(folder, table(wav=["clip0.wav", "clip1.wav"] + ["./clip1.wav"] * 2))
    assert "the same file has two classes\n  - line 3 and 4:" in caplog.text


def test_splits_that_nothing_reads_are_warned_of(folder, caplog):
    splits = ["train", "validation", "Test", "validation"]
    check(folder, table(split=splits))
    assert "'validation' (2), 'Test' (1). The splits are" in caplog.text
    caplog.clear()
    check(folder, table(split=["train", "evaluation", "", "valid"]))
    assert not caplog.text


@pytest.mark.parametrize(
    "wav, remedy",
    [
        ("audio\\clip0.wav", "write / instead of \\"),
        ("C:\\clip0.wav", "and no drive"),
        ("~/clip0.wav", "write the whole path instead of ~"),
    ],
)
def test_paths_of_another_system_come_with_the_remedy(folder, wav, remedy):
    text = problems(folder, table(wav=[wav, *["clip1.wav"] * 3]))
    assert "file not found; " in text and remedy in text


def test_problems_of_every_kind_come_together(folder):
    text = problems(
        folder,
        table(
            ID=["a", "a", "b", "c"],
            duration=["0.2", "0.2", "long", "0.2"],
            scene_label=["Bus", "Moon", "Bus", "Bar"],
            wav=["clip0.wav", "clip1.wav", "clip2.wav", "gone.wav"],
        ),
    )
    for part in ("duplicate ID", "'long'", "class 'Moon'", "file not found"):
        assert part in text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("\n", ",\n"), "line 2: 11 fields under 10"),
        (lambda text: text.replace(",human", "", 1), "line 2: 9 fields under"),
        (lambda text: text.replace("session", "split"), "'split' stands twice"),
        (lambda text: text.replace("Bus", "Moon"), "line 2 (ID clip0): unk"),
        (lambda text: "\n\n" + text.replace("Bus", "M"), "line 4 (ID clip0)"),
        (lambda text: text.replace("\n", "\r\n").replace("Bus", "M"), "line 2"),
    ],
)
def test_odd_files_are_named_by_their_own_lines(folder, change, message):
    path = folder / "manifest.csv"
    write_manifest(table(), path)
    text = change(path.read_text())
    if "11 fields" in message:  # a comma after every row but the header
        text = text.replace(",\n", "\n", 1)
    path.write_text(text, newline="")
    with pytest.raises(ManifestError) as error:
        read_training_rows(path, CLASSES)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "columns", [{"scene_label": ""}, {"split": "test"}, {"split": ""}]
)
def test_no_labelled_training_clips(folder, columns):
    assert "no labelled training clips" in problems(folder, table(**columns))


def test_all_problems_come_at_once_first_twenty_and_the_count(folder):
    rows = table(60, wav=["clip0.wav"] * 30 + ["gone.wav"] * 30)
    text = problems(folder, rows)
    assert "30 problems" in text and "... and 10 more" in text
    assert text.count("file not found") == 20


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "not found"),
        (b"", "empty"),
        (b"\xff\xfe\x00\x00\xd8", "not a CSV"),
    ],
)
def test_unreadable_manifest(tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
            st.sampled_from(["train", "valid", "test", "other", ""]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_written_manifest_reads_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("manifest")
    written = table(
        len(rows),
        location=[location for location, _ in rows],
        split=[split for _, split in rows],
    )
    write_manifest(written, folder / "manifest.csv")
    read = read_manifest(folder / "manifest.csv")
    assert list(read["location"]) == [text.strip() for text, _ in rows]
    assert list(read["split"]) == [split for _, split in rows]
    assert list(read["line"]) == list(range(2, len(rows) + 2))
    assert list(folder.iterdir()) == [folder / "manifest.csv"]


def test_dataset_mixes_down_resamples_and_pads(folder):
    write_audio(folder / "clip0.wav", 0.2, 16000, channels=2)
    rows = check(folder, table(location=["Xi'an", "", "", ""]))["train"]
    encoder, tokenizer = CategoricalEncoder(), ContextTokenizer()
    encoder.update_from_iterable(CLASSES)
    encoder.expect_len(2)
    tokenizer.train(rows["location"])
    dataset = make_dataset(rows, AudioNormalizer(8000), encoder, tokenizer)
    batch = next(iter(make_dataloader(dataset, batch_size=4)))
    assert batch.id == ["clip0", "clip1", "clip2", "clip3"]
    assert batch.sig.data.shape == (4, 1600)
    assert batch.label.tolist() == [0, 1, 0, 1]
    assert (batch.location_tokens.data[1:] == 0).all()
    assert (batch.location_tokens.data[0] > 0).all()
    original, _ = soundfile.read(folder / "clip1.wav", dtype="float32")
    torch.testing.assert_close(batch.sig.data[1], torch.tensor(original))
