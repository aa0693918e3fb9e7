"""The tables of the demo corpora, against what is known of the true ones."""

import re

import pandas as pd
import pytest
from demo.world import (
    CAS_SCENES,
    COCHLSCENE_SCENES,
    TAU_SCENES,
    cas_table,
    cochlscene_table,
    tau_table,
)
from hypothesis import (
    given,
    settings,
    strategies as st,
)

SEEDS = st.integers(0, 2**32)
UNSEEN = {
    "Nanchang",
    "Shenyang",
    "Guangzhou",
    "Changchun",
    "Tianjin",
    "Taiyuan",
}


@settings(max_examples=15)
@given(st.integers(4, 60), SEEDS)
def test_tau(clips, seed):
    table = tau_table(clips, seed)
    counts = table["scene_label"].value_counts()
    assert set(counts.index) == set(TAU_SCENES) and set(counts) == {clips}
    assert table["path"].is_unique
    form = r"audio/([a-z_]+)-([a-z]+)-(\d+)-(\d+)-(a|b|c|s[1-6])\.wav"
    for row in table.itertuples():
        scene, city, place, _, device = re.fullmatch(form, row.path).groups()
        assert scene == row.scene_label and device == row.source_label
        assert f"{city}-{place}" == row.identifier
    # A place is one scene's, and on one side of the split.
    places = table[table["fold"] != ""].groupby("identifier")
    assert (places[["scene_label", "fold"]].nunique() == 1).all(axis=None)
    for fold in ("train", "evaluate"):
        part = table[table["fold"] == fold]
        assert set(part["scene_label"]) == set(TAU_SCENES)
    train = table[table["fold"] == "train"]
    assert not set(train["source_label"]) & {"s4", "s5", "s6"}
    # Every segment is heard by device a, and by the others with it.
    for _, heard in table.groupby("clip"):
        assert list(heard["source_label"]).count("a") == 1
        assert heard["session"].nunique() == 1


@settings(max_examples=15)
@given(st.integers(3, 60), SEEDS)
def test_cochlscene(clips, seed):
    table = cochlscene_table(clips, seed)
    counts = table["scene_label"].value_counts()
    assert set(counts.index) == set(COCHLSCENE_SCENES)
    assert set(counts) == {clips} and table["path"].is_unique
    assert list(dict.fromkeys(table["number"])) == list(range(13))
    form = r"(Train|Val|Test)/([A-Za-z]+)/\2_(user\d{4})_(\d{8})_\d{3}\.wav"
    parsed = table["path"].str.extract(form)
    assert (parsed[0] == table["split"]).all()
    assert (parsed[1] == table["scene_label"]).all()
    assert (table["split"].groupby(parsed[2]).nunique() == 1).all()
    per_split = table.groupby(["split", "scene_label"]).size()
    assert len(per_split) == 3 * 13 and (per_split > 0).all()


def runs(table):
    """Number of the run of each session, chained by 600 s +- 1 s."""
    sessions = table.drop_duplicates(["location", "record_time"]).copy()
    sessions["time"] = pd.to_datetime(sessions["record_time"])
    found, last = {}, -1
    for _, city in sessions.sort_values("time").groupby("location"):
        ends = {}  # start of the last session of each run
        for row in city.itertuples():
            seconds = row.time.timestamp()
            for run, end in ends.items():
                if abs(seconds - end - 600) <= 1:
                    break
            else:
                last = run = last + 1
            ends[run] = seconds
            found[row.session] = run
    return table["session"].map(found)


@settings(max_examples=10)
@given(st.integers(15, 120), SEEDS)
def test_cas_has_the_pattern_of_the_true_metadata(clips, seed):
    table = cas_table(clips, seed)
    dev, evaluation = (table[table["part"] == p] for p in ("dev", "eval"))
    assert (dev["scene_label"].value_counts() == clips).all()
    assert set(evaluation["scene_label"]) == set(CAS_SCENES)
    share = len(evaluation) / len(dev)
    assert share == pytest.approx(1100 / 8700, abs=0.03 if clips > 30 else 0.1)
    assert table["filename"].is_unique and table["path"].is_unique
    assert table["filename"].str.fullmatch(r"[0-9a-f]{32}\d{1,2}_[12]").all()

    # One class a session, at most a clip for each ten of its 600 seconds.
    sessions = table.groupby(["location", "record_time"])
    assert (sessions["scene_label"].nunique() == 1).all()
    segments = table["filename"].str[32:].str.split("_").str[0].astype(int)
    assert segments.between(1, 60).all()
    by_session = segments.groupby(table["session"])
    assert (by_session.nunique() == by_session.size()).all()

    # Sessions chain into runs of one class; some are of several sessions,
    # and some evaluation clips continue a run of development.
    table["run"] = runs(table)
    assert (table.groupby("run")["scene_label"].nunique() == 1).all()
    assert table["run"].nunique() < 0.8 * table["session"].nunique()
    evaluation = table[table["part"] == "eval"]
    in_session = evaluation["session"].isin(dev["session"])
    in_run = evaluation["run"].isin(table["run"][table["part"] == "dev"])
    assert in_session.sum() >= 10 and (in_run & ~in_session).sum() >= 10
    unseen = ~evaluation["location"].isin(dev["location"])
    assert set(evaluation["location"][unseen]) == UNSEEN
    assert 0.3 < unseen.mean() < 0.75

    # Labels: a fifth, nearly all of the rest in a session that has one.
    labelled = dev[dev["labelled"]]
    assert len(labelled) == pytest.approx(0.2 * len(dev), abs=10)
    assert not evaluation["labelled"].any()
    others = dev[~dev["labelled"]]
    inside = others["session"].isin(labelled["session"])
    assert 0.9 < inside.mean() < 1.0

    cities = dev.groupby("scene_label")["location"].agg(set)
    assert cities.map(len).between(1, 3).all()
    assert cities["Public square"] == cities["Traffic street"] == {"Xi'an"}


def test_true_metadata_has_that_pattern(shared_data):
    """So that the test above asks for the right things."""
    names = ("dev", "eval")
    parts = [
        pd.read_csv(
            shared_data / f"cas_metadata/APSIPA2025_GC_ASC_{n}_metadata.csv",
            encoding="utf-8-sig",
        ).assign(part=n)
        for n in names
    ]
    table = pd.concat(parts)
    assert table["filename"].str.fullmatch(r"[0-9a-f]{32}\d{1,2}_[12]").all()
    labelled = table.dropna(subset="scene_label")
    sessions = labelled.groupby(["location", "record_time"])["scene_label"]
    assert (sessions.nunique() == 1).all()
    cities = labelled.groupby("scene_label")["location"].agg(set)
    for scene, (own, _, _) in CAS_SCENES.items():
        assert cities[scene] == set(own)
    seen = set(parts[0]["location"])
    assert set(parts[1]["location"]) - seen == UNSEEN
    assert {city for _, city, _ in CAS_SCENES.values()} == UNSEEN


def test_same_seed_same_tables():
    for make in (tau_table, cochlscene_table, cas_table):
        pd.testing.assert_frame_equal(make(20, 1), make(20, 1))
        assert not make(20, 1)["path"].equals(make(20, 2)["path"])
