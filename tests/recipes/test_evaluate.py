"""evaluate.py as users run it: on models trained just now, and bad input."""

import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from evaluate import find_unseen_places, load_training, main
from recipe_commands import MAMBA, changed, command, flags, run_here

from ascmamba_modules.data.manifest import read_manifest, write_manifest
from ascmamba_modules.evaluation.protocols import COLUMNS
from ascmamba_modules.inference import SceneClassifier

HPARAMS = "hparams/evaluate.yaml"


def words(models, manifest, output, **options):
    models = ", ".join(f"{name}: {folder}" for name, folder in models.items())
    files = {"manifest": manifest, "output_folder": output}
    options = {"models": f"{{{models}}}", **files, **options}
    return [HPARAMS, *flags(options), "--device=cpu"]


@pytest.fixture(scope="module")
def two(finished, finished_se_trans):
    return {"with context": finished, "SE-Trans": finished_se_trans / "model"}


@pytest.fixture(scope="module")
def evaluated(two, clips, tmp_path_factory):
    """An evaluation with all protocols; its output folder and its log."""
    output = tmp_path_factory.mktemp("evaluated")
    options = {
        "split": "valid",
        "evaluation_manifest": clips,
        "evaluation_split": "test",
        "unseen_places": "[Nanchang, Taiyuan]",
        "threshold": 0.5,
        "seeds": "[1, 2]",
        "hardest": 2,
        "batch_size": 4,
    }
    log = run_here(["evaluate.py", *words(two, clips, output, **options)])
    return output, log


def test_all_files_are_there(evaluated):
    output, log = evaluated
    assert "10 clips of split 'valid' are scored" in log
    assert "Models: with context, SE-Trans; device: cpu" in log
    for name in ("with context", "SE-Trans"):
        assert len(pd.read_csv(output / "predictions" / f"{name}.csv")) == 10
    plots = {path.name for path in (output / "plots").iterdir()}
    names = {name.rsplit(".", 1)[0] for name in plots}
    assert plots == {f"{n}.{kind}" for n in names for kind in ("png", "svg")}
    assert names == {
        *("macro_accuracy", "audio_and_metadata", "shuffled"),
        *("unseen_places", "difficulty", "seen_in_training"),
        *("similarity_nearest", "similarity_mean"),
        *(
            f"{plot}_{model}"
            for plot in (
                "confusion",
                "reliability",
                "map_by_class",
                "map_by_city",
            )
            for model in ("with context", "SE-Trans")
        ),
    }
    page = (output / "report.html").read_text("utf-8")
    assert page.count("<audio") == 2


def test_results_are_in_long_form(evaluated):
    table = pd.read_csv(evaluated[0] / "results.csv")
    assert tuple(table) == COLUMNS
    assert table["protocol"].unique().tolist() == [
        "all clips",
        "audio and metadata",
        "difficulty",
        "shuffled place and time",
        "unseen places",
        "seen in training",
        "calibration",
        "paired test",
    ]
    keys = ["model", "protocol", "condition", "seed", "metric"]
    assert not table.duplicated(keys).any()
    shuffled = table[table["protocol"] == "shuffled place and time"]
    assert shuffled["condition"].unique().tolist() == [
        f"{share} %" for share in (0, 5, 10, 20, 50, 70, 100)
    ]
    assert set(shuffled["seed"].dropna()) == {1, 2}


def test_predictions_are_those_of_the_classifier(evaluated, finished, clips):
    found = pd.read_csv(evaluated[0] / "predictions" / "with context.csv")
    rows = read_manifest(clips)
    rows = rows[rows["split"] == "valid"]
    assert list(found["ID"]) == list(rows["ID"])
    classifier = SceneClassifier.from_hparams(
        source=finished / "model", run_opts={"device": "cpu"}
    )
    for row, posteriors in zip(
        rows.itertuples(), found.filter(like="p(").to_numpy()
    ):
        expected = classifier.classify_file(
            row.wav, row.location, row.record_time
        )[0][0].exp()
        np.testing.assert_allclose(posteriors, expected, atol=1e-4)
    right = found["prediction"] == found["scene_label"]
    table = pd.read_csv(evaluated[0] / "results.csv")
    accuracy = table[
        (table["model"] == "with context")
        & (table["protocol"] == "all clips")
        & (table["metric"] == "accuracy")
    ]
    assert accuracy["value"].item() == pytest.approx(right.mean())


def test_terminal_shows_the_summary(evaluated):
    output, log = evaluated
    assert f"Report: {output / 'report.html'}" in log
    (line,) = [x for x in log.splitlines() if x.strip().startswith("SE-Trans")]
    table = pd.read_csv(output / "results.csv")
    row = table[(table["model"] == "SE-Trans")].iloc[0]
    assert row["metric"] == "macro_accuracy"
    assert f"{100 * row['value']:.1f} (" in line


def test_little_to_score(finished, clips, tmp_path):
    # One session, no training clips, most classes absent, one row unlabelled.
    table = read_manifest(clips)
    keep = table.index[table["split"] == "test"][:4]
    manifest = changed(
        *(clips, tmp_path),
        split=lambda column: column.where(column.index.isin(keep), ""),
        session=lambda column: "one",
        scene_label=lambda column: column.where(column.index != keep[0], ""),
    )
    output = tmp_path / "out"
    log = run_here(["evaluate.py", *words({"a": finished}, manifest, output)])
    assert "3 clips of split 'test' are scored; sessions: 1" in log
    assert "1 rows of the split have no label" in log
    assert f"line {table['line'][keep[0]]}, ID {table['ID'][keep[0]]}" in log
    assert "macro accuracy is over the others (3)" in log
    assert "One session has no intervals, tests and temperature" in log
    assert "need --evaluation_manifest" in log
    assert "no rows of split 'train'" in log
    results = pd.read_csv(output / "results.csv")
    assert set(results["protocol"]) == {
        "all clips",
        "audio and metadata",
        "shuffled place and time",
    }
    assert results["value"].isna().sum() == 14  # recalls of classes not there
    assert (output / "report.html").exists()


def test_another_run_leaves_nothing_of_the_first(
    evaluated, finished, clips, tmp_path
):
    output = shutil.copytree(evaluated[0], tmp_path / "out")
    run_here(["evaluate.py", *words({"other": finished}, clips, output)])
    assert [p.name for p in (output / "predictions").iterdir()] == ["other.csv"]
    names = [p.name for p in (output / "plots").iterdir()]
    assert not [name for name in names if "SE-Trans" in name]


def test_folders_of_the_user_are_kept(finished, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(sys.modules["recipe_commands"].RECIPE)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.png").touch()
    with pytest.raises(SystemExit, match="has plots, and not of an evaluation"):
        main(words({"a": finished}, clips, tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["plots", "mine.png"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"models": "{}"}, "models must be names with folders"),
        ({"models": "{a/b: x}"}, "the name 'a/b' is to be part of file names"),
        ({"models": "{a: nowhere}"}, "models: No such folder: nowhere"),
        ({"split": "train2"}, r"no rows of split 'train2' \(splits in the"),
        (
            {"evaluation_manifest": "that of the clips"},
            r"no rows of split 'evaluation' \(splits in the file: test, train, "
            r"valid\); choose another --evaluation_split, or leave out --ev",
        ),
        ({"stage": "finetune"}, "its stage is finetune, this script runs st"),
        ({"resamples": 0}, "resamples must be a whole number from 1 on, got 0"),
        ({"similarity": "far"}, "similarity must be nearest or mean, got far"),
        ({"shares": "[5]"}, "shares must be over 0 and up to 1, got 5"),
        ({"seeds": "3"}, "seeds must be a list, got 3"),
        ({"seeds": "[a]"}, "seeds must be a whole number from 0 on, got a"),
        ({"seeds": "[1.5]"}, "seeds must be a whole number from 0 on, got 1.5"),
        ({"seeds": "[-1]"}, "seeds must be a whole number from 0 on, got -1"),
        ({"hardest": "all"}, "hardest must be a number, got all"),
        ({"manifest": "none.csv"}, "none.csv: 1 problem\n  - file not found"),
        ({"training_manifest": "none.csv"}, "none.csv: 1 problem"),
        ({"unseen_places": "[Xi'an]"}, "Xi'an are in the training or the"),
        ({"unseen_places": "[xi’an]"}, "xi’an are in the training or the"),
        ({"unseen_places": "Nanchang"}, "must be a list of names or null, got"),
        ({"unseen_places": "[1, null]"}, "must be a list of names or null, go"),
        ({"treshold": 0.8}, "did you mean --threshold[?]"),
    ],
)
def test_wrong_settings_end_before_the_work(
    finished, clips, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(sys.modules["recipe_commands"].RECIPE)
    output = tmp_path / "out"
    options = {"manifest": clips, "output_folder": output} | options
    options = {"models": f"{{a: {finished}}}"} | options
    if "evaluation_manifest" in options:
        options["evaluation_manifest"] = clips
    with pytest.raises(SystemExit, match=message):
        main([HPARAMS, *flags(options), "--device=cpu"])
    assert not output.exists()


def test_classes_must_be_the_models(finished, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(sys.modules["recipe_commands"].RECIPE)
    kitchen = changed(
        *(clips, tmp_path),
        scene_label=lambda column: column.replace("Bar", "Kitchen"),
    )
    with pytest.raises(SystemExit, match="labels Kitchen are not among the"):
        main(words({"a": finished}, kitchen, tmp_path / "out"))
    labels = str(sorted(set(read_manifest(kitchen)["scene_label"])))
    other = tmp_path / "other"
    run_here(command(MAMBA, kitchen, other, scene_labels=labels))
    both = {"a": finished, "b": other}
    with pytest.raises(SystemExit, match="b knows other classes"):
        main(words(both, clips, tmp_path / "out"))
    unlabelled = changed(*(clips, tmp_path), scene_label=lambda column: "")
    with pytest.raises(SystemExit, match="all 10 rows of split 'test' are unl"):
        main(words({"a": finished}, unlabelled, tmp_path / "out"))
    with pytest.raises(SystemExit, match="is the output folder of stage"):
        main(words({"a": finished}, clips, finished))


@pytest.mark.parametrize("protocol", ["devices", "events"])
def test_changed_audio(protocol, two, clips, tmp_path):
    models = {"SE-Trans": two["SE-Trans"]}
    options = {"protocol": protocol, "events": clips.parent, "hardest": 0}
    given = words(models, clips, tmp_path, split="test", **options)
    log = run_here(["evaluate.py", *given])
    table = pd.read_csv(tmp_path / "results.csv")
    rows = table[table["protocol"] == protocol]
    rows = rows[rows["metric"] == "accuracy"].set_index("condition")
    expected = table[table["protocol"] == "all clips"].set_index("metric")
    assert rows["value"]["as recorded"] == expected["value"]["accuracy"]
    names = {
        "devices": ["at -20 dB", "telephone", "small room"],
        "events": ["sounds at -10 dB", "sounds at 0 dB"],
    }[protocol]
    for name in names:
        assert rows["clips"][name] == 10 and name in log
    assert (tmp_path / "plots" / f"{protocol}.png").exists()


def test_clips_of_a_session_put_together(two, clips, tmp_path):
    options = {"protocol": "sessions", "hardest": 0, "seeds": "[1, 2]"}
    given = words(two, clips, tmp_path, split="test", **options)
    log = run_here(["evaluate.py", *given])
    assert "Macro accuracy, sessions" in log
    table = pd.read_csv(tmp_path / "results.csv")
    found = table[table["protocol"] == "sessions"]
    assert found["condition"].tolist() == 2 * ["1", "2", "4", "8", "all"]
    alone = table[table["protocol"] == "all clips"].set_index("metric")
    np.testing.assert_allclose(
        found.loc[found["condition"] == "1", "value"],
        alone.loc["macro_accuracy", "value"],
    )


def test_unknown_sounds(finished, clips, tmp_path):
    table = read_manifest(clips).drop(columns="line")
    tested = table[table["split"] == "valid"]
    labels = sorted(set(tested["scene_label"]))[:3]
    strange = (table["split"] == "valid") & table["scene_label"].isin(labels)
    table.loc[strange, "scene_label"] = "Siren"
    manifest = clips.parent / "unknown.csv"
    table.to_csv(manifest, index=False)
    options = {"protocol": "unknown", "hardest": 0, "split": "valid"}
    given = words({"a": finished}, manifest, tmp_path / "out", **options)
    log = run_here(["evaluate.py", *given])
    assert "Unknown sounds, %" in log
    assert f"{strange.sum()} more clips have other labels" in log
    found = pd.read_csv(tmp_path / "out" / "results.csv")
    clip_count = found.loc[found["protocol"] == "all clips", "clips"].max()
    assert clip_count == len(tested) - strange.sum()
    found = found[found["protocol"] == "unknown"].set_index("metric")["value"]

    classifier = SceneClassifier.from_hparams(finished)
    places = {name: tested[name] for name in ("location", "record_time")}
    answers = classifier.classify_files(tested["wav"], **places, unknown=True)
    called = np.array([x.text_lab == "unknown" for x in answers])
    is_strange = tested.index.isin(table.index[strange])
    assert found["unknown found"] == called[is_strange].mean()
    assert found["known taken for unknown"] == called[~is_strange].mean()
    assert 0 <= found["AUROC"] <= 1


def test_nothing_unknown_to_score(finished, clips, tmp_path):
    options = {"protocol": "unknown", "split": "valid"}
    given = words({"a": finished}, clips, tmp_path / "out", **options)
    log = run_here(["evaluate.py", *given], expect=1)
    assert "needs clips with other labels" in log
    copy = tmp_path / "copy"
    shutil.copytree(finished / "model", copy)
    (copy / "reliance.safetensors").unlink()
    given = words({"a": copy}, clips, tmp_path / "out", **options)
    log = run_here(["evaluate.py", *given], expect=1)
    assert "protocol unknown: a: " in log and "does not tell" in log


def test_sounds_that_cannot_be_used(two, clips, tmp_path):
    """Found before anything is scored."""
    for content, message in (
        (None, "no recordings"),
        (b"RIFF", "1 of 1 sounds cannot be used"),
    ):
        if content:
            (tmp_path / "a.wav").write_bytes(content)
        options = {"protocol": "events", "events": tmp_path, "split": "test"}
        given = words(two, clips, tmp_path / "out", **options)
        log = run_here(["evaluate.py", *given], expect=1)
        assert message in log and "Traceback" not in log
        assert "are scored" not in log


def test_wrong_protocol(two, clips, tmp_path):
    for options, message in (
        ({"protocol": "device"}, "devices, events, sessions, unknown or null"),
        ({"protocol": "events"}, "--events path/to/sounds"),
        ({"protocol": "events", "events": "none"}, "a folder of sounds"),
    ):
        given = words(two, clips, tmp_path, split="test", **options)
        assert message in run_here(["evaluate.py", *given], expect=1)


def test_unlabelled_training_clips_are_seen(finished, clips, tmp_path):
    """Stage 4 trains on them; spellings of a place do not matter."""
    table = read_manifest(clips)
    table["location"] = "Hefei"
    train = table.index[table["split"] == "train"]
    table.loc[train, "scene_label"] = ""
    table.loc[train[:2], "location"] = "Xi'an"
    table.loc[train[2], ["location", "split"]] = "Jinan", ""
    manifest = clips.parent / "unlabelled.csv"
    write_manifest(table.drop(columns="line"), manifest)
    hparams = {"manifest": manifest, "training_manifest": None}
    training = load_training(hparams)
    assert list(training.index) == list(train)
    scored = table[table["split"] == "test"]
    places = ["xi’an", " JINAN", "dalian", "Dalian", "", "HEFEI"]
    evaluation = pd.DataFrame({"location": places})
    hparams["unseen_places"] = None
    found = find_unseen_places(hparams, scored, training, evaluation)
    assert found == ["Dalian"]
    hparams["unseen_places"] = ["Jinan"]
    with pytest.raises(SystemExit, match="Jinan are in the training"):
        find_unseen_places(hparams, scored, training, evaluation)

    output = tmp_path / "out"
    run_here(["evaluate.py", *words({"a": finished}, manifest, output)])
    results = pd.read_csv(output / "results.csv")
    rows = results[results["protocol"] == "seen in training"]
    assert set(rows["model"]) == {"a"}  # a tree on metadata needs labels
