"""train.py hparams/distill.yaml, with a small random teacher."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from demo_set import make_demo_set
from recipe_commands import changed

from ascmamba_modules.data.manifest import read_manifest, write_manifest
from ascmamba_modules.encoders.mobilenet import MobileNet
from ascmamba_modules.inference import SceneClassifier

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "ASC"
STUDENT = {
    "channels": 4,
    "n_blocks": 1,
    "depth": 1,
    "d_state": 2,
    "patch": [8, 4],
    "stride": [8, 2],
    "embedding_size": 8,
    "context_size": 4,
    "n_mels": 16,
    "batch_size": 8,
    "number_of_epochs": 2,
    "num_workers": 0,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips without a split for half of the training, which has no labels."""
    folder = tmp_path_factory.mktemp("clips")
    table = make_demo_set(folder, clips_per_scene=6, seconds=0.5)
    unlabelled = table.index[table["split"] == "train"][::2]
    table.loc[unlabelled, ["split", "scene_label"]] = ""
    write_manifest(table.assign(duration=""), folder / "manifest.csv")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(MobileNet(width=0.1, n_tags=527).state_dict(), path)
    return path


def train(hparams_file, **options):
    flags = [word for k, v in options.items() for word in (f"--{k}", str(v))]
    result = subprocess.run(
        [sys.executable, "train.py", hparams_file, *flags]
        + ["--device=cpu", "--noprogressbar"],
        cwd=RECIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def distill(manifest, teacher, output, **options):
    return train(
        "hparams/distill.yaml",
        manifest=manifest,
        teacher=teacher,
        output_folder=output,
        **{
            **STUDENT,
            "teacher_width": 0.1,
            "teacher_size": 96,
            "rounds": 2,
            "mixture_length": 0.5,
            **options,
        },
    )


@pytest.fixture(scope="module")
def distilled(clips, teacher, tmp_path_factory):
    output = tmp_path_factory.mktemp("distilled")
    code, log = distill(clips, teacher, output)
    assert code == 0, log[-3000:]
    return output, log


def test_result_is_a_model_folder_that_tags(distilled, clips):
    output, log = distilled
    assert "resampled to the teacher's 32000 Hz" in log
    assert "explained_variance" in (output / "train_log.txt").read_text()
    classifier = SceneClassifier.from_hparams(source=output)
    wav = next(clips.parent.rglob("*.wav"))
    posteriors, *_ = classifier.classify_file(wav)
    assert posteriors.shape == (1, 527)
    assert classifier.classes[0] == "Speech"


def test_same_command_again_changes_nothing(distilled, clips, teacher):
    output, _ = distilled
    before = (output / "model" / "model.safetensors").read_bytes()
    log = (output / "train_log.txt").read_text()
    code, text = distill(clips, teacher, output)
    assert code == 0, text[-3000:]
    assert (output / "model" / "model.safetensors").read_bytes() == before
    assert (output / "train_log.txt").read_text() == log
    code, text = distill(clips, teacher, output, channels=8)
    assert code == 1 and "another model" in text


@pytest.mark.parametrize("changed", ["clip", "teacher"])
def test_mixtures_of_other_audio_or_weights_are_not_used_again(
    distilled, clips, teacher, changed
):
    """Under the same names."""
    wav = Path(read_manifest(clips)["wav"].iloc[1])
    path = {"clip": wav, "teacher": teacher}[changed]
    before, status = path.read_bytes(), path.stat()
    if changed == "clip":
        os.utime(path, ns=(0, 0))
    else:
        weights = torch.load(path)
        weights["features.0.0.weight"] *= 2
        torch.save(weights, path)
    code, text = distill(clips, teacher, distilled[0])
    path.write_bytes(before)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert code == 1 and "Traceback" not in text
    assert "holds mixtures of other clips, of another teacher or" in text


def test_clips_without_any_label(clips, teacher, tmp_path):
    """Those that choose the epoch need none either."""
    manifest = changed(clips, tmp_path, scene_label=lambda x: x.str[:0])
    code, log = distill(
        manifest, teacher, tmp_path / "out", number_of_epochs=1, rounds=1
    )
    assert code == 0, log[-3000:]
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "| train | 40 clips |" in card


def test_later_stage_starts_from_it(distilled, clips, tmp_path):
    output, _ = distilled
    table = pd.read_csv(clips, dtype=str, keep_default_na=False)
    labels = sorted(set(table["scene_label"]) - {""})
    code, log = train(
        "hparams/finetune.yaml",
        manifest=clips,
        output_folder=tmp_path,
        scene_labels=labels,
        pretrained_folder=output,
        frequency_centering=False,
        **STUDENT,
    )
    assert code == 0, log[-3000:]
    assert "classifier made anew" in log


def test_test_clips_are_heard_only_if_asked_for(
    distilled, clips, teacher, tmp_path
):
    rows = pd.read_csv(clips, dtype=str, keep_default_na=False)
    counts = rows["split"].replace("", "train").value_counts()
    output, log = distilled
    code, transductive = distill(
        clips, teacher, tmp_path, transductive=True, number_of_epochs=1
    )
    assert code == 0, transductive[-3000:]
    assert f"Transductive: {counts['test']} clips of test" in transductive
    assert "Transductive" not in log
    for folder, clips_heard in (
        (output, counts["train"]),
        (tmp_path, counts["train"] + counts["test"]),
    ):
        labels = folder / "mixtures" / "train" / "label.npy"
        assert len(np.load(labels)) == 2 * clips_heard


def test_other_recordings_are_heard_without_their_labels(
    distilled, clips, teacher, tmp_path
):
    table = read_manifest(clips).drop(columns="line")
    table = table.assign(session=table["ID"])
    write_manifest(table, clips.parent / "own.csv")
    table = table[table["scene_label"] != ""]
    # Other cuts of what is held out are not heard either.
    cut = table[table["split"] == "test"].iloc[:1]
    cut = cut.assign(ID="cut", wav=table["wav"].iloc[0])
    write_manifest(pd.concat([table, cut]), tmp_path / "more.csv")
    output, more = tmp_path / "out", {"unlabelled": tmp_path / "more.csv"}
    code, log = distill(
        *(clips.parent / "own.csv", teacher, output),
        number_of_epochs=1,
        **more,
    )
    assert code == 0, log[-3000:]
    n_held = table["split"].isin(["valid", "test"]).sum() + 1
    assert f"{n_held} clips of {tmp_path / 'more.csv'} are left out" in log
    own, both = [
        np.load(folder / "mixtures" / "train" / "label.npy")
        for folder in (distilled[0], output)
    ]
    assert len(both) == len(own) + 2 * (len(table) + 1 - n_held)
    # In every round a clip keeps its label, and the others have none.
    assert (both >= 0).sum() == (own >= 0).sum()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher_width": 0.2}, "does not fit"),
        ({"teacher": "absent.pt"}, "There is no file absent.pt"),
        ({"teacher_checksum": "0" * 64}, "another SHA-256"),
        ({"rounds": 0}, "rounds must be a whole number from 1 on"),
        ({"manifest": "absent.csv"}, "file not found"),
        ({"unlabelled": "absent.csv"}, "absent.csv: 1 problem"),
        ({"lr": -1}, "lr must be a number from 0 on, got -1"),
    ],
)
def test_faults_are_named_in_one_line(
    options, message, clips, teacher, tmp_path
):
    options = {"manifest": clips, "teacher": teacher, **options}
    code, log = distill(output=tmp_path / "new", **options)
    assert code == 1
    assert message in log
    assert "Traceback" not in log
    assert not (tmp_path / "new" / "mixtures").exists()


def test_what_must_be_given_is_said():
    code, log = train("hparams/distill.yaml")
    assert code == 1
    message = "hparams/distill.yaml: --manifest, --teacher must be given"
    assert log.splitlines()[-1] == message
    assert "Traceback" not in log


def test_unusable_file_is_named_with_its_own_manifest(clips, teacher, tmp_path):
    more = changed(
        *(clips, tmp_path),
        wav=lambda column: column.where(column.index != 0, "gone.wav"),
        session=lambda column: "other" + column.index.astype(str),
    )
    code, log = distill(clips, teacher, tmp_path / "out", unlabelled=more)
    assert code == 1
    assert f"{more}: 1 problem\n  - line 2 (ID unlabelled/" in log
