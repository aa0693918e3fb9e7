"""The manifest of CAS, from a made-up copy laid out as the download."""

import pandas as pd
import pytest
import soundfile
from hypothesis import (
    given,
    strategies as st,
)
from prepare_cas import SCENES, main, match_files, prepare_cas, read_metadata

from ascmamba_modules.data.manifest import ManifestError, read_manifest

DEV = "APSIPA2025_GC_ASC_dev_metadata.csv"


def read_truth(world):
    table = pd.read_csv(world / "truth.csv", dtype=str)
    return table.set_index("filename")["scene_label"]


def test_every_row_has_its_file(world, tmp_path):
    table = prepare_cas(world, tmp_path / "m.csv")
    files = {str(file) for file in world.glob("ICME2024_GC_ASC_*/**/*.wav")}
    assert set(table["wav"]) == files
    for row in table.itertuples():  # some carry a prefix or a suffix
        assert row.ID in row.wav.rsplit("/", 1)[-1]
    named = [f"/{row.ID}.wav" in row.wav for row in table.itertuples()]
    assert any(named) and not all(named)
    truth = read_truth(world)
    assert sorted(truth.index) == sorted(table["ID"])
    labelled = table[table["scene_label"] != ""]
    assert (truth[labelled["ID"]].to_numpy() == labelled["scene_label"]).all()
    assert set(labelled["label_source"]) == {"synthetic"}
    assert set(table["dataset"]) == {"synthetic CAS 2023"}
    assert (table.loc[table["scene_label"] == "", "label_source"] == "").all()
    written = read_manifest(tmp_path / "m.csv")
    assert written["session"].tolist() == table["session"].tolist()


@pytest.mark.parametrize("split", ["random", "session", "run", "city_day"])
def test_splits(world, tmp_path, split):
    table = prepare_cas(world, tmp_path / "m.csv", split)
    evaluation = table["wav"].str.contains("_eval/")
    assert (table["split"] == "evaluation").eq(evaluation).all()
    rows = table[~evaluation]
    assert set(rows["split"]) == {"train", "valid"}
    trained = rows[(rows["split"] == "train") & (rows["scene_label"] != "")]
    assert set(trained["scene_label"]) == set(SCENES)
    shared = set.intersection(
        *(set(part["session"]) for _, part in rows.groupby("split"))
    )
    # The paper's split leaks; ours keep unlabelled clips apart, too.
    assert bool(shared) == (split == "random")


def test_known_labels_make_evaluation_clips_test_clips(own_world, tmp_path):
    truth = own_world / "truth.csv"
    table = prepare_cas(own_world, tmp_path / "m.csv", truth=truth)
    is_test = table["split"] == "test"
    assert is_test.eq(table["wav"].str.contains("_eval/")).all()
    labels = read_truth(own_world)
    found = table.loc[is_test].set_index("ID")["scene_label"]
    assert found.eq(labels[found.index]).all()
    # Those of development stay unknown: the truth is for scoring.
    rows = table[~is_test]
    assert (rows["scene_label"] == "").mean() > 0.7
    truth.write_text(truth.read_text().replace(",Bus", ",Buss", 1))
    with pytest.raises(ManifestError, match="line .*'Buss'"):
        prepare_cas(own_world, tmp_path / "n.csv", truth=truth)


def test_evaluation_set_may_be_absent(own_world, tmp_path):
    for path in (own_world / "ICME2024_GC_ASC_eval").rglob("*.wav"):
        path.unlink()
    (own_world / "ICME2024_GC_ASC_eval").rmdir()
    table = prepare_cas(own_world, tmp_path / "m.csv")
    assert set(table["split"]) == {"train", "valid"}


def test_missing_and_ambiguous_files_are_reported(own_world, tmp_path):
    files = sorted((own_world / "ICME2024_GC_ASC_dev").rglob("*.wav"))
    plain = [f for f in files if f.stem in read_truth(own_world).index]
    gone, doubled, copied = plain[:3]
    gone.unlink()
    doubled.rename(doubled.with_name(f"{doubled.stem}_a.wav"))
    for path in (f"{doubled.stem}_b.wav", f"sub/{copied.name}"):
        path = files[0].parent / path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files[5].read_bytes())
    table = prepare_cas(own_world, tmp_path / "m.csv", max_problems=0.1)
    left_out = [gone.stem, doubled.stem, copied.stem]
    assert not table["ID"].isin(left_out).any()
    report = pd.read_csv(tmp_path / "m_problems.csv").set_index("ID")
    assert sorted(report.index) == sorted(left_out)
    assert "no file for this row" in report["problem"][gone.stem]
    assert "several files fit" in report["problem"][doubled.stem]
    assert f"sub/{copied.name}" in report["problem"][copied.stem]


@given(
    st.sets(st.text("ab1_", min_size=1, max_size=4), max_size=8),
    st.sets(st.text("ab1_", min_size=1, max_size=6), max_size=8),
)
def test_files_are_matched_by_the_rule(tmp_path_factory, names, stems):
    folder = tmp_path_factory.mktemp("files")
    for stem in stems:
        (folder / f"{stem}.wav").touch()
    files, problems = match_files(sorted(names), folder)
    assert {p["ID"] for p in problems} | set(files) == names
    assert len(problems) + len(files) == len(names)
    assert len(set(files.values())) == len(files)
    for name in names:
        if name in stems:
            assert files[name] == str(folder / f"{name}.wav")
            continue
        # Those that are called exactly like another row belong to it.
        fits = [s for s in stems - names if name in s]
        if name in files:
            assert files[name] == str(folder / f"{fits[0]}.wav")
        own = len(fits) == 1 and sum(n in fits[0] for n in names - stems) == 1
        assert (name in files) == own


ROW = "aa_1,Xi'an,2023-06-18 18:44:34,Bus"


@pytest.mark.parametrize(
    "rows, message",
    [
        ([ROW, "bb_1,Xi'an,18:44 yesterday,"], "line 3 .bb_1.*'18:44 yester"),
        ([ROW, "bb_1,Xi'an,,Disco"], "line 3 .bb_1.*unknown scene.*'Disco'"),
        ([ROW, "bb_1,,,", ROW], "line 4: second row for aa_1.*line 2"),
        ([ROW, "bb_1,Xi'an,,,Bus,x"], "not a CSV file"),
    ],
)
def test_odd_metadata(tmp_path, rows, message):
    path = tmp_path / "meta.csv"
    header = "filename,location,record_time,scene_label"
    path.write_text("\n".join([header, *rows]), "utf-8-sig")
    with pytest.raises(ManifestError, match=message) as error:
        read_metadata(path)
    assert str(path) in str(error.value)


def test_true_metadata(shared_data, tmp_path):
    """Every row of the challenge, with a file of no samples' length each."""
    folder = shared_data / "cas_metadata"
    meta = read_metadata(folder / DEV)
    assert len(meta) == 8700
    assert (meta["scene_label"] != "").sum() == 1740
    assert set(meta["scene_label"]) == {"", *SCENES}
    for number, name in enumerate(meta["filename"]):
        stem = (name, f"asc_{name}", f"{name}_48k")[number % 3]
        (tmp_path / f"{stem}.wav").touch()
    files, problems = match_files(meta["filename"], tmp_path)
    assert len(files) == 8700 and not problems


def test_command(world, tmp_path, capsys):
    output = tmp_path / "m.csv"
    main([str(world), "--output", str(output), "--audit"])
    out = capsys.readouterr().out
    assert "(unlabelled)" in out and "metadata-only macro accuracy" in out
    assert "Nanchang" in out  # a city that training has not seen
    assert (tmp_path / "m_metadata.png").stat().st_size > 10000


@pytest.mark.parametrize("missing", ["ICME2024_GC_ASC_dev", f"metadata/{DEV}"])
def test_wrong_folder(own_world, tmp_path, missing):
    (own_world / missing).rename(own_world / "elsewhere")
    with pytest.raises(SystemExit, match="(?s)expected ICME.*github") as error:
        main([str(own_world), "--output", str(tmp_path / "m.csv")])
    assert "wörld 世界" in str(error.value)
    assert not list(tmp_path.glob("*.csv"))


def test_only_changed_files_are_read_again(own_world, tmp_path, caplog):
    caplog.set_level("INFO")
    prepare_cas(own_world, tmp_path / "m.csv")
    before = (tmp_path / "m.csv").read_bytes()
    caplog.clear()
    wav = next((own_world / "ICME2024_GC_ASC_dev").rglob("*.wav"))
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, samples[: len(samples) // 4], rate)
    prepare_cas(own_world, tmp_path / "m.csv")
    assert any(m.startswith("1 audio files checked") for m in caplog.messages)
    assert (tmp_path / "m.csv").read_bytes() != before
