"""The manifest of CochlScene, from a made-up copy laid out as the download."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from prepare_cas import prepare_cas
from prepare_cochlscene import NAME, main, prepare_cochlscene, unpack
from prepare_tau import prepare_tau

from ascmamba_modules.data.manifest import ManifestError, read_manifest


def test_every_file_has_its_row(world, tmp_path):
    table = prepare_cochlscene(world, tmp_path / "m.csv", "official")
    files = {str(file) for file in (world / NAME).glob("*/*/*.wav")}
    assert set(table["wav"]) == files
    for row in table.itertuples():
        place, scene, name = row.wav.split("/")[-3:]
        assert row.scene_label == scene
        assert row.split == {"Train": "train", "Val": "valid"}.get(
            place, "test"
        )
        assert row.session == name.split("_")[1]
    assert table["scene_label"].nunique() == 13
    written = read_manifest(tmp_path / "m.csv")
    assert written["ID"].tolist() == table["ID"].tolist()


@pytest.mark.parametrize(
    "prepare", [prepare_cochlscene, prepare_cas, prepare_tau]
)
def test_files_of_macos_and_upper_case_suffixes(own_world, tmp_path, prepare):
    before = prepare(own_world, tmp_path / "before.csv")
    for path in map(Path, before["wav"]):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
        path.rename(path.with_suffix(".WAV"))
    after = prepare(own_world, tmp_path / "after.csv")
    assert after["wav"].tolist() == [
        str(Path(path).with_suffix(".WAV")) for path in before["wav"]
    ]
    pd.testing.assert_frame_equal(
        after.drop(columns="wav"), before.drop(columns="wav")
    )


@pytest.mark.parametrize("split", ["all", "random", "session"])
def test_made_splits(world, tmp_path, split):
    table = prepare_cochlscene(world, tmp_path / "m.csv", split)
    parts = table.groupby("split")
    if split == "all":
        assert set(parts.groups) == {"train"}
        return
    assert set(parts.groups) == {"train", "valid"}
    shared = set.intersection(*(set(rows["session"]) for _, rows in parts))
    assert bool(shared) == (split == "random")


def test_unified_classes(world, tmp_path):
    table = prepare_cochlscene(world, tmp_path / "m.csv", unified=True)
    pairs = set(zip(table["ID"].str.split("_").str[0], table["scene_label"]))
    assert pairs == {
        ("Bus", "Bus"),
        ("Car", "Car"),
        ("Subway", "Metro"),
        ("SubwayStation", "Metro station"),
        ("Restaurant", "Restaurant"),
        ("Street", "Traffic street"),
        ("Park", "Urban park"),
    }


def test_listed_files_that_are_missing_are_found(own_world, tmp_path):
    """A part of the archive is missing."""
    folder = own_world / NAME
    total = len(list(folder.glob("*/*/*.wav")))
    gone = len(list((folder / "Train" / "Bus").glob("*.wav")))
    shutil.rmtree(folder / "Train" / "Bus")
    with pytest.raises(ManifestError, match=f"{gone} of {total} clips"):
        prepare_cochlscene(own_world, tmp_path / "m.csv")
    # Without the list nobody can know.
    (folder / "Data_info.tsv").unlink()
    assert len(prepare_cochlscene(own_world, tmp_path / "m.csv")) == (
        total - gone
    )


@pytest.mark.parametrize(
    "name",
    ["Train/Bus/Car_user0001_1_001.wav", "Val/Bus/x.wav", "Test/Zoo/Zoo_a.wav"],
)
def test_files_of_other_names(own_world, tmp_path, name):
    path = own_world / NAME / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(ManifestError, match=f"{name}: expected"):
        prepare_cochlscene(own_world, tmp_path / "m.csv")


@pytest.mark.parametrize(
    "content, message",
    [(b"\xff\xfe\x00", "not a text"), (b"Bus\t1\tTrain\n", "line 1")],
)
def test_unreadable_list(own_world, tmp_path, content, message):
    (own_world / NAME / "Data_info.tsv").write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        prepare_cochlscene(own_world, tmp_path / "m.csv")


def test_folders_without_files(tmp_path):
    for name in ("Train", "Val", "Test"):
        (tmp_path / name).mkdir()
    with pytest.raises(ManifestError, match="no files like"):
        prepare_cochlscene(tmp_path, tmp_path / "m.csv")


def make_seven_zip(folder, script):
    """Puts a program of that name where it is looked for first."""
    program = folder / "7z"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_archive_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="7-Zip.*not installed"):
        unpack(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    half = "mkdir -p CochlScene.partial/CochlScene; exit 2"
    make_seven_zip(tmp_path, half)
    with pytest.raises(OSError, match="failed"):
        unpack(tmp_path)
    assert not (tmp_path / NAME).exists()
    make_seven_zip(tmp_path, half.replace("exit 2", "echo $* > arguments"))
    unpack(tmp_path)
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments == ["x", "-y", f"-o{NAME}.partial", f"{NAME}.zip"]
    assert (tmp_path / NAME).is_dir()
    make_seven_zip(tmp_path, "exit 3")
    unpack(tmp_path)  # is there already: not called


def test_command(world, tmp_path, capsys):
    main([str(world), "--output", str(tmp_path / "m.csv")])
    assert "SubwayStation" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="(?s)expected Train and .*7z x"):
        main([str(tmp_path), "--output", str(tmp_path / "n.csv")])
