"""ascmamba manifest: own folders, ready to train on."""

import os

import numpy as np
import pandas as pd
import pytest
import soundfile

from ascmamba_modules.command_line import main
from ascmamba_modules.data.manifest import read_training_rows


@pytest.fixture
def folder(tmp_path):
    """Two classes of five recordings, three cuts each."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 800)
    for name in ("my bar", "park"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for day in range(1, 6):
            for cut in "abc":
                file = f"2023042{day}_183000_{cut}.wav"
                soundfile.write(tmp_path / "sounds" / name / file, noise, 8000)
    return tmp_path / "sounds"


def manifest(*arguments):
    return main(["manifest", *map(str, arguments)])


def test_manifest_trains_and_keeps_recordings_together(
    folder, tmp_path, capsys
):
    output = tmp_path / "new" / "my.csv"
    options = ("--output", output, "--group", r"^\d+", "--times")
    assert manifest(folder, *options) == 0
    rows = read_training_rows(output, ["my bar", "park"])
    table = pd.concat(rows.values())
    assert {name: len(part) for name, part in rows.items()} == {
        **{"train": 18, "valid": 6},
        "test": 6,
    }
    table["cuts"] = (
        table["scene_label"] + table["ID"].str.extract(r"/(\d+)_")[0]
    )
    assert (table.groupby("cuts")["split"].nunique() == 1).all()
    assert table["session"].nunique() == 10
    first = table[table["ID"] == "park/20230421_183000_a.wav"].iloc[0]
    assert first["record_time"] == "2023-04-21 18:30:00"
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["train", "valid", "test", "recordings"] in lines
    assert ["my", "bar", "9", "3", "3", "5"] in lines
    assert ["all", "18", "6", "6", "10"] in lines
    command = "python train.py hparams/finetune.yaml --manifest"
    assert f"{command} {output} --scene_labels null" in shown.out
    assert "0 of 30 names tell no time" in shown.err


def test_shares(folder, tmp_path):
    output = tmp_path / "my.csv"
    options = ("--output", output, "--valid", "0.4", "--test", "0")
    assert manifest(folder, *options) == 0
    counts = pd.read_csv(output)["split"].value_counts()
    assert counts.to_dict() == {"train": 18, "valid": 12}


def test_files_that_cannot_be_used(folder, tmp_path, capsys):
    (folder / "park" / "20230421_183000_a.wav").write_bytes(b"no sound")
    options = ("--output", tmp_path / "my.csv")
    assert manifest(folder, *options) == 2
    assert not (tmp_path / "my.csv").exists()
    assert manifest(folder, *options, "--skip-errors") == 1
    assert len(pd.read_csv(tmp_path / "my.csv")) == 29
    assert "183000_a.wav: not an audio file" in capsys.readouterr().err


def test_name_that_no_table_can_hold(folder, tmp_path, capsys):
    path = os.fsencode(folder / "park") + b"/\xe4.wav"
    source = folder / "park" / "20230421_183000_a.wav"
    with open(path, "wb") as file:
        file.write(source.read_bytes())
    assert manifest(folder, "--output", tmp_path / "my.csv") == 2
    assert "its name is not UTF-8; rename it" in capsys.readouterr().err


def test_what_is_in_no_class_is_left_out_and_said(folder, tmp_path, capsys):
    hidden = folder / ".ipynb_checkpoints" / "a.wav"
    hidden.parent.mkdir()
    for path in (hidden, folder / "loose.wav"):
        path.write_bytes((folder / "park/20230421_183000_a.wav").read_bytes())
    assert manifest(folder, "--output", tmp_path / "my.csv") == 0
    labels = pd.read_csv(tmp_path / "my.csv")["scene_label"]
    assert set(labels) == {"my bar", "park"}
    shown = capsys.readouterr().err
    assert "1 hidden" in shown and ".ipynb_checkpoints" in shown
    assert "1 in no class's folder" in shown and "loose.wav" in shown


def test_faults_are_named(folder, tmp_path, capsys):
    def error(folder, *options):
        assert manifest(folder, "--output", tmp_path / "a.csv", *options) == 2
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err and shown.out == ""
        return shown.err.strip().splitlines()[-1]

    assert "each is a class" in error(folder / "park")
    assert "leave nothing to train on" in error(folder, "--valid", "0.8")
    assert "1.2 is no share" in error(folder, "--test", "1.2")
    # The whole class is one recording.
    few = "for 3 splits: 'my bar' (1), 'park' (1)"
    assert few in error(folder, "--group", "^2023")
    for path in (folder / "park").iterdir():
        path.unlink()
    assert "one class only, my bar" in error(folder)
    assert not (tmp_path / "a.csv").exists()
