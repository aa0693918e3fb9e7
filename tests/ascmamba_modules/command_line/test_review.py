"""ascmamba review, and its labels in ascmamba manifest."""

import os
import re

import numpy as np
import pandas as pd
import pytest
import soundfile

from ascmamba_modules.command_line import main
from ascmamba_modules.evaluation.review import choose_clips
from ascmamba_modules.inference import SceneClassifier


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "sounds").mkdir()
    for i in range(6):
        samples = 0.05 * (i + 1) * rng.standard_normal(4000)
        soundfile.write(tmp_path / "sounds" / f"{i} a&b.wav", samples, 8000)
    return tmp_path / "sounds"


def test_clips_are_unsure_and_not_alike():
    rng = np.random.default_rng(0)
    centres = np.repeat([[0, 0], [20, 0], [0, 20]], 30, axis=0)
    embeddings = centres + rng.normal(size=centres.shape)
    posteriors = np.tile([0.9, 0.1], (90, 1))
    unsure = [*range(0, 90, 10)]  # three in each cluster
    posteriors[unsure] = np.linspace([0.5, 0.5], [0.58, 0.42], 9)
    chosen = choose_clips(embeddings, posteriors, 3)
    assert {*chosen} <= {*unsure} and {i // 30 for i in chosen} == {0, 1, 2}
    assert chosen == sorted(chosen)  # the least sure first
    chosen = choose_clips(embeddings, None, 3)
    assert {i // 30 for i in chosen} == {0, 1, 2}
    assert len(choose_clips(np.zeros((4, 2)), None, 3)) == 1
    assert sorted(choose_clips(embeddings[:4], None, 9)) == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [[], ["--classes", "Bar, Street <1>"]])
def test_page(model_folder, recordings, tmp_path, capsys, options):
    output = tmp_path / "review.html"
    words = ["review", str(recordings), "--model", str(model_folder)]
    words += ["--number", "4", "--output", str(output), *options]
    assert main(words) == 0
    shown = capsys.readouterr().err
    page = output.read_text("utf-8")
    files = re.findall(r'<figure data-file="([^"]+)"', page)
    assert f"{len(files)} of 6 recordings" in shown and 1 <= len(files) <= 4
    for file in files:
        assert file.replace("&amp;", "&").startswith(f"{recordings}/")
    names = re.findall(r'data-key="(.)" data-name="([^"]+)"', page)
    classes = ["Bar", "Street &lt;1&gt;"]
    if not options:
        classes = SceneClassifier.from_hparams(model_folder).classes
    assert names == len(files) * list(zip("1234567890", classes))
    assert page.count("<audio") == len(files)
    assert "://" not in re.sub(r'base64,[^"]+', "", page)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--classes", "Bar"], "name two or more"),
        (["--classes", "Bar,Bar"], "each once"),
        (["--number", "0"], "0 is not over 0"),
    ],
)
def test_wrong_options(recordings, tmp_path, capsys, options, message):
    output = str(tmp_path / "review.html")
    assert main(["review", str(recordings), "--output", output, *options]) == 2
    assert message in capsys.readouterr().err


def write_labels(path, files, labels):
    table = {"file": files, "scene_label": labels, "classes": "Bar; Street"}
    pd.DataFrame(table).to_csv(path, index=False)
    return str(path)


def test_labels_become_a_manifest(recordings, tmp_path, capsys):
    files = sorted(map(str, recordings.glob("*.wav")))
    labels = ["Bar", "Street"] * 3
    path = write_labels(tmp_path / "review.csv", files, labels)
    output = tmp_path / "my.csv"
    words = ["manifest", "--labels", path, "--output", str(output)]
    assert main([*words, "--test", "0"]) == 0
    table = pd.read_csv(output)
    assert table["scene_label"].tolist() == labels
    assert set(table["label_source"]) == {"human"}
    assert set(table["split"]) == {"train", "valid"}
    other = write_labels(tmp_path / "other.csv", files[:1], ["Street"])
    words.insert(3, other)
    assert main(words) == 2
    assert "0 a&b.wav is labelled Bar and Street" in capsys.readouterr().err


def test_labels_and_a_folder_name_each_file_once(
    recordings, tmp_path, monkeypatch
):
    """However the folder is written."""
    for path in sorted(recordings.glob("*.wav")):
        place = recordings / ("Bar" if int(path.name[0]) % 2 else "Street")
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)
    files = sorted(map(str, recordings.glob("*/*.wav")))
    labels = [os.path.basename(os.path.dirname(file)) for file in files]
    path = write_labels(tmp_path / "review.csv", files, labels)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["manifest", f"../{recordings.name}", "--labels", path]
    assert main([*words, "--test", "0", "--output", "my.csv"]) == 0
    assert sorted(pd.read_csv("my.csv")["wav"]) == files


def test_labels_stay(recordings, tmp_path, capsys):
    files = sorted(map(str, recordings.glob("*.wav")))
    path = write_labels(tmp_path / "a.csv", files[:1] * 2, ["Bar", "Street"])
    before = open(path).read()
    assert main(["manifest", "--labels", path, "--output", path]) == 2
    assert "is an input; name another" in capsys.readouterr().err
    output = str(tmp_path / "b.csv")
    assert main(["manifest", "--labels", path, "--output", output]) == 2
    assert "is labelled Bar and Street" in capsys.readouterr().err
    assert open(path).read() == before


def test_bad_files_are_named_or_skipped(
    model_folder, recordings, tmp_path, capsys
):
    (recordings / "bad.wav").write_bytes(b"no sound")
    output = tmp_path / "review.html"
    words = ["review", str(recordings), "--model", str(model_folder)]
    words += ["--output", str(output)]
    assert main(words) == 2
    assert "bad.wav: not an audio file" in capsys.readouterr().err
    assert not output.exists()
    assert main([*words, "--skip-errors"]) == 1
    assert "1 of 7 files could not be used" in capsys.readouterr().err
    assert "bad.wav" not in output.read_text()


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,scene_label,classes\n", "no labels in it"),
        ("a,b\n1,2\n", "not the labels of 'ascmamba review'"),
        ('file,scene_label,classes\nx.wav,Bus,"Bar; Pub"\n', "line 2: 'Bus'"),
        ('file,scene_label,classes\nx.wav,Bar,"Bar; Pub"\n', "file not found"),
    ],
)
def test_wrong_labels(tmp_path, capsys, text, message):
    path = tmp_path / "review.csv"
    path.write_text(text)
    words = ["manifest", "--labels", str(path), "--output"]
    assert main([*words, str(tmp_path / "my.csv")]) == 2
    assert message in capsys.readouterr().err


def test_manifest_of_nothing(tmp_path, capsys):
    assert main(["manifest", "--output", str(tmp_path / "my.csv")]) == 2
    assert "name a folder, or --labels" in capsys.readouterr().err
