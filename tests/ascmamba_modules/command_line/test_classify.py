"""ascmamba classify, in this process and as one that is killed."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from recipe_commands import run_killed

from ascmamba_modules.command_line import main
from ascmamba_modules.data.manifest import COLUMNS, write_manifest
from ascmamba_modules.inference import SceneClassifier

CLASSES = ["Bus", "Bar", "Park"]


def write_noise(path, seconds=0.3, rate=8000, seed=0):
    rng = np.random.default_rng(seed)
    soundfile.write(path, rng.uniform(-0.3, 0.3, int(seconds * rate)), rate)


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i in range(7):
        write_noise(folder / f"{i}.wav", 0.1 * (i + 1), seed=i)
    return folder


@pytest.fixture(scope="module")
def classifier(model_folder):
    return SceneClassifier.from_hparams(model_folder)


def error_of(arguments, capsys):
    """The one message with which a command stops."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("ascmamba: error: ") and "Traceback" not in shown.err
    return last


def test_labels_are_printed(model_folder, classifier, recordings, capsys):
    arguments = ["classify", str(recordings), "--model", str(model_folder)]
    place, moment = "Xi'an", "2023-04-21 18:30:00"
    assert main([*arguments, "--location", place, "--record-time", moment]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table.columns.tolist() == [
        *("file", "scene_label", "probability", "problem")
    ]
    assert len(table) == 7 and table["problem"].isna().all()
    for row in table.itertuples():
        _, score, _, label = classifier.classify_file(row.file, place, moment)
        assert [row.scene_label] == label
        assert row.probability == pytest.approx(score.exp().item(), abs=1e-4)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_posteriors_are_written(
    model_folder, classifier, recordings, tmp_path, suffix
):
    table = pd.DataFrame("", index=range(7), columns=COLUMNS)
    table["ID"] = [f"clip {i}" for i in range(7)]
    table["wav"] = [f"recordings/{i}.wav" for i in range(7)]
    table["location"] = ["Xi'an", ""] * 3 + [""]
    table["record_time"] = [""] * 4 + ["2023-04-21 18:30:00"] * 3
    manifest, output = tmp_path / "clips.csv", tmp_path / f"new/out.{suffix}"
    write_manifest(table, manifest)
    assert main(
        ["classify", str(manifest), "--model", str(model_folder)]
        + ["--output", str(output), "--batch-size", "3"]
    ) == 0  # fmt: skip
    if suffix == "csv":
        found = pd.read_csv(output)
    else:
        found = pd.read_json(output, lines=True)
    for row, clip in zip(found.itertuples(), table.itertuples()):
        out_prob, *_ = classifier.classify_file(
            tmp_path / clip.wav, clip.location, clip.record_time
        )
        np.testing.assert_allclose(row[5:], out_prob[0].exp(), atol=1e-4)
    assert found.columns.tolist()[4:] == CLASSES
    assert os.listdir(tmp_path / "new") == [f"out.{suffix}"]


def test_failed_files_are_skipped_and_counted(
    model_folder, recordings, tmp_path, capsys
):
    (recordings / "3.wav").write_text("not sound")
    (recordings / "5.wav").write_bytes(b"")
    (recordings / "notes.txt").touch()
    output = tmp_path / "out.csv"
    arguments = ["classify", str(recordings), "--model", str(model_folder)]
    arguments += ["--output", str(output), "--batch-size", "2"]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "error: 2 of 7 files cannot be used" in shown.err
    assert "5.wav: empty file" in shown.err and not output.exists()
    assert main([*arguments, "--skip-errors"]) == 1
    shown = capsys.readouterr()
    assert "3.wav: not an audio file" in shown.err
    assert "2 of 7 files could not be used" in shown.err
    assert "left out: 1 of another kind" in shown.err
    table = pd.read_csv(output)
    assert table["problem"].notna().tolist() == [i in (3, 5) for i in range(7)]
    assert table[CLASSES].isna().all(axis=1).tolist() == [
        i in (3, 5) for i in range(7)
    ]


def test_names_neither_steer_a_terminal_nor_run_in_a_spreadsheet(
    model_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_noise("=1+1.wav")
    Path("bad\x1b[2J\n.wav").write_text("not sound")
    arguments = ["classify", "=1+1.wav", "bad\x1b[2J\n.wav"]
    arguments += ["--model", str(model_folder)]
    assert main(arguments) == 2
    assert main([*arguments, "--skip-errors", "--output", "out.csv"]) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.err
    assert shown.err.count("bad\\x1b[2J\\n.wav") == 2
    table = pd.read_csv("out.csv")
    assert table["file"].tolist() == ["'=1+1.wav", "bad\x1b[2J\n.wav"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main([*arguments, "--skip-errors"]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_classes_may_have_the_names_of_columns(
    model_folder, recordings, tmp_path
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    for name in ("label_encoder.txt", "config.json"):
        text = (folder / name).read_text()
        text = text.replace("Bus", "problem").replace("Bar", "=start")
        (folder / name).write_text(text)
    classifier = SceneClassifier.from_hparams(folder)
    arguments = ["classify", str(recordings), "--model", str(folder)]
    assert main([*arguments, "--output", str(tmp_path / "out.csv")]) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    posteriors = table[["p(problem)", "'=start", "Park"]]
    assert table["problem"].isna().all()
    for row, found in zip(table.itertuples(), posteriors.to_numpy()):
        out_prob, *_ = classifier.classify_file(row.file)
        np.testing.assert_allclose(found, out_prob[0].exp(), atol=1e-4)


def test_killed_run_goes_on_to_the_same_output(model_folder, tmp_path, capsys):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i in range(60):
        write_noise(folder / f"{i:02d}.wav", 1 + i % 3, seed=i)
    arguments = ["classify", str(folder), "--model", str(model_folder)]
    arguments += ["--batch-size", "4"]
    whole, killed = tmp_path / "whole.csv", tmp_path / "killed.csv"
    assert main([*arguments, "--output", str(whole)]) == 0
    arguments += ["--output", str(killed)]
    journal = tmp_path / "killed.csv.part"
    run_killed(
        ["-m", "ascmamba_modules.command_line", *arguments],
        lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 9,
        folder=None,
    )
    assert not killed.exists()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "of 60 files were classified by an earlier run" in (
        capsys.readouterr().err
    )
    assert killed.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_run_with_another_model_does_not_go_on(
    model_folder, recordings, tmp_path, capsys, monkeypatch
):
    arguments = ["classify", str(recordings), "--model"]
    options = ["--output", str(tmp_path / "out.csv"), "--batch-size", "2"]
    replacing = "ascmamba_modules.command_line.results.replacing"
    with monkeypatch.context() as patch:
        patch.setattr(replacing, lambda path: 1 / 0)  # as if killed just before
        with pytest.raises(ZeroDivisionError):
            main([*arguments, str(model_folder), *options])
    other = tmp_path / "model"
    shutil.copytree(model_folder, other)
    os.truncate(os.open(other / "notes.bin", os.O_CREAT | os.O_RDWR), 20 << 30)
    replace(other / "hyperparams.yaml", "# Written", "# Changed")
    error = error_of([*arguments, str(other), *options], capsys)
    assert "unfinished run with another model" in error
    assert main([*arguments, str(model_folder), *options]) == 0


BAD_INPUT = {
    "missing": ("none.wav", "none.wav: file not found"),
    "zero bytes": ("empty.wav", "empty.wav: empty file"),
    "text": ("text.wav", "text.wav: not an audio file"),
    "empty folder": ("folder.wav", "no recordings in it"),
    "manifest": ("clips.csv", "missing column"),
    "too long name": ("x" * 5000 + ".wav", "file not found"),
    "long": ("long.wav", "ascmamba timeline"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_error(model_folder, tmp_path, capsys, name):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not sound")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "clips.csv").write_text("file\na.wav\n")
    write_noise(tmp_path / "long.wav", 301)
    path, message = BAD_INPUT[name]
    arguments = ["classify", str(tmp_path / path), "--model", str(model_folder)]
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert "ascmamba: error: " in shown and message in shown
    assert "Traceback" not in shown


BAD_OPTIONS = {
    "time without a date": (
        ["--record-time", "18:30"],
        "'18:30' is not a time",
    ),
    "output without a format": (["--output", "labels.txt"], "must end in .csv"),
    "output is a folder": (["--output", "folder.csv"], "is a folder"),
    "no GPU": (
        ["--device", "cuda:99"],
        "cuda:99 cannot be used here, take cpu",
    ),
    "no such device": (["--device", "gpu"], "gpu is no device: take cpu, cuda"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_clear_error(
    model_folder, recordings, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    options, message = BAD_OPTIONS[name]
    arguments = [
        "classify",
        str(recordings / "1.wav"),
        "--model",
        str(model_folder),
    ]
    assert message in error_of(arguments + options, capsys)


def spoil_weights(folder):
    (folder / "model.safetensors").write_bytes(b"no weights")


def name_unknown_class(folder):
    replace(folder / "hyperparams.yaml", "ascmamba.ASCMamba", "ascmamba.New")


def name_unknown_setting(folder):
    replace(folder / "hyperparams.yaml", "n_blocks: 1", "n_blocks: 1\n  new: 3")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree,
        spoil_weights,
        name_unknown_class,
        name_unknown_setting,
    ],
)
def test_model_that_cannot_be_loaded_is_one_clear_error(
    model_folder, recordings, tmp_path, capsys, spoil
):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    spoil(model)
    arguments = ["classify", str(recordings), "--model", str(model)]
    assert str(model) in error_of(arguments, capsys)


def test_odd_paths(model_folder, recordings, tmp_path, capsys):
    folder = tmp_path / "höflich 北京" / ("höflich 北京" * 8)
    folder.mkdir(parents=True)
    shutil.copy(recordings / "1.wav", folder / "ünïcode.wav")
    arguments = ["classify", str(folder), "--model", str(model_folder)]
    assert main(arguments) == 0
    assert str(folder / "ünïcode.wav") in capsys.readouterr().out


def test_output_into_a_closed_pipe_is_no_traceback(model_folder, recordings):
    code = (
        "import sys; from ascmamba_modules.command_line import main; "
        f"sys.exit(main(['classify', {str(recordings)!r}, '--model', "
        f"{str(model_folder)!r}, '--batch-size', '1']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()


def test_real_recordings(model_folder, shared_data, tmp_path):
    folder = shared_data / "esc10" / "audio"
    files = [str(path) for path in sorted(folder.glob("*.ogg"))[::20]]
    output = tmp_path / "out.csv"
    arguments = ["classify", *files, "--model", str(model_folder)]
    assert main([*arguments, "--output", str(output)]) == 0
    table = pd.read_csv(output)
    assert table["file"].tolist() == files
    assert np.allclose(table[CLASSES].sum(axis=1), 1, atol=1e-5)
