"""City-separated cross-validation: folds, resuming, scores."""

import pandas as pd
import pytest
from cross_validate import main, make_folds
from recipe_commands import FAST, MAMBA, flags, run, run_killed
from sklearn.metrics import recall_score

from ascmamba_modules.data.manifest import read_manifest
from ascmamba_modules.data.sessions import find_sessions


@pytest.mark.parametrize("n_folds", [2, 4])
def test_folds_of_the_true_metadata(cas, n_folds):
    cas = cas.assign(line=0)
    labelled = cas[(cas["split"] == "train") & (cas["scene_label"] != "")]
    folds = make_folds(cas, "city", n_folds, seed=1)
    assert len(folds) == n_folds
    tested = []
    for names, fold in folds.items():
        parts = {
            s: fold[fold["split"] == s] for s in ("train", "valid", "test")
        }
        assert sum(map(len, parts.values())) == 8700
        # No city on both sides, labelled or not.
        assert set(parts["test"]["location"]) == set(names.split(", "))
        rest = pd.concat([parts["train"], parts["valid"]])
        assert not set(rest["location"]) & set(parts["test"]["location"])
        # No session in training and validation.
        sessions = {s: set(find_sessions(parts[s])) for s in parts}
        assert not sessions["train"] & sessions["valid"]
        assert (parts["valid"]["scene_label"] != "").any()
        tested += list(parts["test"].query("scene_label != ''")["ID"])
    assert sorted(tested) == sorted(labelled["ID"])


def test_too_few_groups(cas):
    with pytest.raises(ValueError, match="are of 8 groups by city, choose"):
        make_folds(cas, "city", 9, seed=1)
    with pytest.raises(ValueError, match="--folds 1"):
        make_folds(cas, "city", 1, seed=1)


def words(clips, output, *more):
    small = flags({**MAMBA[1], **FAST, "number_of_epochs": 1})
    ours = [f"--manifest={clips}", f"--output={output}", "--folds=2"]
    return [MAMBA[0], *ours, *small, "--device=cpu", "--noprogressbar", *more]


def test_killed_it_goes_on_and_scores_every_clip_once(clips, tmp_path):
    output = tmp_path / "out"
    run_killed(
        ["cross_validate.py", *words(clips, output)],
        (output / "logs" / "fold_2.log").exists,
    )
    log = run(["cross_validate.py", *words(clips, output)])
    assert "without fold 1: finished before" in log
    assert "Macro accuracy, mean of the folds: " in log

    table = read_manifest(clips)
    development = table[table["split"] != "test"].set_index("ID")
    parts = [
        pd.read_csv(output / f"fold_{n}" / "test" / "predictions.csv")
        for n in (1, 2)
    ]
    found = pd.concat(parts).set_index("ID")
    assert sorted(found.index) == sorted(development.index)

    results = pd.read_csv(output / "results.csv")
    results = results[results["metric"] == "macro_accuracy"].set_index(
        "condition"
    )["value"]
    scores = [
        recall_score(
            part["scene_label"],
            part["prediction"],
            labels=part["scene_label"].unique(),
            average="macro",
        )
        for part in parts
    ]
    assert list(results.iloc[:2]) == pytest.approx(scores)
    assert results["mean of the folds"] == pytest.approx(sum(scores) / 2)
    together = recall_score(
        found["scene_label"], found["prediction"], average="macro"
    )
    assert results["all folds together"] == pytest.approx(together)

    # Other folds or settings are refused, and nothing is lost.
    for more, message in (
        ("--seed=7", "was made of another manifest, or with other folds"),
        ("--dropout=0.2", "fold_1 was begun with another --dropout"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(words(clips, output, more))
    main(words(clips, output))


def test_wrong_command_lines(clips, tmp_path, capsys):
    with pytest.raises(SystemExit, match="nowhere.yaml: file not found"):
        main(["nowhere.yaml", *words(clips, tmp_path)[1:]])
    with pytest.raises(SystemExit):
        main(words(clips, tmp_path, "--output_folder=x"))
    error = "--output_folder is not for cross-validation"
    assert error in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
