"""The models that ship, made in small."""

import json

import make_pretrained
import pandas as pd
import pytest
import torch
from recipe_commands import flags

from ascmamba_modules.encoders.mobilenet import MobileNet
from ascmamba_modules.inference import SceneClassifier

TINY = {
    **{"channels": 4, "d_state": 2, "depth": 1, "embedding_size": 8},
    **{"n_mels": 16, "teacher_width": 0.1, "teacher_size": 96, "rounds": 1},
    **{"number_of_epochs": 1, "mixture_length": 0.5, "num_workers": 0},
    "device": "cpu",
}


@pytest.fixture
def open_clips(clips, tmp_path):
    """Two classes of five recordings or more and one of one recording, and
    three recordings without labels, told where they are from."""
    table = pd.read_csv(clips, keep_default_na=False)[:16]
    table["wav"] = [str(clips.parent / wav) for wav in table["wav"]]
    table["session"] = [f"recording {i}" for i in range(16)]
    table.loc[13:, "scene_label"] = ""
    table["source"] = "somebody"
    table["licence"] = ["CC0", "CC BY"] * 8
    table.to_csv(tmp_path / "open.csv", index=False)
    return tmp_path / "open.csv"


def test_models_scores_and_sources(open_clips, tmp_path, monkeypatch):
    monkeypatch.setattr(make_pretrained, "_FOLDS", 2)
    teacher = tmp_path / "teacher.pt"
    torch.save(MobileNet(width=0.1, n_tags=527).state_dict(), teacher)
    words = [open_clips, "--teacher", teacher, "--output", tmp_path / "out"]
    make_pretrained.main([*map(str, words), *flags(TINY)])
    made = tmp_path / "out" / "pretrained"
    classifier = SceneClassifier.from_hparams(made / "ambience", trusted=False)
    # The third class has one recording.
    assert classifier.classes == ["Airport", "Bus"]
    assert len(SceneClassifier.from_hparams(made / "sound_tags").classes) == 527
    config = json.loads((made / "ambience" / "config.json").read_text())
    scores = config["training"]["scores"]
    assert 0 <= scores["recordings not heard"] <= 1
    assert "cross-validation" not in scores
    card = (made / "ambience" / "README.md").read_text()
    assert "license: cc-by-sa-4.0" in card
    assert "licence CC BY, CC0" in card
    assert str(tmp_path) not in card + json.dumps(config)
    sources = pd.read_csv(made / "SOURCES.csv")
    assert sources["clips"].tolist() == [8, 8]
    assert set(sources["source"]) == {"somebody"}
    without = pd.read_csv(tmp_path / "out" / f"{make_pretrained.WITHOUT}.csv")
    assert set(without["session"]) == {f"recording {i}" for i in range(12, 16)}


def test_every_source_is_told(open_clips, tmp_path):
    table = pd.read_csv(open_clips, keep_default_na=False)
    table.loc[3, "licence"] = ""
    table.to_csv(open_clips, index=False)
    words = [open_clips, "--teacher", "mn04", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit, match="column licence is missing or has"):
        make_pretrained.main([*map(str, words)])
    assert not (tmp_path / "out").exists()


def test_ambience_alone_cannot_be_scored(open_clips, tmp_path):
    table = pd.read_csv(open_clips, keep_default_na=False)
    table[:12].to_csv(open_clips, index=False)
    words = [open_clips, "--teacher", "mn04", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit, match="All recordings are of the ambience"):
        make_pretrained.main([*map(str, words)])
    assert not (tmp_path / "out").exists()
