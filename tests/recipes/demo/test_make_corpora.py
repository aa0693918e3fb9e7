"""The demo's corpora: laid out as the downloads, repeatable, never half."""

from pathlib import Path

import demo.make_corpora as module
import numpy as np
import pandas as pd
import pytest
import soundfile
from demo.make_corpora import (
    CAS_SCENES,
    TAU,
    TAU_UNSEEN_DEVICES,
    cas_table,
    main,
    make_demo_corpora,
)

from ascmamba_modules.data.sessions import find_groups

FLAGS = "--tau-clips=4 --cochlscene-clips=3 --cas-clips=15 --seconds=0.1"


def contents(folder):
    """Bytes of every file, by its path."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(files)}


def check_audio(files, rate, subtype):
    for path in files:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (rate, 1)
        assert (info.duration, info.subtype) == (0.2, subtype)


def test_tau_as_downloaded(world):
    meta = pd.read_csv(world / TAU / "meta.csv", sep="\t")
    columns = ["filename", "scene_label", "identifier", "source_label"]
    assert list(meta.columns) == columns and len(meta) == 60
    wavs = {f"audio/{p.name}" for p in (world / TAU / "audio").iterdir()}
    assert wavs == set(meta["filename"])
    check_audio((world / TAU / "audio").iterdir(), 44100, "PCM_24")
    # airport-lisbon-1000-40000-a.wav; a place has one scene.
    parts = meta["filename"].str.removeprefix("audio/").str.split("[-.]")
    assert (parts.str[0] == meta["scene_label"]).all()
    assert (parts.str[1] + "-" + parts.str[2] == meta["identifier"]).all()
    assert (parts.str[4] == meta["source_label"]).all()
    assert (meta.groupby("identifier")["scene_label"].nunique() == 1).all()
    folds = {
        name: pd.read_csv(
            world / TAU / "evaluation_setup" / f"fold1_{name}.csv", sep="\t"
        ).merge(meta, on=shared)
        for name, shared in (
            ("train", columns[:2]),
            ("evaluate", columns[:2]),
            ("test", columns[:1]),
        )
    }
    train, evaluate = folds["train"], folds["evaluate"]
    assert list(folds["test"]["filename"]) == list(evaluate["filename"])
    assert set(train["scene_label"]) == set(evaluate["scene_label"])
    assert not set(train["identifier"]) & set(evaluate["identifier"])
    assert not set(train["source_label"]) & set(TAU_UNSEEN_DEVICES)


def test_cochlscene_as_downloaded(world):
    root = world / "CochlScene"
    rows = pd.read_csv(root / "Data_info.tsv", sep="\t", header=None)
    wavs = sorted(root.rglob("*.wav"))
    assert {str(p.relative_to(root)) for p in wavs} == set(rows[0])
    assert len(rows) == 78 and set(rows[1]) == set(range(13))
    assert (rows[0].str.split("/").str[0] == rows[2]).all()
    users = rows[0].str.split("_").str[1]
    assert (rows[2].groupby(users).nunique() == 1).all()
    check_audio(wavs, 44100, "PCM_16")


def test_cas_as_downloaded(world):
    truth = pd.read_csv(world / "truth.csv", index_col="filename")
    listed = 0
    for part, count in (("dev", 300), ("eval", 40)):
        path = world / "metadata" / f"APSIPA2025_GC_ASC_{part}_metadata.csv"
        header = b"filename,location,record_time,scene_label\n"
        assert path.read_bytes().startswith(b"\xef\xbb\xbf" + header)
        table = pd.read_csv(path, encoding="utf-8-sig", keep_default_na=False)
        pd.to_datetime(table["record_time"], format="%Y-%m-%d %H:%M:%S")
        labels = table["scene_label"]
        assert len(table) == count
        assert (labels != "").sum() == (60 if part == "dev" else 0)
        named = labels[labels != ""]
        scenes = truth.loc[table.loc[named.index, "filename"], "scene_label"]
        assert list(scenes) == list(named)
        # One file a row; some have more in their names.
        folder = world / f"ICME2024_GC_ASC_{part}"
        found = [list(folder.glob(f"*{n}*.wav")) for n in table["filename"]]
        assert all(len(files) == 1 for files in found)
        assert len(list(folder.iterdir())) == count
        check_audio(folder.iterdir(), 48000, "PCM_16")
        listed += count
    assert len(truth) == listed and set(truth["scene_label"]) == set(CAS_SCENES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clips", [15, 36, 60])
def test_cas_has_the_pattern_of_the_true_metadata(clips, seed):
    table = cas_table(clips, np.random.default_rng(seed))
    dev, evaluation = (table[table["part"] == p] for p in ("dev", "eval"))
    assert (dev["scene_label"].value_counts() == clips).all()
    assert set(evaluation["scene_label"]) == set(CAS_SCENES)
    assert table["filename"].is_unique
    groups = find_groups(table.assign(ID=table["filename"], session=""))
    for level in ("session", "run"):
        scenes = table.groupby(groups[level])["scene_label"].nunique()
        assert (scenes == 1).all()
    assert groups["run"].nunique() < 0.8 * groups["session"].nunique()
    # Evaluation: of sessions and runs of development, and of new cities.
    shares = {
        level: evaluation.index.map(groups[level])
        .isin(groups.loc[dev.index, level])
        .mean()
        for level in ("session", "run", "city")
    }
    assert 0.15 < shares["session"] < shares["run"] <= shares["city"] < 0.7
    labelled = dev[dev["labelled"]]
    assert len(labelled) == 10 * round(0.2 * clips)
    assert not evaluation["labelled"].any()
    inside = dev["session"].isin(labelled["session"])
    assert 0.5 < inside.mean()
    cities = dev.groupby("scene_label")["location"].agg(set)
    assert cities.to_dict() == {k: set(v[0]) for k, v in CAS_SCENES.items()}


def test_cities_are_those_of_the_true_metadata(cas):
    labelled = cas[cas["scene_label"] != ""]
    cities = labelled.groupby("scene_label")["location"].agg(set)
    assert cities.to_dict() == {k: set(v[0]) for k, v in CAS_SCENES.items()}
    parts = cas.groupby("split")["location"].agg(set)
    unseen = {city for _, city, _ in CAS_SCENES.values()}
    assert parts["evaluation"] - parts["train"] == unseen


def test_same_seed_same_bytes(tmp_path, capsys):
    for name in "ab":
        main([str(tmp_path / name), *FLAGS.split()])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    line = capsys.readouterr().out.splitlines()[4]
    assert line.split() == ["CAS", "development", "150", "40", "8"]


def test_failure_leaves_nothing_and_is_made_good(tmp_path, monkeypatch):
    write, calls = soundfile.write, []

    def fails_at_last(*arguments):
        calls.append(arguments)
        if len(calls) > 60:
            raise OSError("No space left on device")
        write(*arguments)

    monkeypatch.setattr(module.soundfile, "write", fails_at_last)
    words = [str(tmp_path / "world"), *FLAGS.split()]
    with pytest.raises(SystemExit, match="No space left"):
        main(words)
    assert not (tmp_path / "world").exists()
    monkeypatch.setattr(module.soundfile, "write", write)
    main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--tau-clips=3", "tau_clips is 3, but must be 4 up"),
        ("--cochlscene-clips=0", "cochlscene_clips is 0"),
        ("--cas-clips=14", "cas_clips is 14"),
        ("--seconds=nan", "seconds is nan, but must be 0.1 to 60"),
    ],
)
def test_bad_sizes_are_refused(tmp_path, flag, message):
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path / "new"), flag])
    assert not list(tmp_path.iterdir())


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SystemExit, match=f"{folder} exists"):
            main([str(folder), *FLAGS.split()])
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(FileExistsError):
        make_demo_corpora(tmp_path)
