"""Rows of the protocols, against what they are defined by."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss, recall_score

from ascmamba_modules.evaluation.perturbations import (
    hide_place_and_time,
    shuffle_place_and_time,
)
from ascmamba_modules.evaluation.protocols import (
    COLUMNS,
    METADATA_BASELINE,
    ScoredClips,
    compare_pairs,
    score_all,
    score_calibration,
    score_changed,
    score_context,
    score_metadata_baseline,
    score_parts,
)

CLASSES = ["Bus", "Bar", "Park"]


class Fixed:
    """Answers that depend on the clip and on nothing else."""

    uses_context = False

    def __init__(self, posteriors):
        self.rows = dict(enumerate(np.log(posteriors)))

    def log_posteriors(self, table, hide_audio=False):
        return np.stack([self.rows[int(name)] for name in table["ID"]])


@pytest.fixture
def clips(noises):
    return ScoredClips(noises, CLASSES, resamples=50)


@pytest.fixture
def models(make_answers, clips):
    # The second has all right but the first two clips.
    posteriors = np.full((12, 3), 0.1)
    posteriors[np.arange(12), clips.targets] = 0.8
    posteriors[:2] = posteriors[:2, [2, 0, 1]]
    return {
        "first": make_answers(use_context=True),
        "second": Fixed(posteriors),
    }


def value(frame, **chosen):
    """The one row of a frame with these cells."""
    for column, cell in chosen.items():
        frame = frame[frame[column] == cell]
    assert len(frame) == 1
    return frame.iloc[0]


def test_scores_are_those_of_scikit_learn(models, clips):
    frame = score_all(models, clips)
    assert tuple(frame) == COLUMNS and (frame["clips"] > 0).all()
    found = models["first"].log_posteriors(clips.table)
    recalls = recall_score(clips.targets, found.argmax(1), average=None)
    row = value(frame, model="first", metric="macro_accuracy")
    assert row["value"] == pytest.approx(recalls.mean())
    assert row["lower"] <= row["value"] <= row["upper"]
    for name, recall in zip(CLASSES, recalls):
        row = value(frame, model="first", metric=f"recall {name}")
        assert row["value"] == pytest.approx(recall) and row["clips"] == 4
    row = value(frame, model="first", metric="log_loss")
    assert row["value"] == pytest.approx(
        log_loss(clips.targets, softmax(found, axis=1))
    )


def test_parts_are_scored_by_themselves(models, clips):
    parts = np.array(["easy"] * 3 + ["hard"] * 9)
    frame = score_parts(models, clips, "p", parts, ["hard", "none", "easy"])
    assert list(frame["condition"].unique()) == ["hard", "easy"]
    second = {"model": "second", "metric": "macro_accuracy"}
    assert value(frame, condition="hard", **second)["value"] == 1
    assert value(frame, condition="easy", **second)["value"] == pytest.approx(
        1 / 3
    )


def test_context_is_hidden_from_those_that_use_it(models, clips):
    frame = score_context(models, clips)
    frame = frame[frame["metric"] == "log_loss"]
    assert list(frame["condition"]) == [
        *("both", "audio only", "metadata only"),
        "audio only",
    ]
    hidden = models["first"].log_posteriors(hide_place_and_time(clips.table))
    row = value(frame, model="first", condition="audio only")
    expected = log_loss(clips.targets, softmax(hidden, axis=1))
    assert row["value"] == pytest.approx(expected)


def test_mean_and_spread_over_seeds(models, clips):
    shares, seeds = [0.5, 1.0], [1, 2, 3]
    frame = score_changed(
        models, clips, "shuffled", shares, seeds, shuffle_place_and_time
    )
    assert list(frame["condition"].unique()) == ["0 %", "50 %", "100 %"]
    recalls = frame[frame["metric"].str.startswith("recall ")]
    assert (
        set(recalls["condition"]) == {"50 %"} and recalls["seed"].isna().all()
    )
    frame = frame[frame["metric"] == "macro_accuracy"]
    means = recalls.groupby("model")["value"].mean()
    half = frame[(frame["condition"] == "50 %") & frame["seed"].isna()]
    assert means.to_dict() == pytest.approx(
        dict(zip(half["model"], half["value"]))
    )
    half = frame[(frame["condition"] == "50 %") & (frame["model"] == "first")]
    single = half[half["seed"].notna()]
    assert list(single["seed"]) == seeds
    for seed, found in zip(seeds, single["value"]):
        table = shuffle_place_and_time(clips.table, 0.5, seed)
        predictions = models["first"].log_posteriors(table).argmax(1)
        assert found == recall_score(
            clips.targets, predictions, average="macro"
        )
    mean = half[half["seed"].isna()].iloc[0]
    assert mean["value"] == pytest.approx(single["value"].mean())
    spread = single["value"].std(ddof=0)
    assert mean["upper"] - mean["value"] == pytest.approx(spread)
    # The second model does not look at place and time.
    assert frame.loc[frame["model"] == "second", "value"].nunique() == 1


def test_metadata_baseline_knows_training_by_heart(clips):
    parts = ["known"] * 12
    training = clips.table
    frame = score_metadata_baseline(training, clips, "p", parts, ["known"])
    # Two clips of two classes share each place and time.
    assert value(frame, model=METADATA_BASELINE)["value"] == 1
    other = training.assign(scene_label="Elsewhere")
    frame = score_metadata_baseline(other, clips, "p", parts, ["known"])
    assert value(frame, model=METADATA_BASELINE)["value"] == 0
    unlabelled = training.assign(scene_label="")
    steps = "p", parts, ["known"]
    assert score_metadata_baseline(unlabelled, clips, *steps).empty


def test_calibration_rows(models, clips):
    frame, scaled = score_calibration(models, clips)
    assert set(scaled) == set(models)
    second = {"model": "second", "condition": "temperature scaled"}
    row = value(frame, metric="log_loss", **second)
    expected = log_loss(clips.targets, softmax(scaled["second"], axis=1))
    assert row["value"] == pytest.approx(expected)
    row = value(frame, metric="temperature", **second)
    assert row["lower"] <= row["value"] <= row["upper"]


def test_pairs(models, clips):
    third = Fixed(np.full((12, 3), 1 / 3))
    frame = compare_pairs({**models, "third": third}, clips)
    rows = frame[frame["metric"] == "p_value"]
    assert list(rows["model"] + " " + rows["condition"]) == [
        "first against second",
        "first against third",
        "second against third",
    ]
    row = value(
        frame,
        model="second",
        condition="against third",
        metric="macro_accuracy difference",
    )
    scores = score_all({"a": models["second"], "b": third}, clips)
    scores = scores.loc[scores["metric"] == "macro_accuracy", "value"]
    assert row["value"] == pytest.approx(scores.iloc[0] - scores.iloc[1])
