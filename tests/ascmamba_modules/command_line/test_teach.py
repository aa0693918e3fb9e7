"""ascmamba teach: own classes from a few clips."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from small_models import write_folder

from ascmamba_modules.command_line import main
from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.data.manifest import COLUMNS, write_manifest
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.teaching import embed_files


def write_tone(path, frequency, seed):
    rng = np.random.default_rng(seed)
    wave = np.sin(2 * np.pi * frequency * np.arange(4000) / 8000)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = rng.uniform(-0.05, 0.05, 4000)
    soundfile.write(path, 0.3 * wave + noise, 8000)


@pytest.fixture
def sounds(tmp_path):
    """Two classes of six clips, two cuts a recording."""
    for name, frequency in (("low", 200), ("high", 3000)):
        for i in range(6):
            path = tmp_path / "sounds" / name / f"{'abc'[i // 2]}_{i}.wav"
            write_tone(path, frequency, i)
    return tmp_path / "sounds"


def teach(*arguments):
    return main(["teach", *map(str, arguments)])


def test_taught_model_tells_the_classes(model_folder, sounds, tmp_path, capsys):
    for name in ("one", "two"):
        output = tmp_path / name
        options = ("--model", model_folder, "--output", output)
        assert teach(sounds, *options, "--group", "^[abc]") == 0
    shown = capsys.readouterr().err
    assert "12 clips of 6 recordings" in shown
    files = [
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    classifier = SceneClassifier.from_hparams(output, trusted=False)
    assert classifier.classes == ["high", "low"]
    for name, frequency in (("low", 200), ("high", 3000)):
        write_tone(tmp_path / "new.wav", frequency, 9)
        assert classifier.classify_file(tmp_path / "new.wav")[3] == [name]
    training = json.loads((output / "config.json").read_text())["training"]
    assert training["scores"]["cross-validation"] == 1.0
    assert "macro accuracy 100.0 %" in (output / "README.md").read_text()


def test_unknown_sounds_and_possible_classes(
    model_folder, sounds, tmp_path, capsys
):
    output, new = tmp_path / "taught", tmp_path / "new"
    options = ("--model", model_folder, "--output", output)
    assert teach(sounds, *options, "--group", "^[abc]") == 0
    write_tone(new / "high.wav", 3000, 9)
    rng = np.random.default_rng(0)
    soundfile.write(new / "noise.wav", rng.uniform(-1, 1, 4000), 8000)
    (new / "torn.wav").write_bytes(b"RIFF")
    table = tmp_path / "out.csv"
    words = ["classify", str(new), "--model", str(output), "--skip-errors"]
    words += ["--output", str(table)]
    assert main([*words, "--unknown", "--coverage", "0.9"]) == 1
    rows = pd.read_csv(table, keep_default_na=False)
    assert rows["scene_label"].tolist() == ["high", "unknown", ""]
    assert rows["possible"][0] == "high" and rows["possible"][2] == ""
    assert set(rows["possible"][1].split("; ")) <= {"high", "low"}
    capsys.readouterr()
    for coverage, message in (("0.99", "12 clips"), ("1.5", "a coverage of")):
        assert main([*words, "--coverage", coverage]) == 2
        assert message in capsys.readouterr().err
    words[3] = str(model_folder)  # calibrated on no clips
    assert main([*words, "--unknown"]) == 2
    assert "train or teach the model" in capsys.readouterr().err


def test_manifest(model_folder, sounds, tmp_path):
    """Its test clips and those without a label are left out."""
    paths = sorted(sounds.rglob("*.wav"))
    table = pd.DataFrame(
        [{"ID": p.name + p.parent.name, "wav": str(p)} for p in paths],
        columns=COLUMNS,
    ).fillna("")
    table["scene_label"] = [path.parent.name for path in paths]
    table.loc[0, "split"] = "test"
    table.loc[1, "scene_label"] = ""
    write_manifest(table, tmp_path / "clips.csv")
    options = ("--model", model_folder, "--output", tmp_path / "taught")
    assert teach(tmp_path / "clips.csv", *options) == 0
    config = json.loads((tmp_path / "taught" / "config.json").read_text())
    assert config["training"]["clips"]["train"] == {"high": 4, "low": 6}


def test_clips_are_heard_with_their_place_and_time(tmp_path):
    folder, _ = write_folder(tmp_path)
    classifier = SceneClassifier.from_hparams(folder)
    write_tone(tmp_path / "a.wav", 200, 0)
    table = pd.DataFrame(
        {
            "wav": [str(tmp_path / "a.wav")] * 2,
            "location": ["Berlin", ""],
            "record_time": ["2023-04-21 18:30:00", ""],
        }
    )
    there, unknown = embed_files(classifier, table)
    clip = load_audio(tmp_path / "a.wav", classifier.audio_normalizer)
    place = ("Berlin", "2023-04-21 18:30:00")
    expected = classifier.embed_batch(clip, None, *place)[0]
    np.testing.assert_allclose(there, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(there - unknown).max() > 1e-4
    np.testing.assert_array_equal(
        embed_files(classifier, table["wav"])[0], unknown
    )


@pytest.mark.parametrize("count", [2, 3])
def test_layer_is_the_regression(count):
    from ascmamba_modules.teaching import fit, linear_layer

    rng = np.random.default_rng(0)
    labels = pd.Series([f"class {i % count}" for i in range(30)])
    embeddings = rng.normal(5, 3, (30, 4)).astype(np.float32)
    embeddings[:, 0] += 3 * (np.arange(30) % count)
    search = fit(embeddings, labels, pd.Series(range(30)))
    layer = linear_layer(search.best_estimator_)
    ours = layer(torch.from_numpy(embeddings)).softmax(-1).detach().numpy()
    expected = search.predict_proba(embeddings)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_cuts_of_a_recording_are_left_out_together(
    model_folder, sounds, tmp_path, capsys
):
    """One recording a class: nothing could be left out."""
    options = ("--model", model_folder, "--output", tmp_path / "taught")
    assert teach(sounds, *options, "--group", "^") == 2
    assert "'high', 'low': clips of one recording" in capsys.readouterr().err
    assert not (tmp_path / "taught").exists()


def test_faults_are_named(model_folder, sounds, tmp_path, capsys):
    def error(clips, *options, output=tmp_path / "taught", model=model_folder):
        options = ("--model", model, "--output", output, *options)
        assert teach(clips, *options) == 2
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        return shown.strip().splitlines()[-1]

    assert "exists already" in error(sounds, output=tmp_path)
    assert "no such folder" in error(tmp_path / "none")
    assert "each is a class" in error(sounds / "low")
    assert "finds nothing in" in error(sounds, "--group", "x")
    assert "--group (" in error(sounds, "--group", "(")
    assert "column session" in error(tmp_path / "a.csv", "--group", "a")
    se_trans, _ = write_folder(tmp_path / "se_trans", "se_trans")
    assert "not one linear layer" in error(sounds, model=se_trans)
    (sounds / "low" / "a_0.wav").write_bytes(b"no sound")
    assert "a_0.wav" in error(sounds)
    for path in (sounds / "low").iterdir():
        path.unlink()
    (sounds / "low").rmdir()
    assert "these are of: high" in error(sounds)
    assert not (tmp_path / "taught").exists()
