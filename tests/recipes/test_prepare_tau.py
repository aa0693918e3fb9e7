"""The manifest of TAU, from a made-up copy laid out as the download."""

import pandas as pd
import pytest
from prepare_tau import NAME, main, prepare_tau

from ascmamba_modules.data.manifest import ManifestError, read_manifest


@pytest.fixture
def meta(own_world):
    return own_world / NAME / "meta.csv"


def change(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_every_file_has_its_row(world, tmp_path):
    table = prepare_tau(world, tmp_path / "m.csv")
    files = (world / NAME / "audio").glob("*.wav")
    assert set(table["wav"]) == {str(file) for file in files}
    # airport-lisbon-1000-40000-a.wav
    parts = table["ID"].str.split("-")
    assert (table["scene_label"] == parts.str[0]).all()
    assert (table["location"] == parts.str[1].str.capitalize()).all()
    assert (table["session"] == parts.str[1] + "-" + parts.str[2]).all()
    assert set(table["split"]) == {"train"}
    written = read_manifest(tmp_path / "m.csv")
    assert written["ID"].tolist() == table["ID"].tolist()


def test_own_split(world, tmp_path):
    table = prepare_tau(world, tmp_path / "m.csv", "fold1").set_index("ID")
    for name, ours in (("train", "train"), ("evaluate", "test")):
        path = world / NAME / "evaluation_setup" / f"fold1_{name}.csv"
        files = pd.read_csv(path, sep="\t")["filename"]
        ids = files.str.replace("audio/", "").str.replace(".wav", "")
        assert set(table.index[table["split"] == ours]) == set(ids)


@pytest.mark.parametrize("split", ["random", "session"])
def test_made_splits(world, tmp_path, split):
    table = prepare_tau(world, tmp_path / "m.csv", split)
    parts = table.groupby("split")
    assert set(parts.groups) == {"train", "valid"}
    shared = set.intersection(*(set(rows["session"]) for _, rows in parts))
    assert bool(shared) == (split == "random")


def test_unified_classes(world, tmp_path):
    table = prepare_tau(world, tmp_path / "m.csv", unified=True)
    pairs = set(zip(table["ID"].str.split("-").str[0], table["scene_label"]))
    # The table of facts about the paper's Table 1, by hand.
    assert pairs == {
        ("airport", "Airport"),
        ("bus", "Bus"),
        ("metro", "Metro"),
        ("metro_station", "Metro station"),
        ("public_square", "Public square"),
        ("shopping_mall", "Shopping mall"),
        ("street_traffic", "Traffic street"),
        ("park", "Urban park"),
    }


def test_missing_files_are_an_error_that_tells_how_many(own_world, tmp_path):
    gone = sorted((own_world / NAME / "audio").glob("*.wav"))[:6]
    for file in gone:
        file.unlink()
    with pytest.raises(ManifestError, match="6 of 60 clips .*not complete"):
        prepare_tau(own_world, tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
    table = prepare_tau(own_world, tmp_path / "m.csv", max_problems=0.1)
    assert len(table) == 54


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("filename\t", "file\t", "missing column 'filename'"),
        ("\tbus\t", "\tdisco\t", "'disco' is not a scene"),
    ],
)
def test_odd_metadata(own_world, meta, tmp_path, old, new, message):
    change(meta, old, new)
    with pytest.raises(ManifestError, match=message) as error:
        prepare_tau(own_world, tmp_path / "m.csv")
    assert str(meta) in str(error.value)


def test_two_rows_for_one_file(own_world, meta, tmp_path):
    lines = meta.read_text("utf-8").splitlines()
    meta.write_text("\n".join([*lines, lines[4]]), "utf-8")
    with pytest.raises(ManifestError, match="line 62: .*first on line 5"):
        prepare_tau(own_world, tmp_path / "m.csv")


def test_command(world, tmp_path, capsys):
    main([str(world), "--output", str(tmp_path / "m.csv"), "--unified"])
    out = capsys.readouterr().out
    assert "Urban park" in out and "m.csv: 48 clips" in out
    with pytest.raises(SystemExit, match="(?s)expected meta.csv.*zenodo"):
        main([str(tmp_path), "--output", str(tmp_path / "n.csv")])
    assert not (tmp_path / "n.csv").exists()
