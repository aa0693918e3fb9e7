"""The unified set of TAU and CochlScene."""

import pytest
from corpus import unified_scenes
from prepare_pretraining import compare_with_paper, main, prepare_pretraining

from ascmamba_modules.data.manifest import read_training_rows


def test_both_corpora_become_one_set(world, tmp_path):
    output = tmp_path / "m.csv"
    table = prepare_pretraining(world, world, output)
    scenes = unified_scenes()
    sources = scenes["unified"][scenes["unified"] != ""].value_counts()
    # The made-up corpora have six files a class.
    counts = table.groupby("scene_label").size()
    assert counts.to_dict() == (6 * sources).to_dict()
    rows = read_training_rows(output, list(sources.index))
    assert len(rows["train"]) == len(table)
    shown = compare_with_paper(table)
    assert shown["paper"]["Total"] == 59310
    assert shown.loc["Metro"].tolist() == [6, 6, 12, 8201, 12 - 8201]


@pytest.mark.parametrize(
    "split, splits",
    [("own", {"train", "valid", "test"}), ("session", {"train", "valid"})],
)
def test_splits(world, tmp_path, split, splits):
    table = prepare_pretraining(world, world, tmp_path / "m.csv", split)
    assert set(table["split"]) - {""} == splits
    for _, rows in table[table["split"] != ""].groupby("session"):
        assert rows["split"].nunique() == 1


def test_command(world, tmp_path, capsys, caplog):
    folder, output = str(world), str(tmp_path / "m.csv")
    main(["--tau", folder, "--cochlscene", folder, "--output", output])
    out = capsys.readouterr().out
    assert "59310" in out and "difference" in out
    assert "Other numbers of clips than in the paper" in caplog.text
