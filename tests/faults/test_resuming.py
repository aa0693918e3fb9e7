"""Trainings killed with SIGKILL or found damaged go on as if nothing was."""

import multiprocessing
import os
import shutil
import signal

import pytest
from demo_set import make_demo_set
from recipe_commands import MAMBA, command, run_here

from ascmamba_modules.brain import SceneBrain
from ascmamba_modules.data.manifest import write_manifest


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    table = make_demo_set(folder, clips_per_scene=6, seconds=0.2)
    write_manifest(table, folder / "manifest.csv")
    return folder / "manifest.csv"


def train(clips, output, **options):
    options = {
        "number_of_epochs": 3,  # of five steps each
        "mixup_alpha": 0.4,
        "drop_count": 2,
        **options,
    }
    return command(MAMBA, clips, output, **options)


def run_killed(arguments, step):
    """Trains in a process that is killed in a step; gives its exit code."""

    def kill_then():
        plain, done = SceneBrain.fit_batch, 0

        def fit_batch(brain, batch):
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(brain, batch)

        SceneBrain.fit_batch = fit_batch
        run_here(arguments)

    process = multiprocessing.get_context("fork").Process(target=kill_then)
    process.start()
    process.join()
    return process.exitcode


def results(output):
    """What a training is for: weights, statistics, predictions."""
    files = [*output.glob("model/*.safetensors"), output / "summary.json"]
    texts = {path.name: path.read_bytes() for path in files[:-1]}
    texts["test"] = (output / "test" / "predictions.csv").read_bytes()
    assert len(texts) >= 4
    return texts


@pytest.fixture(scope="module")
def uninterrupted(clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    run_here(train(clips, output))
    return output


@pytest.mark.parametrize("steps, num_workers", [(0, 0), (0, 1), (1, 1)])
def test_killed_training_ends_in_the_same_weights(
    clips, tmp_path, uninterrupted, steps, num_workers
):
    arguments = train(
        *(clips, tmp_path),
        ckpt_interval_steps=steps,  # what --ckpt_interval_minutes does sooner
        num_workers=num_workers,
    )
    for step in (3, 8, 2):
        assert run_killed(arguments, step) == -signal.SIGKILL
    run_here(arguments)
    assert results(tmp_path) == results(uninterrupted)


def test_kill_between_accumulated_gradients(clips, tmp_path):
    """They are in no checkpoint; and without validation, an epoch's last
    step is not the next one's first."""
    options = {"grad_accumulation_factor": 2, "ckpt_interval_steps": 1}
    manifest = tmp_path / "manifest.csv"
    text = clips.read_text().replace(",valid,", ",,")
    manifest.write_text(text.replace("audio/", f"{clips.parent}/audio/"))
    run_here(train(manifest, tmp_path / "whole", **options))
    arguments = train(manifest, tmp_path / "killed", **options)
    for step in (4, 5):
        assert run_killed(arguments, step) == -signal.SIGKILL
    run_here(arguments)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def damage(checkpoint, how):
    """Damages a checkpoint; gives the file that is to be named."""
    model = checkpoint / "model.ckpt"
    data = bytearray(model.read_bytes())
    if how == "cut":
        model.write_bytes(data[: len(data) // 2])
    elif how == "bit":
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    elif how == "missing":
        (checkpoint / "normalize.ckpt").unlink()
    elif how == "zeros":
        (checkpoint / "CKPT.yaml").write_bytes(bytes(50))
    elif how == "unmarked":
        (checkpoint / "CKPT.yaml").unlink()


@pytest.fixture(scope="module")
def stopped(clips, tmp_path_factory):
    """A training killed in its last epoch; some checkpoints."""
    output = tmp_path_factory.mktemp("stopped")
    arguments = train(clips, output, ckpt_interval_steps=2)
    assert run_killed(arguments, 14) == -signal.SIGKILL
    return output


@pytest.mark.parametrize("how", ["cut", "bit", "missing", "zeros", "unmarked"])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    clips, tmp_path, stopped, uninterrupted, how
):
    output = shutil.copytree(stopped, tmp_path / "out")
    newest = max((output / "save").iterdir(), key=lambda x: x.stat().st_mtime)
    damage(newest, how)
    log = run_here(train(clips, output))
    assert f"{newest} is damaged or of another training" in log
    assert (output / "save" / f"damaged+{newest.name}").is_dir()
    assert results(output) == results(uninterrupted)


def test_no_checkpoint_is_whole(clips, tmp_path, stopped):
    output = shutil.copytree(stopped, tmp_path / "out")
    for checkpoint in (output / "save").iterdir():
        damage(checkpoint, "cut")
    log = run_here(train(clips, output), expect=1)
    assert log.splitlines()[-1].startswith(f"No checkpoint in {output}/save")
    assert "remove that folder" in log.splitlines()[-1]


@pytest.mark.parametrize("left", [0, 0.02, 0.5, 0.97])
def test_settings_cut_by_an_earlier_version(
    clips, tmp_path, stopped, uninterrupted, left, caplog
):
    output = shutil.copytree(stopped, tmp_path / "out")
    settings = output / "hyperparams.yaml"
    text = settings.read_text("utf-8")
    settings.write_text(text[: int(left * len(text))], "utf-8")
    run_here(train(clips, output))
    assert f"{settings} cannot be read" in caplog.text
    assert results(output) == results(uninterrupted)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("how", ["removed", "cut"])
def test_audio_that_vanishes_in_mid_epoch(
    clips, tmp_path, monkeypatch, num_workers, how
):
    folder = shutil.copytree(clips.parent, tmp_path / "clips")
    plain = SceneBrain.fit_batch

    def fit_batch(brain, batch):
        for path in folder.glob("audio/*"):
            path.unlink() if how == "removed" else path.write_bytes(b"RIFF")
        return plain(brain, batch)

    monkeypatch.setattr(SceneBrain, "fit_batch", fit_batch)
    arguments = train(
        folder / "manifest.csv", tmp_path / "out", num_workers=num_workers
    )
    log = run_here(arguments, expect=1)
    assert f"{folder}/audio/" in log.splitlines()[-1]
    assert "can no longer be read" in log.splitlines()[-1]
    assert "Traceback" not in log
