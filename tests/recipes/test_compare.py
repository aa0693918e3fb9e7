"""The table of systems on ESC-10, in small: made-up clips, quick models."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from compare import CONDITIONS, SYSTEMS, main
from recipe_commands import RECIPE
from ruamel.yaml import YAML

from ascmamba_modules.encoders.mobilenet import MobileNet

TINY = {"channels": 4, "d_state": 2, "n_mels": 16, "number_of_epochs": 1}
LISTED = YAML(typ="safe").load(SYSTEMS)


@pytest.fixture
def esc10(tmp_path):
    """Clips of noise and of tones, two recordings of each in each fold."""
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "esc10" / "audio").mkdir(parents=True)
    for fold in range(1, 6):
        for number, label in enumerate(("rain", "clock_tick") * 2):
            wav = 0.1 * rng.standard_normal(22050)
            if label == "clock_tick":
                wav = 0.1 * np.sin(np.arange(22050) * rng.uniform(0.05, 0.1))
            name = f"{fold}-{100 * fold + number}-A.wav"
            soundfile.write(tmp_path / "esc10" / "audio" / name, wav, 44100)
            rows.append((name, fold, label))
    table = pd.DataFrame(rows, columns=["filename", "fold", "category"])
    table.to_csv(tmp_path / "esc10" / "meta.csv", index=False)
    return tmp_path / "esc10"


@pytest.fixture
def words(esc10, tmp_path):
    """The command line, with four systems that take seconds."""
    teacher = tmp_path / "teacher.pt"
    torch.save(MobileNet(width=0.1, n_tags=527).state_dict(), teacher)
    names = "log_mel_svm", "tiny", "sound_tags_linear", "mn04_linear"
    systems = {name: LISTED[name] for name in names}
    systems["tiny"]["settings"] = TINY
    systems["mn04_linear"]["settings"] = {"width": 0.1}
    with open(tmp_path / "systems.yaml", "w") as file:
        YAML(typ="safe").dump(systems, file)
    files = [esc10, tmp_path / "out", "--settings", tmp_path / "systems.yaml"]
    return [*map(str, files), "--folds", "1", "--seeds", "7"]


def test_it_goes_on_and_keeps_what_is_scored(words, tmp_path, capsys):
    output = tmp_path / "out"
    main(words)
    printed = capsys.readouterr().out
    assert "mn04 + linear: left out, it needs --teacher" in printed
    table = pd.read_csv(output / "comparison.csv").set_index("system")
    titles = ["Log-mel statistics + SVM", "sound_tags + linear"]
    assert list(table.index) == [*titles, "ASCMamba, tiny"]
    svm, taught, tiny = table.to_dict("records")
    for row in (svm, taught):  # noise and tones differ
        assert row["accuracy"] == row["lower"] == 1
    for row in (svm, tiny, taught):
        assert row["parameters"] > 0 and row["multiply_adds"] > 0
        assert row["milliseconds"] > 0 and row["seconds"] > 0
        assert 0 <= row["lower"] <= row["accuracy"] <= row["upper"] <= 1
    assert "| ASCMamba, tiny |" in (output / "comparison.md").read_text()
    # As the training itself has scored its test clips.
    folder = output / "tiny_fold1_seed7"
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    assert tiny["accuracy"] == pytest.approx(scores["test"])
    made = (folder / "summary.json").stat().st_mtime_ns

    # More is asked for: what is there is not made again.
    teacher = ["--teacher", str(tmp_path / "teacher.pt")]
    main([*words, *teacher, "--conditions"])
    assert "fold 1, seed 7: finished before" in capsys.readouterr().out
    assert (folder / "summary.json").stat().st_mtime_ns == made
    later = pd.read_csv(output / "comparison.csv").set_index("system")
    pd.testing.assert_frame_equal(
        later.loc[table.index, table.columns], table, check_dtype=False
    )
    assert set(later.index) == {*table.index, "mn04 + linear"}
    assert later[list(CONDITIONS)].notna().all(axis=None)

    # Numbers of other settings do not mix with these.
    more = ["--systems", "mn04_linear", "--teacher"]
    torch.save(MobileNet(width=0.1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(SystemExit, match="scored with other settings"):
        main([*words, *more, str(tmp_path / "other.pt")])
    path = tmp_path / "systems.yaml"
    text = path.read_text().replace("model: sound_tags", "model: ambience")
    path.write_text(text)
    with pytest.raises(SystemExit, match="scored with other settings"):
        main([*words, "--systems", "sound_tags_linear"])


def test_conditions_change_what_they_say():
    time, rate = np.arange(44100) / 44100, 44100

    def passed(condition, frequency):
        x = np.sin(2 * np.pi * frequency * time)
        return CONDITIONS[condition](x, rate)[rate // 2 :].std() / x.std()

    assert passed("at -20 dB", 1000) == pytest.approx(0.1)
    for condition in ("low-pass 4 kHz", "telephone"):
        assert passed(condition, 1000) == pytest.approx(1, abs=0.05)
        assert passed(condition, 8000) < 0.02
    assert passed("low-pass 4 kHz", 100) == pytest.approx(1, abs=0.01)
    assert passed("telephone", 100) < 0.05


def test_listed_settings_exist():
    for name, system in LISTED.items():
        if "hparams" not in system:
            continue
        text = (RECIPE / system["hparams"]).read_text("utf-8")
        needed = [*system["settings"], *[system.get("weights", "seed")]]
        for setting in needed:
            assert f"\n{setting}:" in text, f"{name}: {setting}"


@pytest.mark.parametrize(
    "more, message",
    [
        (["--systems", "yamnet"], "no system 'yamnet'; there are log_mel_svm"),
        (["--systems", "mn04_linear"], "no system is left to train"),
    ],
)
def test_wrong_command_lines(words, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        main([*words, *more])
    assert not (tmp_path / "out").exists()


def test_folds_of_a_manifest_keep_sessions_together(words, esc10, tmp_path):
    clips = pd.read_csv(esc10 / "meta.csv", dtype=str)
    table = pd.DataFrame(
        {
            "ID": clips["filename"],
            "wav": f"{esc10}/audio/" + clips["filename"],
            "scene_label": clips["category"],
            "session": clips["fold"] + "x" + (clips.index // 2).astype(str),
            "split": "train",
        }
    )
    words[0] = str(tmp_path / "clips.csv")
    table.to_csv(words[0], index=False)
    words[words.index("--folds") + 1 : -2] = list("12345")
    main([*words, "--systems", "log_mel_svm"])
    tested = []
    for fold in range(1, 6):
        rows = pd.read_csv(tmp_path / "out" / f"fold_{fold}.csv", dtype=str)
        parts = rows.groupby("split")["session"].agg(set)
        assert not parts["train"] & parts["test"]
        tested += rows.loc[rows["split"] == "test", "ID"].tolist()
    assert sorted(tested) == sorted(table["ID"])
    result = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert result["accuracy"].item() == 1
    main([*words, "--systems", "log_mel_svm"])  # goes on
    table[1:].to_csv(words[0], index=False)
    with pytest.raises(SystemExit, match="was made of another manifest, or"):
        main(words)
    table["session"] = clips["fold"].where(clips["category"] == "rain", "one")
    table.to_csv(words[0], index=False)
    words[1] = str(tmp_path / "other")
    with pytest.raises(SystemExit, match="of 1 sessions, and 5 folds need"):
        main(words)
