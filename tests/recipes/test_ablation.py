"""ablation.py in small: what it trains, scores, keeps and refuses."""

import pandas as pd
import pytest
from ablation import COLUMNS, SYSTEMS, list_world, main
from recipe_commands import RECIPE
from ruamel.yaml import YAML
from stages import run_stages

from ascmamba_modules.data.manifest import read_manifest

SMALL = {"channels": 4, "d_state": 2, "n_mels": 16, "number_of_epochs": 1}
LISTED = YAML(typ="safe").load(SYSTEMS)


def test_systems_are_trained_and_scored_once(clips, tmp_path, capsys):
    names = ("as_in_the_paper", "audio_alone")
    systems = {name: LISTED[name] for name in names}
    for system in systems.values():
        system["settings"] |= SMALL
    with open(tmp_path / "systems.yaml", "w") as file:
        YAML(typ="safe").dump(systems, file)
    output = tmp_path / "out"
    words = [output, "--manifest", clips, "--seeds", 1, 2]
    words = [*map(str, words), "--settings", str(tmp_path / "systems.yaml")]
    main(words)
    table = pd.read_csv(output / "ablation.csv")
    assert table["seeds"].eq(2).all() and table["mean"].between(0, 100).all()
    assert set(table["clips"]) <= set(COLUMNS)
    wide = table.pivot(index="system", columns="clips", values="mean")
    own = pd.read_csv(output / "audio_alone_scores" / "results.csv")
    rows = own[(own["protocol"] == "all clips")]
    rows = rows[rows["metric"] == "macro_accuracy"]
    assert set(rows["model"]) == {"seed 1", "seed 2"}
    assert wide.loc["audio alone", "all"] == pytest.approx(
        100 * rows["value"].mean()
    )
    # Without place and time nothing hangs on them.
    for column in ("shuffled", "moved", "hidden"):
        assert wide.loc["audio alone", column] == wide.loc["audio alone", "all"]
    capsys.readouterr()
    main(words)
    printed = capsys.readouterr().out
    assert printed.count("finished before") == 6
    assert (output / "ablation.md").read_text() in printed


def test_world_has_all_kinds_of_clips_to_score(tmp_path):
    stages, manifest = list_world(tmp_path, 16)
    run_stages(stages, tmp_path)
    table = read_manifest(manifest)
    tested = table[table["split"] == "test"]
    assert tested["scene_label"].value_counts().eq(4).all()
    training = table[(table["split"] == "train") & (table["scene_label"] != "")]
    seen = tested["location"].isin(set(training["location"]))
    assert 0 < seen.sum() < len(tested)


def test_listed_settings_exist():
    for name, system in LISTED.items():
        text = (RECIPE / system["hparams"]).read_text("utf-8")
        for setting in system["settings"]:
            assert f"\n{setting}:" in text, f"{name}: {setting}"


def test_unknown_system_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no system 'x'; there are as_in_the"):
        main([str(tmp_path), "--systems", "x"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: {title: A}", "a: hparams is missing"),
        ("a: {title: A, hparams: x, linear: True}", "a: no key 'linear'"),
    ],
)
def test_systems_that_are_not_trained_are_refused(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path / "out"), "--settings", str(path)])
