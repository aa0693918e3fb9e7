"""ascmamba timeline."""

import io
import json
import os

import numpy as np
import pandas as pd
import pytest
import soundfile
from recipe_commands import run_killed

from ascmamba_modules.command_line import main
from ascmamba_modules.inference import SceneClassifier

OPTIONS = ["--window", "1", "--hop", "0.5", "--location", "Berlin"]


@pytest.fixture
def recording(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 5 * 8000)
    samples[16000:] *= 0.01
    soundfile.write(tmp_path / "night.flac", samples, 8000)
    return tmp_path / "night.flac"


def test_segments_windows_and_plot(model_folder, recording, tmp_path, capsys):
    table, plot = tmp_path / "new" / "windows.csv", tmp_path / "night.png"
    arguments = [
        "timeline",
        str(recording),
        "--model",
        str(model_folder),
        *OPTIONS,
    ]
    arguments += ["--output", str(table), "--plot", str(plot)]
    assert main(arguments) == 0
    classifier = SceneClassifier.from_hparams(model_folder)
    expected = classifier.classify_long(recording, 1.0, 0.5, "Berlin")
    segments = io.StringIO(capsys.readouterr().out)
    for found, frame in (
        (pd.read_csv(table), expected.table),
        (pd.read_csv(segments), expected.segments()),
    ):
        assert set(found.pop("file")) == {str(recording)}
        pd.testing.assert_frame_equal(
            found, frame, atol=1e-3, check_dtype=False
        )
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--hop", "11"], "hop (11.0 s) must be"),
        (["--output", "windows.parquet"], "must end in .csv"),
        (["--plot", "night.gif"], "must end in .png"),
        (["--record-time", "18:30"], "night.flac: '18:30' is not a time"),
    ],
)
def test_bad_options(model_folder, recording, capsys, options, message):
    arguments = ["timeline", str(recording), "--model", str(model_folder)]
    assert main([*arguments, *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err
    assert shown.out == ""


def test_missing_file(model_folder, capsys):
    assert main(["timeline", "none.wav", "--model", str(model_folder)]) == 2
    assert "error: none.wav: file not found" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """Recordings whose scene changes for the small model."""
    for i, name in enumerate(("a b", "sub/c")):
        path = tmp_path / "recordings" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(i)
        samples = rng.uniform(-0.3, 0.3, (5 + i) * 8000 + 77)
        samples[16000:] *= 0.01
        soundfile.write(path, samples, 8000)
    return tmp_path / "recordings"


def read_rttm(path):
    columns = ["type", "file", "channel", "start", "seconds", "a", "b"]
    columns += ["scene_label", "probability", "c"]
    table = pd.read_csv(path, sep=" ", names=columns, keep_default_na=False)
    assert set(table["type"]) == {"SPEAKER"} and set(table["channel"]) == {1}
    return table.assign(end=table["start"] + table["seconds"])


def read_label_studio(path):
    rows = [
        {"file": task["data"]["audio"], **region["value"], **region}
        for task in json.loads(path.read_text())
        for region in task["predictions"][0]["result"]
    ]
    table = pd.DataFrame(rows)
    names = set(table["from_name"]), set(table["to_name"]), set(table["type"])
    assert names == ({"label"}, {"audio"}, {"labels"})
    labels = table["labels"].str.join("+")
    return table.assign(scene_label=labels, probability=table["score"])


def read_kaleidoscope(path):
    table = pd.read_csv(path, keep_default_na=False)
    folders = table["INDIR"] + "/" + table["FOLDER"] + table["IN FILE"]
    table = table.assign(file=folders, start=table["OFFSET"])
    table["end"] = table["start"] + table["DURATION"]
    return table.rename(columns={"TOP1MATCH": "scene_label"})


READ = {
    "label-studio": read_label_studio,
    "kaleidoscope": read_kaleidoscope,
    "csv": pd.read_csv,
    "jsonl": lambda path: pd.read_json(path, lines=True),
    "raven": lambda path: pd.read_csv(path, sep="\t"),
    "rttm": read_rttm,
    "audacity": lambda path: pd.read_csv(
        path, sep="\t", names=["start", "end", "scene_label"]
    ),
}
SUFFIXES = {"raven": "txt", "audacity": "txt"}
SUFFIXES |= {"label-studio": "json", "kaleidoscope": "csv"}


@pytest.mark.parametrize("form", READ)
def test_formats(model_folder, folder, tmp_path, form, capsys):
    paths = sorted(folder.rglob("*.flac"))
    inputs = [folder]
    if form == "audacity":  # of one recording
        inputs = paths = paths[:1]
    output = tmp_path / f"out.{SUFFIXES.get(form, form)}"
    arguments = ["timeline", *map(str, inputs), "--format", form, *OPTIONS]
    arguments += ["--model", str(model_folder)]
    assert main([*arguments, "--output", str(output)]) == 0
    assert capsys.readouterr().out == ""
    assert main(arguments) == 0
    assert capsys.readouterr().out == output.read_text()
    found = READ[form](output)
    classifier = SceneClassifier.from_hparams(model_folder)
    parts, before = [], 0.0
    for path in paths:
        timeline = classifier.classify_long(path, 1.0, 0.5, "Berlin")
        part = timeline.segments().assign(file=str(path), before=before)
        parts.append(part)
        before += soundfile.info(path).duration
    expected = pd.concat(parts, ignore_index=True)
    assert len(set(expected["scene_label"])) > 1
    if form == "raven":
        names = expected["file"].str.rpartition("/")[2]
        assert found["Begin File"].tolist() == names.tolist()
        assert found["Begin Path"].tolist() == expected["file"].tolist()
        assert found["Selection"].tolist() == list(range(1, len(found) + 1))
        np.testing.assert_allclose(
            found["Begin Time (s)"],
            expected["start"] + expected["before"],
            atol=1e-3,
        )
        found["start"] = found["File Offset (s)"]
        found["end"] = found["End Time (s)"] - expected["before"]
        found = found.rename(columns={"Annotation": "scene_label"})
    elif form == "rttm":
        stems = expected["file"].str.extract(r"([^/]+)\.flac")[0]
        assert found["file"].tolist() == stems.str.replace(" ", "_").tolist()
    elif form != "audacity":
        assert found["file"].tolist() == expected["file"].tolist()
        if form == "kaleidoscope":
            found["probability"] = expected["probability"]  # has no column
        np.testing.assert_allclose(
            found["probability"], expected["probability"], atol=1e-3
        )
    assert found["scene_label"].tolist() == expected["scene_label"].tolist()
    for name in ("start", "end"):
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=1.001e-3
        )


def test_killed_run_goes_on_to_the_same_output(model_folder, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i in range(30):
        samples = np.random.default_rng(i).uniform(-0.3, 0.3, 5 * 8000)
        soundfile.write(folder / f"{i:02d}.wav", samples, 8000)
    arguments = ["timeline", str(folder), "--model", str(model_folder)]
    arguments += ["--window", "0.5", "--format", "csv", "--output"]
    whole, killed = tmp_path / "whole.csv", tmp_path / "killed.csv"
    assert main([*arguments, str(whole)]) == 0
    arguments.append(str(killed))
    journal = tmp_path / "killed.csv.part"
    run_killed(
        ["-m", "ascmamba_modules.command_line", *arguments],
        lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 5,
        folder=None,
    )
    assert not killed.exists()
    for i in range(3):  # what was done is not done again
        (folder / f"{i:02d}.wav").write_bytes(
            (folder / f"{i + 10}.wav").read_bytes()
        )
    assert main(arguments) == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_failed_files_are_skipped_and_counted(
    model_folder, folder, tmp_path, capsys
):
    (folder / "b.wav").write_text("not sound")
    output = tmp_path / "out.csv"
    arguments = ["timeline", str(folder), "--model", str(model_folder)]
    arguments += ["--window", "1", "--output", str(output), "--format", "csv"]
    assert main(arguments) == 2
    assert "b.wav: not an audio file" in capsys.readouterr().err
    assert not output.exists()
    assert main([*arguments, "--skip-errors"]) == 1
    assert "1 of 3 files could not be used" in capsys.readouterr().err
    assert len(set(pd.read_csv(output)["file"])) == 2


def test_label_studio_without_the_first_file(model_folder, folder, tmp_path):
    first = folder / "0.wav"
    soundfile.write(first, np.zeros(80000) + 0.1, 8000)
    first.write_bytes(first.read_bytes()[:-20000])  # states 10 s
    output = tmp_path / "out.json"
    arguments = ["timeline", str(folder), "--model", str(model_folder)]
    arguments += ["--window", "1", "--format", "label-studio", "--skip-errors"]
    assert main([*arguments, "--output", str(output)]) == 1
    assert len(json.loads(output.read_text())) == 2


@pytest.mark.parametrize(
    "inputs, options, message",
    [
        (["a b.flac", ""], [], "a b.flac would both be"),
        (["a b.flac", "a b.wav"], ["--format", "rttm"], "would both be a_b"),
        ([""], ["--format", "audacity"], "is of one recording, not 2"),
        ([""], ["--plot", "x.png"], "draws one recording, not 2"),
    ],
)
def test_tables_that_would_mix_recordings(
    folder, capsys, inputs, options, message
):
    inputs = [os.path.join(folder, name).rstrip("/") for name in inputs]
    assert main(["timeline", *inputs, "--model", "none", *options]) == 2
    assert message in capsys.readouterr().err
