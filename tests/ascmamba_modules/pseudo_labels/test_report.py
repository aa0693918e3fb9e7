"""The files of stage 3: what stands in them, and when they are there."""

import pandas as pd
import pytest
from matplotlib import pyplot

from ascmamba_modules.data.manifest import COLUMNS, read_manifest
from ascmamba_modules.pseudo_labels import report as pseudo_label_report
from ascmamba_modules.pseudo_labels.report import write_pseudo_labels

FILES = ["manifest.csv", "rejected.csv", "report.csv", "report.png"]


@pytest.fixture
def table(tmp_path):
    """Two labelled clips, four that can be labelled, one held out."""
    rows = pd.DataFrame({"ID": ["x", "007", "b", "c", "d", "y", "v"]})
    rows["scene_label"] = ["Bus", "", "", "", "", "Bar", ""]
    rows["split"] = ["train", "", "train", "train", "train", "test", "valid"]
    rows["label_source"] = ["human", "", "", "", "", "human", ""]
    rows["location"] = 'Xi\'an, "old" town 西安'
    rows["wav"] = [f"{tmp_path}/{name}.wav" for name in rows["ID"]]
    return rows.reindex(columns=[*COLUMNS, "line"], fill_value="")


@pytest.fixture
def chosen():
    return pd.DataFrame(
        {
            "scene_label": ["Bus", "Bus", "Bar", "Bar"],
            "confidence": [0.9, 0.8, 0.7, 0.6],
            "second_label": ["Bar", "Bus", "Bar", "Bus"],
            "step": [1, 1, 2, 0],
        },
        ["007", "b", "c", "d"],
    )


def test_files(table, chosen, tmp_path):
    truth = pd.Series({"007": "Bus", "b": "Bar", "d": "Bar", "x": "Bus"})
    folder = tmp_path / "new" / "folder"
    counts = write_pseudo_labels(folder, table, chosen, truth)
    assert sorted(path.name for path in folder.iterdir()) == FILES

    # As stage 4 reads it, and anyone else.
    manifest = read_manifest(folder / "manifest.csv").set_index("ID")
    assert list(manifest.index) == ["x", "007", "b", "c", "y"]
    assert list(manifest["scene_label"]) == ["Bus", "Bus", "Bus", "Bar", "Bar"]
    assert list(manifest["split"]) == ["train"] * 4 + ["test"]
    assert list(manifest["label_source"]) == [
        *("human", "pseudo-label step 1", "pseudo-label step 1"),
        *("pseudo-label step 2", "human"),
    ]
    assert (manifest["location"] == table["location"][0]).all()
    raw = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    assert list(raw.columns) == [*COLUMNS, "confidence"]
    assert list(raw["confidence"]) == ["", "0.9", "0.8", "0.7", ""]

    rejected = pd.read_csv(folder / "rejected.csv", dtype=str)
    assert rejected.to_dict("records") == [
        {
            "ID": "d",
            "scene_label": "Bar",
            "confidence": "0.6",
            "second_label": "Bus",
            "reason": "not confident enough, and the second model says Bus",
        }
    ]

    report = pd.read_csv(folder / "report.csv", index_col="part")
    pd.testing.assert_frame_equal(report, counts, check_names=False)
    expected = pd.DataFrame(
        {
            "Bar": [0, 1, 1, 1],
            "Bus": [2, 0, 0, 2],
            "clips": [2, 1, 1, 3],
            "agreement": [0.5, 1, 0, 2 / 3],
            "accuracy": [0.5, float("nan"), 1, 0.5],
        },
        ["step 1", "step 2", "rejected", "accepted"],
    )
    pd.testing.assert_frame_equal(report, expected, check_names=False)
    image = pyplot.imread(folder / "report.png")
    assert image.shape[1] == 1080 and image.std() > 0.05


@pytest.mark.parametrize("step", [0, 1])
def test_all_rejected_and_all_accepted(table, chosen, tmp_path, step):
    write_pseudo_labels(tmp_path, table, chosen.assign(step=step))
    labelled = pd.read_csv(tmp_path / "manifest.csv")
    rejected = pd.read_csv(tmp_path / "rejected.csv")
    assert (len(labelled), len(rejected)) == ((6, 0) if step else (2, 4))


def test_manifest_is_written_last_and_an_older_one_stays(
    table, chosen, tmp_path, monkeypatch
):
    (tmp_path / "manifest.csv").write_text("older")
    written = []
    write_csv = pseudo_label_report.write_csv

    def write(rows, path, **options):
        assert (tmp_path / "manifest.csv").read_text() == "older"
        written.append(path.name)
        if path.name == "manifest.csv":
            assert sorted(f.name for f in tmp_path.iterdir()) == FILES
            raise OSError("disk full")
        write_csv(rows, path, **options)

    monkeypatch.setattr(pseudo_label_report, "write_csv", write)
    with pytest.raises(OSError, match="disk full"):
        write_pseudo_labels(tmp_path, table, chosen)
    assert written[-1] == "manifest.csv"
    assert (tmp_path / "manifest.csv").read_text() == "older"


def test_nothing_is_written_for_clips_that_may_not_be_labelled(
    table, chosen, tmp_path
):
    for name in ("x", "v", "unknown"):
        wrong = chosen.rename(index={"d": name})
        with pytest.raises(ValueError, match=f"such as {name}"):
            write_pseudo_labels(tmp_path, table, wrong)
        assert not list(tmp_path.iterdir())
