"""How new clips are to training, on the challenge's true metadata."""

import pandas as pd

from ascmamba_modules.data.leakage import audit
from ascmamba_modules.evaluation.novelty import UNKNOWN, novelty_of


def test_counts_of_the_true_evaluation_set(cas):
    training = cas[(cas["split"] == "train") & (cas["scene_label"] != "")]
    clips = cas[cas["split"] == "evaluation"]
    found = pd.Series(novelty_of(training, clips), clips.index)
    # Place and time name a session.
    pairs = cas["location"] + cas["record_time"]
    seen = pairs[clips.index].isin(pairs[training.index])
    assert (seen == (found == "seen session")).all() and seen.sum() == 247
    # The paper: 12 cities, 6 of them new.
    assert clips.loc[found == "unseen city", "location"].nunique() == 6
    new = ~clips["location"].isin(training["location"])
    assert (new == (found == "unseen city")).all()
    # Nobody in an unseen day has training clips of that city on that date.
    dates = cas["location"] + cas["record_time"].str[:10]
    unseen = found.index[found == "unseen day"]
    assert not set(dates[unseen]) & set(dates[training.index])


def test_shares_are_those_of_the_audit(cas):
    rows = cas[cas["split"] == "train"].copy()
    labelled = rows.index[rows["scene_label"] != ""]
    valid = labelled[::5]
    rows.loc[valid, "split"] = "valid"
    training = rows.loc[labelled.difference(valid)]
    found = novelty_of(training, rows.loc[valid])
    shares = audit(rows)["valid"]
    text = "of a labelled training clip"
    seen = found == "seen session"
    assert seen.mean() == shares[f"session {text}"]
    new_city = found == "unseen city"
    assert 1 - new_city.mean() == shares[f"city {text}"]


def test_unknown_place_or_day():
    table = pd.DataFrame({"ID": list("abcd")})
    table["location"] = ["Hefei", "", "Hefei", ""]
    table["record_time"] = ["2023-05-21 10:08:52", "2023-05-21", "", ""]
    table["session"] = ["s", "", "", "s"]
    found = novelty_of(table[:1], table[1:])
    assert list(found) == [UNKNOWN, UNKNOWN, "seen session"]
