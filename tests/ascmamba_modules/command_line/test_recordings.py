"""Files, folders and manifests on the command line."""

import os

import pandas as pd
import pytest

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.command_line.recordings import (
    Recording,
    audio_files,
    find_recordings,
    list_left_out,
)
from ascmamba_modules.data.manifest import (
    COLUMNS,
    ManifestError,
    write_manifest,
)


def test_folder_is_searched_in_order(tmp_path):
    for name in ("b/2.WAV", "b/10.ogg", "a.flac", "b/c/d.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("notes.txt", ".hidden.wav", "b/table.csv"):
        (tmp_path / name).touch()
    found = find_recordings([str(tmp_path)])
    assert [r.file for r in found] == [
        str(tmp_path / name)
        for name in ("a.flac", "b/10.ogg", "b/2.WAV", "b/c/d.mp3")
    ]


def test_every_suffix_that_can_be_read_is_found(tmp_path):
    names = ["a.mp2", "b.BWF", "c.amb", "d.sph", "e.voc", "f.snd", "g.aifc"]
    names += ["h.m4a", "i.wave", "j.wma", "k.amr", "l.webm", "m.AAC"]
    for name in names:
        (tmp_path / name).touch()
    found = find_recordings([str(tmp_path)])
    assert [os.path.basename(r.file) for r in found] == names


def test_links_are_followed_once(tmp_path):
    data, disk = tmp_path / "data", tmp_path / "disk"
    for folder in (data, disk):
        folder.mkdir()
        (folder / f"{folder.name}.wav").touch()
    (data / "link.wav").symlink_to("data.wav")
    (data / "loop").symlink_to(".")
    (data / "site").symlink_to(disk)
    (disk / "back").symlink_to(data)
    left_out = {}
    found = audio_files(str(data), left_out)
    names = ("data.wav", "link.wav", "site/disk.wav")
    assert found == [str(data / name) for name in names] and not left_out


def test_deep_folders_are_searched(tmp_path):
    folders = [f"{tmp_path}{'/d' * n}" for n in range(1, 1501)]
    for folder in folders:
        os.mkdir(folder)
    path = f"{folders[-1]}/a.wav"
    open(path, "w").close()
    try:
        assert [r.file for r in find_recordings([str(tmp_path)])] == [path]
    finally:  # pytest's own cleaning is recursive
        os.remove(path)
        for folder in reversed(folders):
            os.rmdir(folder)


def test_what_is_left_out_is_counted(tmp_path, monkeypatch):
    for name in ("a.wav", "._a.wav", ".cache/b.wav", "c.txt", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):  # permissions do not stop the superuser
        if path == str(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    left_out = {}
    (found,) = find_recordings([str(tmp_path)], left_out=left_out)
    assert found.file == str(tmp_path / "a.wav")
    assert list_left_out(left_out) == (
        f"left out: 2 hidden ({tmp_path}/._a.wav, ...), 2 of another kind "
        f"({tmp_path}/c.txt, ...), 1 folders that cannot be read "
        f"({tmp_path}/locked)"
    )
    with pytest.raises(CommandError, match="no recordings.*locked"):
        find_recordings([str(tmp_path / "locked")])


def test_manifest_has_places_and_times_of_its_own(tmp_path):
    table = pd.DataFrame("", index=range(2), columns=COLUMNS)
    table["ID"] = ["a", "b"]
    table["wav"] = ["a.wav", "/far/b.wav"]
    table["location"] = ["Xi'an", ""]
    table["record_time"] = ["", "2023-04-21"]
    path = tmp_path / "clips.CSV"
    write_manifest(table, path)
    assert find_recordings([str(path), "c.wav"], "Berlin", "2024-01-01") == [
        Recording(str(tmp_path / "a.wav"), "Xi'an", "2024-01-01"),
        Recording("/far/b.wav", "Berlin", "2023-04-21"),
        Recording("c.wav", "Berlin", "2024-01-01"),
    ]


def test_nothing_to_classify_is_an_error(tmp_path):
    with pytest.raises(CommandError, match="no recordings"):
        find_recordings([str(tmp_path)])
    (tmp_path / "clips.csv").write_text("file\na.wav\n")
    with pytest.raises(ManifestError, match="missing column 'wav'"):
        find_recordings([str(tmp_path / "clips.csv")])
