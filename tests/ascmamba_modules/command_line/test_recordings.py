"""Files, folders and manifests on the command line."""

import pandas as pd
import pytest

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.command_line.recordings import Recording, find_recordings
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
