"""The models of the package."""

import json

import pandas as pd
import pytest
import torch
from speechbrain.inference.classifiers import EncoderClassifier

from ascmamba_modules.command_line import main
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.config import SHIPPED_MODELS, find_model

ROOM = find_model("ambience").parent


def test_they_are_small_and_told():
    """At most 4 MB; who recorded what is told, and no path is."""
    files = [path for path in ROOM.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    sources = pd.read_csv(ROOM / "SOURCES.csv", keep_default_na=False)
    assert (sources != "").all(axis=None)
    licences = set(sources["licence"])
    assert not [x for x in licences if "NC" in x or "as stated" in x]
    clips = json.loads((find_model("sound_tags") / "config.json").read_text())
    clips = clips["training"]["datasets"]
    assert sources["clips"].sum() == sum(
        count for split in clips.values() for count in split.values()
    )


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_they_load_without_trust(name):
    classifier = SceneClassifier.from_hparams(name, trusted=False)
    assert len(classifier.classes) == {"ambience": 6, "sound_tags": 527}[name]
    card = (find_model(name) / "README.md").read_text("utf-8")
    assert "license: cc-by-sa-4.0" in card and "licence not known" not in card
    ours = classifier.classify_batch(0.1 * torch.randn(1, 44100))[0]
    assert ours.exp().sum() == pytest.approx(1)


def test_ambience_is_the_default(caplog):
    with caplog.at_level("INFO"):
        classifier = SceneClassifier.from_hparams()
    assert "No model was named: 'ambience', which tells beach" in caplog.text
    theirs = EncoderClassifier.from_hparams(find_model("ambience"))
    wavs = 0.1 * torch.randn(2, 44100)
    torch.testing.assert_close(
        *(theirs.classify_batch(wavs)[0], classifier.classify_batch(wavs)[0]),
        **{"atol": 1e-6, "rtol": 0},
    )


def test_command_line(capsys):
    assert main(["info", "ambience"]) == 0
    assert "macro accuracy" in capsys.readouterr().out
    assert main(["info", "ambiense"]) == 2


def test_real_recordings(shared_data):
    """Of the classes that ESC-10 shares with it, which was not trained on."""
    folder = shared_data / "esc10"
    meta = pd.read_csv(folder / "meta.csv")
    names = {"Rain": {"rain", "stream"}, "Sea_waves": {"beach"}}
    classifier = SceneClassifier.from_hparams("ambience")
    right = []
    for row in meta[meta["category"].isin(names)].itertuples():
        found = classifier.classify_file(folder / "audio" / row.filename)
        right.append(found[3][0] in names[row.category])
    assert len(right) == 80 and sum(right) > 60
