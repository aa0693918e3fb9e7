"""The training stage as users run it: commands on small clips."""

import json
import re
import shutil

import common
import numpy as np
import pandas as pd
import pytest
import torch
from demo_set import SCENES
from filelock import FileLock
from recipe_commands import (
    CPU,
    MAMBA,
    SE_TRANS,
    TWO_PROCESSES,
    changed,
    command,
    epochs,
    run,
    run_here,
    run_killed,
)
from safetensors.torch import load_file

from ascmamba_modules.data.manifest import read_training_rows, write_manifest
from ascmamba_modules.evaluation.calibration import fit_temperature
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.config import read_config


def check_finished(output, manifest):
    """The model folder answers as the Brain did in its test report."""
    classifier = SceneClassifier.from_hparams(
        source=output / "model", run_opts={"device": "cpu"}
    )
    predictions = pd.read_csv(output / "test" / "predictions.csv", index_col=0)
    assert len(predictions) == 10
    rows = pd.read_csv(manifest, index_col=0, keep_default_na=False)
    for name, row in predictions.iterrows():
        out_prob, score, index, text_lab = classifier.classify_file(
            manifest.parent / rows.wav[name],
            rows.location[name],
            rows.record_time[name],
        )
        posteriors = row.iloc[2:].to_numpy(float)
        np.testing.assert_allclose(out_prob.exp()[0], posteriors, atol=1e-5)
        assert text_lab == [row["prediction"]]
        assert score.exp().item() == pytest.approx(posteriors.max(), abs=1e-5)
        assert list(SCENES)[index.item()] == row["prediction"]


def test_stage_leaves_a_model_that_gives_the_same_posteriors(finished, clips):
    check_finished(finished, clips)


def test_model_folder_says_what_it_was_trained_on(finished, clips):
    settings = read_config(finished / "model")
    assert settings["classes"] == list(SCENES)
    training = settings["training"]
    assert training["manifest"] == clips.name
    clips_of = {k: sum(v.values()) for k, v in training["clips"].items()}
    assert clips_of == {"train": 40, "valid": 10, "test": 10}
    summary = json.loads((finished / "summary.json").read_text())
    assert training["scores"] == summary["scores"]
    assert training["started_from"] is None
    assert str(finished) not in json.dumps(settings)
    card = (finished / "model" / "README.md").read_text("utf-8")
    for split in ("valid", "test"):
        score = f"{100 * summary['scores'][split]:.1f} %"
        assert f"| {split} | 10 clips, macro accuracy {score}, " in card


def swapped(labels):
    """Labels of which two of the validation clips are wrong."""
    labels = labels.copy()
    labels[2], labels[8] = labels[8], labels[2]
    return labels


@pytest.mark.parametrize("stage", [MAMBA, SE_TRANS], ids=["mamba", "se_trans"])
def test_posteriors_are_calibrated_on_validation_clips(clips, tmp_path, stage):
    clips, output = changed(clips, tmp_path, scene_label=swapped), tmp_path
    run_here(command(stage, clips, output))
    temperature = read_config(output / "model")["training"]["temperature"]
    assert temperature is not None and abs(temperature - 1) > 0.01
    card = (output / "model" / "README.md").read_text("utf-8")
    assert f"at a temperature of {temperature:.3f}, fitted on" in card
    table = read_training_rows(clips, list(SCENES))["valid"]
    classifier = SceneClassifier.from_hparams(output / "model")
    columns = table["wav"], table["location"], table["record_time"]
    files = classifier.classify_files(*map(list, columns))
    log_posteriors = torch.stack([file.out_prob for file in files]).numpy()
    targets = [classifier.classes.index(x) for x in table["scene_label"]]
    # No other temperature would fit them better.
    assert fit_temperature(targets, log_posteriors) == pytest.approx(
        1, rel=0.01
    )
    # A training that resumes goes on from the weights as they were trained.
    (path,) = output.glob("save/*/model.ckpt")
    trained = torch.load(path)["classifier.weight"]
    calibrated = load_file(output / "model" / "model.safetensors")
    torch.testing.assert_close(
        calibrated["classifier.weight"] * temperature, trained
    )


def test_stage_leaves_log_report_and_plots(finished):
    assert epochs(finished) == [1, 2]
    assert list((finished / "tensorboard").iterdir())
    for name in ("confusion_matrix", "per_class"):
        assert (finished / "test" / f"{name}.png").stat().st_size > 5000
        assert (finished / "test" / f"{name}.csv").exists()
    matrix = pd.read_csv(finished / "test/confusion_matrix.csv", index_col=0)
    assert list(matrix.columns) == list(matrix.index) == list(SCENES)
    assert (matrix.sum(axis=1) == 1).all()
    assert not list(finished.glob("*.tmp"))


def test_finished_stage_run_again_trains_no_more(finished, clips):
    run_here(command(MAMBA, clips, finished, number_of_epochs=2))
    assert epochs(finished) == [1, 2]


@pytest.mark.parametrize("steps", [0, 1])
def test_killed_stage_resumes_to_the_end(clips, tmp_path, steps):
    arguments = command(
        *(MAMBA, clips, tmp_path),
        number_of_epochs=4,
        ckpt_interval_steps=steps,
    )
    log = tmp_path / "train_log.txt"
    run_killed(
        arguments, lambda: log.exists() and "epoch: 2" in log.read_text()
    )
    run(arguments)
    # The epoch that was just logged may be lost with its checkpoint.
    assert epochs(tmp_path) in ([1, 2, 3, 4], [1, 2, 2, 3, 4])
    check_finished(tmp_path, clips)


@pytest.mark.parametrize("stage", [MAMBA, SE_TRANS], ids=["mamba", "se_trans"])
def test_two_processes(clips, tmp_path, stage):
    run(
        command(stage, clips, tmp_path, distributed_backend="gloo"),
        TWO_PROCESSES,
    )
    check_finished(tmp_path, clips)


def test_se_trans(clips, finished_se_trans):
    check_finished(finished_se_trans, clips)
    settings = (finished_se_trans / "model" / "hyperparams.yaml").read_text()
    superset = re.search(r"superset:\n((?:\s+- \d\n)+)", settings)[1]
    assert re.findall(r"\d", superset) == list("0000011110")
    assert "!apply" not in settings


def test_bf16(clips, tmp_path):
    log = run_here(command(MAMBA, clips, tmp_path, precision="bf16"))
    assert "precision: bf16" in log
    check_finished(tmp_path, clips)


def test_processes_that_load_stay_between_epochs(clips, tmp_path):
    options = {"num_workers": 2, "number_of_epochs": 2}
    log = run_here(command(MAMBA, clips, tmp_path, **options))
    assert "Batches of 8 clips, loaded by 2 processes into" in log
    settings = (tmp_path / "hyperparams.yaml").read_text("utf-8")
    assert settings.count("persistent_workers: !apply:operator.truth [2]") == 2
    check_finished(tmp_path, clips)


def test_without_place_and_time(clips, tmp_path):
    run_here(command(MAMBA, clips, tmp_path, use_context=False))
    assert not (tmp_path / "model" / "context_encoder.safetensors").exists()
    check_finished(tmp_path, clips)


def test_feature_cache_changes_nothing_but_the_time(finished, clips, tmp_path):
    options = {
        "feature_cache": tmp_path / "cache",
        "cache_dtype": "float32",
        "number_of_epochs": 2,
    }
    log = run_here(command(MAMBA, clips, tmp_path / "first", **options))
    assert "60 clips computed" in log
    log = run_here(command(MAMBA, clips, tmp_path / "second", **options))
    assert "0 clips computed in 0.0 s, 60 were there" in log
    tables = [
        pd.read_csv(output / "test" / "predictions.csv", index_col=0)
        for output in (finished, tmp_path / "first", tmp_path / "second")
    ]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], atol=1e-3)
    check_finished(tmp_path / "second", clips)


def test_fixed_length(clips, tmp_path):
    options = {"clip_length": 0.3, "feature_cache": tmp_path / "cache"}
    run_here(command(MAMBA, clips, tmp_path / "out", **options))
    (folder,) = (tmp_path / "cache").iterdir()
    index = pd.read_csv(folder / "index.csv")
    assert (index["frames"] == 15).all()


def test_augmentation_no_validation_clips_absent_class(clips, tmp_path):
    manifest = changed(
        *(clips, tmp_path),
        scene_label=lambda column: column.replace("Bar", "Bus"),
        split=lambda column: column.replace("valid", "train"),
        location=lambda column: column.where(column.index % 2 == 0, ""),
        record_time=lambda column: column.where(column.index % 3 == 0, ""),
    )
    output = tmp_path / "output"
    log = run_here(
        command(
            *(MAMBA, manifest, output),
            number_of_epochs=2,
            mixup_alpha=0.3,
            augment_prob=1.0,
            label_smoothing=0.1,
        )
    )
    assert "the last epoch's weights are kept" in log
    assert "No training clips of Bar: the model cannot learn" in log
    assert "Loaded the checkpoint of epoch 2" in log
    check_finished(output, manifest)


@pytest.mark.parametrize("same_classes", [True, False])
def test_starts_from_an_earlier_stage(finished, clips, tmp_path, same_classes):
    # Without a learning rate, weights stay as they were loaded.
    options = {"pretrained_folder": finished, "lr": 0.0, "lr_final": 0.0}
    manifest, classes = clips, list(SCENES)
    if not same_classes:
        classes = [name.upper() for name in classes[::-1]]
        options["scene_labels"] = classes
        manifest = changed(
            *(clips, tmp_path), scene_label=lambda column: column.str.upper()
        )
    output = tmp_path / "output"
    log = run_here(command(MAMBA, manifest, output, **options))
    assert ("made anew" in log) != same_classes
    earlier = read_config(output / "model")["training"]["started_from"]
    assert earlier == read_config(finished / "model")["training"]
    before = load_file(finished / "model" / "model.safetensors")
    after = load_file(output / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    # The statistics of a batch norm are no weights.
    changes = {
        name
        for name in before
        if "running_" not in name and not torch.equal(before[name], after[name])
    }
    head = {"classifier.weight", "classifier.bias"}
    assert changes <= head and (same_classes or changes == head)
    if same_classes:
        training = read_config(output / "model")["training"]
        for name in head:
            calibrated = before[name] / (training["temperature"] or 1)
            torch.testing.assert_close(after[name], calibrated)
    before = load_file(finished / "model" / "normalize.safetensors")
    after = load_file(output / "model" / "normalize.safetensors")
    for name in ("count", "glob_mean", "glob_std"):
        assert torch.equal(before[name], after[name])


def test_frozen_parts_stay(finished, clips, tmp_path):
    """Statistics of the batch norms among them."""
    options = {"pretrained_folder": finished, "freeze": "[encoder, blocks.0]"}
    run_here(command(MAMBA, clips, tmp_path, **options))
    before = load_file(finished / "model" / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    frozen = [n for n in before if n.startswith(("encoder.", "blocks.0."))]
    assert any("running_mean" in name for name in frozen)
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["norm.weight"], after["norm.weight"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 8}, "Give this stage that model's settings: channels 4."),
        ({"hop_length": 10}, "takes other features"),
        ({"pretrained_folder": "nowhere"}, "No finished model in nowhere"),
    ],
)
def test_unfit_earlier_stage_is_refused(
    finished, clips, tmp_path, options, message
):
    options = {"pretrained_folder": finished, **options}
    log = run_here(command(MAMBA, clips, tmp_path, **options), expect=1)
    assert message in log


def test_early_stopping(clips, tmp_path):
    # Without a learning rate the score stays where it is.
    options = {"number_of_epochs": 9, "patience": 2, "lr": 0, "lr_final": 0}
    run_here(command(MAMBA, clips, tmp_path, **options))
    assert epochs(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scene_labels": list(SCENES)[::-1]}, "another scene_labels"),
        ({"channels": 8}, "another model"),
        ({"n_fft": 4096}, "another features"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    finished, clips, options, message
):
    settings = (finished / "hyperparams.yaml").read_text()
    log = run_here(command(MAMBA, clips, finished, **options), expect=1)
    assert message in log
    assert (finished / "hyperparams.yaml").read_text() == settings


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"lr": 0.1, "lr_final": 0.1},
        {"metadata_dropout": 0.5, "weight_decay": 0.0},
        {"pretrained_folder": "here"},
        {"freeze": "[encoder]", "mixup_alpha": 0.3, "dropout": 0.2},
    ],
)
def test_finished_training_does_not_pass_for_another(finished, clips, options):
    summary = (finished / "summary.json").read_bytes()
    options = {
        name: finished if value == "here" else value
        for name, value in options.items()
    }
    words = command(MAMBA, clips, finished, number_of_epochs=2, **options)
    log = run_here(words, expect=1)
    assert log.count("holds a training with another") == 1
    line = log.splitlines()[-1].partition(": choose another --output_folder")[0]
    names = line.partition("another ")[2].split(", ")
    assert sorted(names) == sorted(options)
    assert (finished / "summary.json").read_bytes() == summary


def test_rate_may_change_before_a_training_is_finished(
    finished, clips, tmp_path, caplog
):
    """As the line on a loss that is not finite advises."""
    output = shutil.copytree(finished, tmp_path / "out")
    (output / "summary.json").unlink()
    options = {"number_of_epochs": 3, "lr": 0.002, "num_workers": 1}
    run_here(command(MAMBA, clips, output, **options))
    warning = f"The training in {output} was begun with another lr than"
    assert caplog.text.count(warning) == 1
    assert epochs(output) == [1, 2, 3]


@pytest.mark.parametrize(
    "column, value",
    [("wav", None), ("scene_label", "Bar"), ("location", "Delft")],
)
def test_resuming_with_other_rows_is_refused(
    finished, clips, tmp_path, column, value
):
    table = pd.read_csv(clips, keep_default_na=False)
    table.loc[0, column] = value or table["wav"][6]
    manifest = clips.with_name("other.csv")
    write_manifest(table, manifest)
    output = shutil.copytree(finished, tmp_path / "out")
    words = command(MAMBA, manifest, output, number_of_epochs=2)
    log = run_here(words, expect=1)
    assert log.endswith(
        f"{output} holds a training on other rows than those of {manifest}: "
        "choose another --output_folder, or remove this one.\n"
    )


def test_rows_may_be_sorted_anew_or_not_have_been_kept(
    finished, clips, tmp_path
):
    manifest = clips.with_name("sorted.csv")
    write_manifest(pd.read_csv(clips, keep_default_na=False)[::-1], manifest)
    output = shutil.copytree(finished, tmp_path / "out")
    words = command(MAMBA, manifest, output, number_of_epochs=2)
    run_here(words)
    (output / "rows.sha256").unlink()  # as an earlier version leaves it
    run_here(words)
    assert epochs(output) == [1, 2]


@pytest.mark.parametrize("stage", ["finetune_se_trans", "finetune_pseudo"])
def test_output_folder_of_another_stage_is_refused(finished, clips, stage):
    """Even where model, features and classes are the same."""
    settings = (finished / "hyperparams.yaml").read_text()
    small = SE_TRANS[1] if stage == "finetune_se_trans" else MAMBA[1]
    words = command((f"hparams/{stage}.yaml", small), clips, finished)
    log = run_here([*words, f"--pretrained_folder={finished}"], expect=1)
    assert f"output folder of stage finetune, this is stage {stage}" in log
    assert (finished / "hyperparams.yaml").read_text() == settings


def test_training_that_diverges_ends_in_one_clear_line(clips, tmp_path):
    log = run_here(
        command(MAMBA, clips, tmp_path, lr=1e20, nonfinite_patience=1),
        expect=1,
    )
    assert "Batch skipped, number 1 of this epoch" in log
    assert "--nonfinite_patience is 1" in log


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scene_labels": "[1, a]"}, "scene_labels must be a list of diff"),
        ({"scan_engine": "fast"}, "engine 'fast'"),
        ({"scan_engine": "mamba_ssm"}, "no CUDA"),
        ({"clip_length": 0}, "clip_length must be a number of seconds"),
        ({"warmup_steps": -1}, "warmup_steps must be a whole number from 0 on"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on"),
        ({"number_of_epochs": 1.5}, "number_of_epochs must be a whole number"),
        ({"metadata_swap": 2}, "metadata_swap must be a number from 0 to 1"),
        ({"band_pass": -0.1}, "band_pass must be a number from 0 to 1"),
        ({"lr": -1}, "lr must be a number from 0 on, got -1"),
        ({"lr_final": -1e-9}, "lr_final must be a number from 0 on, got -1e"),
        ({"weight_decay": "null"}, "weight_decay must be a number from 0 on"),
        ({"label_smoothing": 1}, "label_smoothing must be a number from 0 to"),
        ({"max_grad_norm": 0}, "over 0, got 0.0; 1e9 clips nothing"),
        ({"feature_cache": "x", "cache_dtype": "int8"}, "float16 or float32"),
        ({"win_length": 50}, "a window of 50 ms is 2205 samples at 44100 Hz"),
        ({"sample_rate": 96000}, "a window of 40 ms is 3840 samples at 96000"),
        ({"freeze": "encoder"}, "freeze must be a list of parts"),
        ({"freeze": "[stem]"}, "no part 'stem'; it has encoder, blocks, norm"),
        ({"freeze": "['']"}, "freeze leaves nothing of the model to train"),
        ({"data_folder": "x", "corpus": "y"}, "corpus must be one of cas, pre"),
        (
            {"grad_accumulation_factor": 6},
            "--grad_accumulation_factor 6 is more than the 5 batches of an ep",
        ),
    ],
)
def test_wrong_settings_end_in_one_clear_line(
    clips, tmp_path, monkeypatch, options, message
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    output = tmp_path / "output"
    assert message in run_here(command(MAMBA, clips, output, **options), 1)
    assert not (output / "log.txt").exists()


@pytest.mark.parametrize("text", [None, "", "# nothing\n"])
def test_yaml_that_trains_nothing_is_named(tmp_path, text):
    path = "hparams/evaluate.yaml"
    if text is not None:
        path = tmp_path / "own.yaml"
        path.write_text(text)
    log = run_here(["train.py", str(path), *CPU, "--manifest=m.csv"], 1)
    text = "this is no training stage, it has no scene_labels"
    assert log == f"{path}: {text}\n"


def test_second_run_in_an_output_folder_is_refused(
    clips, tmp_path, monkeypatch
):
    monkeypatch.setattr(common, "LOCK_SECONDS", 0)
    with FileLock(tmp_path / ".lock"):
        log = run_here(command(MAMBA, clips, tmp_path), 1)
    assert log.endswith(f"{tmp_path}: another run is at work there\n")
    assert not (tmp_path / "log.txt").exists()


@pytest.mark.parametrize("options", [{"scene_labels": "null"}, {}])
def test_classes_are_those_of_the_manifest_if_none_are_given(
    clips, tmp_path, options
):
    manifest = changed(
        *(clips, tmp_path),
        scene_label=lambda column: "my " + column.str.lower(),
    )
    output = tmp_path / "output"
    log = run_here(command(MAMBA, manifest, output, **options))
    expected = sorted(f"my {name.lower()}" for name in SCENES)
    assert "Classes of the manifest, not of hparams/finetune.yaml: my " in log
    assert read_config(output / "model")["classes"] == expected


def test_wrong_manifest_is_refused_before_training(clips, tmp_path):
    log = run_here(command(MAMBA, "no.csv", tmp_path / "output"), 1)
    assert log.endswith(
        "no.csv: 1 problem\n  - file not found; check its path\n"
    )
    manifest = changed(
        *(clips, tmp_path),
        scene_label=lambda column: column.where(column.index != 0, "Moon"),
        wav=lambda column: column.where(column.index != 1, "gone.wav"),
    )
    log = run_here(command(MAMBA, manifest, tmp_path / "output"), expect=1)
    assert "line 2 (ID bus_000): unknown class 'Moon'" in log
    assert re.search(r"line 3 \(ID bus_001\): .*gone.wav: file not found", log)
    assert not (tmp_path / "output" / "log.txt").exists()


def test_testing_what_was_never_trained_is_refused(clips, tmp_path):
    arguments = command(MAMBA, clips, tmp_path)
    log = run_here([*arguments, "--test_only"], expect=1)
    assert "No checkpoint in" in log


def test_manifest_is_prepared_first_for_all_processes(world, tmp_path):
    manifest = tmp_path / "cas.csv"
    options = {"data_folder": world, "distributed_backend": "gloo"}
    words = command(MAMBA, manifest, tmp_path / "out", **options)
    run(words, TWO_PROCESSES)
    assert epochs(tmp_path / "out") == [1]
    rows = pd.read_csv(manifest)
    assert set(rows["split"]) == {"train", "valid", "evaluation"}


def test_wrong_data_folder_is_refused(tmp_path):
    words = command(MAMBA, tmp_path / "m.csv", tmp_path, data_folder=tmp_path)
    log = run_here(words, expect=1)
    assert "expected ICME2024_GC_ASC_dev" in log


def test_rate_of_the_first_epoch_is_lr(clips, tmp_path):
    """Not the one of the optimizer."""
    options = {"opt_class": "!name:torch.optim.AdamW", "lr": 0.002}
    run_here(command(MAMBA, clips, tmp_path, **options))
    log = (tmp_path / "train_log.txt").read_text()
    assert log.startswith("epoch: 1, lr: 2.0000e-03")
