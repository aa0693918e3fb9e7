"""The manifest of ESC-10, on a made-up copy and on the real set."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from prepare_esc10 import main, prepare_esc10

from ascmamba_modules.data.manifest import read_manifest, read_training_rows


@pytest.fixture
def esc50(tmp_path):
    """Two clips a fold, laid out as ESC-50, one of them of ESC-10."""
    rows = []
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    for fold in range(1, 6):
        for take, esc10 in (("A", True), ("B", False)):
            name = f"{fold}-100{fold}-{take}-0.wav"
            soundfile.write(tmp_path / "audio" / name, np.zeros(4410), 44100)
            rows.append((name, fold, "dog", esc10))
    columns = ["filename", "fold", "category", "esc10"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(tmp_path / "meta" / "esc50.csv", index=False)
    return tmp_path


def test_folds_become_splits(esc50):
    manifest = prepare_esc10(esc50, 2, esc50 / "m.csv", valid_fold=3)
    splits = dict(zip(manifest["ID"], manifest["split"]))
    assert splits == {
        "1-1001-A-0": "train",
        "2-1002-A-0": "test",
        "3-1003-A-0": "valid",
        "4-1004-A-0": "train",
        "5-1005-A-0": "train",
    }
    rows = read_training_rows(esc50 / "m.csv", ["dog"])
    assert {k: len(v) for k, v in rows.items()} == {
        "train": 3,
        "valid": 1,
        "test": 1,
    }


def test_real_set(shared_data, tmp_path):
    sessions = {}
    for fold in range(1, 6):
        path = tmp_path / f"{fold}.csv"
        main([str(shared_data / "esc10"), f"--fold={fold}", f"--output={path}"])
        table = read_manifest(path)
        assert len(table) == 400 and table["scene_label"].nunique() == 10
        test = table[table["split"] == "test"]
        assert len(test) == 80
        assert (test["scene_label"].value_counts() == 8).all()
        sessions[fold] = set(test["session"])
        # Clips of one source recording never stand on both sides.
        train = set(table[table["split"] == "train"]["session"])
        assert not train & sessions[fold]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--fold", "6"], "folds 1 to 5, not 6"),
        (["--fold", "2", "--valid-fold", "2"], "must not be the test fold"),
    ],
)
def test_wrong_folds_are_refused(esc50, arguments, message):
    output = ["--output", str(esc50 / "m.csv")]
    with pytest.raises(SystemExit, match=message):
        main([str(esc50), *arguments, *output])
    assert not (esc50 / "m.csv").exists()


def test_wrong_folder_is_named(tmp_path):
    with pytest.raises(SystemExit, match="No meta.csv or meta/esc50.csv in"):
        main([str(tmp_path)])


def test_list_with_semicolons_is_named_in_one_line(esc50):
    path = esc50 / "meta" / "esc50.csv"
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(SystemExit) as error:
        main([str(esc50), "--output", str(esc50 / "m.csv")])
    assert "esc50.csv" in error.value.code
    assert "missing column 'filename'; the first line" in error.value.code
