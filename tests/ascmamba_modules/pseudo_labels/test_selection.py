"""The two-step rule against a plain one, and what may never be labelled."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import (
    given,
    strategies as st,
)

from ascmamba_modules.pseudo_labels.selection import (
    in_pool,
    label_table,
    select,
    summarise,
)

CLASSES = ["Bus", "Airport", "Metro"]
# Few values, so that confidences are often equal, and classes tied.
POSTERIOR = st.sampled_from([0.1, 0.3, 0.5, 0.9])


@st.composite
def posteriors(draw, min_clips=0):
    """Both models' posteriors of the same clips, in an order each."""
    name = st.text("ab01", min_size=1)
    names = draw(st.lists(name, unique=True, min_size=min_clips, max_size=12))
    row = st.lists(POSTERIOR, min_size=3, max_size=3)
    rows = st.lists(row, min_size=len(names), max_size=len(names))
    return tuple(
        pd.DataFrame(
            np.reshape(draw(rows), (-1, 3)),
            draw(st.permutations(names)),
            CLASSES,
            dtype=float,
        )
        for _ in range(2)
    )


SHARE = st.sampled_from([0, 0.1, 0.29, 1 / 3, 0.5, 0.9, 1])


def plain_rule(first, second, share):
    """Section 3.3, clip by clip: name to (label, step)."""
    first_says, second_says, confidence = {}, {}, {}
    for says, table in ((first_says, first), (second_says, second)):
        for name in table.index:
            best = CLASSES[0]
            for label in CLASSES[1:]:
                if table.loc[name, label] > table.loc[name, best]:
                    best = label
            says[name] = best
    for name, label in first_says.items():
        confidence[name] = first.loc[name, label]
    surest = sorted(confidence, key=lambda name: (-confidence[name], name))
    number = math.floor(Fraction(share).limit_denominator(100) * len(surest))
    answer = {}
    for rank, name in enumerate(surest):
        agrees = first_says[name] == second_says[name]
        step = 1 if rank < number else 2 if agrees else 0
        answer[name] = first_says[name], step
    return answer


@given(posteriors(), SHARE)
def test_select_is_the_two_step_rule(tables, share):
    first, second = tables
    chosen = select(first, second, share)
    assert list(chosen.index) == list(first.index)
    found = dict(zip(chosen.index, zip(chosen["scene_label"], chosen["step"])))
    assert found == plain_rule(first, second, share)
    for name, row in chosen.iterrows():
        assert row["confidence"] == first.loc[name].max()
        assert second.loc[name, row["second_label"]] == second.loc[name].max()


@given(posteriors(), SHARE, st.randoms(use_true_random=False))
def test_order_of_input_never_matters(tables, share, random):
    first, second = tables
    chosen = select(first, second, share)
    shuffled = [
        table.loc[random.sample(list(table.index), len(table))]
        for table in tables
    ]
    again = select(*shuffled, share)
    pd.testing.assert_frame_equal(again.loc[chosen.index], chosen)


@given(posteriors())
def test_more_share_never_takes_a_label_back(tables):
    steps = [select(*tables, share)["step"] for share in (0, 0.3, 0.6, 1)]
    for fewer, more in zip(steps, steps[1:]):
        assert ((fewer == 0) | (more != 0)).all()
        assert ((fewer != 1) | (more == 1)).all()


@given(posteriors(min_clips=1))
def test_share_of_nothing_and_of_all(tables):
    first, second = tables
    none, every = select(*tables, share=0), select(*tables, share=1)
    agrees = none["scene_label"] == none["second_label"]
    assert (none["step"] == np.where(agrees, 2, 0)).all()
    assert (every["step"] == 1).all()


@given(posteriors(min_clips=1), SHARE)
def test_all_agree_and_none_agree(tables, share):
    first, _ = tables
    assert (select(first, first, share)["step"] > 0).all()
    # Every clip's classes moved on by one: never the same answer again.
    best = first.idxmax(axis=1).map(CLASSES.index)
    other = pd.DataFrame(
        np.eye(3)[(best + 1) % 3], index=first.index, columns=CLASSES
    )
    steps = select(first, other, share)["step"]
    assert set(steps) <= {0, 1}
    assert (steps == 1).sum() == int(share * len(first) + 1e-9)


@pytest.mark.parametrize(
    "clips, share, accepted",
    [(1, 0.9, 0), (9, 0.9, 8), (10, 0.9, 9), (100, 0.29, 29), (3, 1 / 3, 1)],
)
def test_share_is_rounded_down_to_whole_clips(clips, share, accepted):
    table = pd.DataFrame({"Bus": 0.6, "Bar": 0.4}, range(clips))
    other = table[["Bar", "Bus"]].set_axis(["Bus", "Bar"], axis=1)
    chosen = select(table, other, share)
    assert (chosen["step"] == 1).sum() == accepted
    # Equal confidences are sorted by name, as text.
    names = sorted(map(str, range(clips)))
    assert sorted(chosen.index[chosen["step"] == 1].map(str)) == sorted(
        names[:accepted]
    )


def table_of(clips, value=0.5):
    return pd.DataFrame({"Bus": value, "Bar": 0.5}, list(clips))


@pytest.mark.parametrize(
    "first, second, share, message",
    [
        (table_of("ab"), table_of("ab"), 1.1, "share must be between 0 and 1"),
        (table_of("ab"), table_of("ab"), -0.1, "share must be between 0 and 1"),
        (table_of("ab"), table_of("ab"), float("nan"), "share must be"),
        (table_of("ab"), table_of("ac"), 0.9, "of other clips"),
        (table_of("ab"), table_of("abc"), 0.9, "of other clips"),
        (table_of("aa"), table_of("aa"), 0.9, "occur twice: a"),
        (table_of("ab"), table_of("abb"), 0.9, "occur twice: b"),
        (table_of("ab"), table_of("ab")[["Bus"]], 0.9, "different classes"),
        (table_of("ab", float("nan")), table_of("ab"), 0.9, "of a are not fin"),
        (table_of("ab"), table_of("ab", float("inf")), 0.9, "of a are not fin"),
    ],
)
def test_unfit_posteriors_are_refused(first, second, share, message):
    with pytest.raises(ValueError, match=message):
        select(first, second, share)


SPLITS = ["", "train", "valid", "test", "evaluation", "Train", "held back"]


@st.composite
def manifests(draw):
    """Manifest rows with and without labels, of any split."""
    row = st.tuples(
        st.sampled_from(["", "", *CLASSES]), st.sampled_from(SPLITS)
    )
    rows = draw(st.lists(row, min_size=1, max_size=12))
    table = pd.DataFrame(rows, columns=["scene_label", "split"])
    table["ID"] = [f"clip{number}" for number in range(len(table))]
    table["label_source"] = np.where(table["scene_label"] == "", "", "human")
    table["wav"] = table["ID"] + ".wav"
    order = draw(st.permutations(range(len(table))))
    return table.iloc[order]


@st.composite
def labelled_manifests(draw):
    """A manifest, and what was chosen for its pool."""
    table = draw(manifests())
    pool = table.loc[in_pool(table), "ID"]
    row = st.tuples(st.sampled_from(CLASSES), POSTERIOR, st.integers(0, 2))
    rows = draw(st.lists(row, min_size=len(pool), max_size=len(pool)))
    columns = ["scene_label", "confidence", "step"]
    chosen = pd.DataFrame(rows, draw(st.permutations(list(pool))), columns)
    return table, chosen


@given(manifests())
def test_pool_is_what_is_neither_labelled_nor_held_out(table):
    for is_in, (_, row) in zip(in_pool(table), table.iterrows()):
        assert is_in == (
            row["scene_label"] == "" and row["split"] in ("", "train")
        )


@given(labelled_manifests())
def test_label_table(given_tables):
    table, chosen = given_tables
    before = table.copy()
    labelled = label_table(table, chosen).set_index("ID")
    pd.testing.assert_frame_equal(table, before)
    rows = table.set_index("ID")
    expected = [
        name
        for name in rows.index
        if rows.loc[name, "scene_label"]
        or (name in chosen.index and chosen.loc[name, "step"])
    ]
    assert list(labelled.index) == expected
    for name, row in labelled.iterrows():
        if rows.loc[name, "scene_label"]:  # nothing of it may change
            assert row.drop("confidence").equals(rows.loc[name])
            assert row["confidence"] == ""
        else:
            assert rows.loc[name, "split"] in ("", "train")
            step = chosen.loc[name, "step"]
            assert row.drop("wav").to_dict() == {
                "scene_label": chosen.loc[name, "scene_label"],
                "split": "train",
                "label_source": f"pseudo-label step {step}",
                "confidence": chosen.loc[name, "confidence"],
            }


@pytest.mark.parametrize(
    "label, split", [("Bus", "train")] + [("", name) for name in SPLITS[2:]]
)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_labelled_and_held_out_clips_are_refused(label, split, step):
    table = pd.DataFrame({"ID": ["a", "b"], "scene_label": ["", label]})
    table = table.assign(split=["train", split], label_source="")
    chosen = pd.DataFrame(
        {"scene_label": "Metro", "confidence": 0.9, "step": step}, ["a", "b"]
    )
    with pytest.raises(ValueError, match="1 clips may not .* such as b"):
        label_table(table, chosen)
    with pytest.raises(ValueError, match="such as c"):
        label_table(table, chosen.set_axis(["a", "c"]))


@given(posteriors(min_clips=1), SHARE, st.data())
def test_summarise_counts(tables, share, data):
    chosen = select(*tables, share)
    known = st.sampled_from(["", *CLASSES])
    truth = pd.Series(
        {name: data.draw(known) for name in [*chosen.index, "elsewhere"]}
    )
    counts = summarise(chosen, truth)
    assert "accuracy" not in summarise(chosen)
    parts = {"step 1": [1], "step 2": [2], "rejected": [0], "accepted": [1, 2]}
    assert list(counts.index) == list(parts)
    for part, steps in parts.items():
        rows = [row for row in chosen.itertuples() if row.step in steps]
        found = counts.loc[part]
        assert found["clips"] == len(rows)
        for label in set(chosen["scene_label"]):
            assert found[label] == sum(r.scene_label == label for r in rows)
        agrees = [row.scene_label == row.second_label for row in rows]
        right = [
            row.scene_label == truth[row.Index]
            for row in rows
            if truth[row.Index]
        ]
        for name, values in (("agreement", agrees), ("accuracy", right)):
            assert found[name] == pytest.approx(
                np.mean(values) if values else np.nan, nan_ok=True
            )
    if counts.loc["step 2", "clips"]:
        assert counts.loc["step 2", "agreement"] == 1
    if counts.loc["rejected", "clips"]:
        assert counts.loc["rejected", "agreement"] == 0


def test_by_class_no_class_is_left_out():
    """The first model is sure of buses and never of bars."""
    clips = [f"clip {i}" for i in range(20)]
    bus = [0.95 + 0.002 * i for i in range(10)]
    bar = [0.55 + 0.002 * i for i in range(10)]
    first = pd.DataFrame({"Bus": [*bus, *(1 - x for x in bar)]}, clips)
    first["Bar"] = 1 - first["Bus"]
    second = 1 - first  # never agrees
    plain = select(first, second, 0.5)
    assert plain.loc[plain["step"] == 1, "scene_label"].unique() == ["Bus"]
    chosen = select(first, second, 0.5, by_class=True)
    chosen = chosen[chosen["step"] == 1]
    assert chosen["scene_label"].value_counts().to_dict() == {
        "Bus": 5,
        "Bar": 5,
    }
    assert chosen["confidence"].min() == pytest.approx(0.56)
