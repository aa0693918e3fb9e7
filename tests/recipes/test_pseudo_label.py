"""Stage 3 as users run it: commands on small clips and tiny models."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pseudo_label
import pytest
import torch
from demo_set import SCENES
from recipe_commands import (
    CPU,
    FAST,
    MAMBA,
    RECIPE,
    TWO_PROCESSES,
    changed,
    command,
    epochs,
    flags,
    run,
    run_here,
    run_killed,
)
from safetensors.torch import load_file, save_file
from speechbrain.dataio.encoder import CategoricalEncoder

from ascmamba_modules.data.manifest import read_manifest
from ascmamba_modules.inference import SceneClassifier

STAGE_4 = ("hparams/finetune_pseudo.yaml", MAMBA[1])


@pytest.fixture(scope="module")
def mixed(clips, tmp_path_factory):
    """Manifest with 20 clips to label, 20 labelled ones to train on, and held
    out clips of which two have no label; names that pandas reads otherwise."""
    names = {"bus_000": "007", "bus_001": "NA", "airport_000": "1.50"}

    def unlabel(column):
        return column.where(~column.index.isin([2, 5] + pool), "")

    pool = [row for row in range(60) if row % 6 in (0, 1)]
    return changed(
        *(clips, tmp_path_factory.mktemp("mixed")),
        ID=lambda column: column.replace(names),
        scene_label=unlabel,
        label_source=unlabel,
        split=lambda column: column.where(column.index % 12 != 0, "").where(
            column.index != 5, "evaluation"
        ),
    )


@pytest.fixture(scope="module")
def truth(clips, mixed):
    """File with the classes of all clips, as their number in the demo set."""
    table = read_manifest(mixed)
    labels = pd.read_csv(clips)["scene_label"]
    rows = pd.DataFrame({"filename": table["ID"], "scene_label": labels})
    rows.to_csv(mixed.parent / "truth.csv", index=False)
    return mixed.parent / "truth.csv"


@pytest.fixture
def arguments(mixed, finished, finished_se_trans):
    """A function that gives the command's arguments."""
    return label_arguments(mixed, finished, finished_se_trans)


def label_arguments(manifest, first, second):
    def make(output, **options):
        files = {"manifest": manifest, "first": first, "second": second}
        options = {
            **files,
            "output_folder": output,
            "batch_size": 8,
            "num_workers": 0,
            "share": 0.5,
            **options,
        }
        return ["hparams/pseudo_label.yaml", *flags(options), *CPU]

    return make


def label(arguments, launcher=(sys.executable,)):
    return run(["pseudo_label.py", *arguments], launcher)


@pytest.fixture(scope="module")
def labelled(mixed, truth, finished, finished_se_trans, tmp_path_factory):
    """A finished stage 3, to be left as it is."""
    output = tmp_path_factory.mktemp("pseudo_label")
    make = label_arguments(mixed, finished, finished_se_trans)
    log = label(make(output, truth=truth))
    assert "Clips: 20 to label" in log and "precision: fp32" in log
    return output


def read_posteriors(output, number=1):
    path = output / f"round_{number}" / "posteriors.csv"
    table = pd.read_csv(path, header=[0, 1], dtype=str)
    values = table.iloc[:, 1:].astype(float)
    return values.set_axis(table.iloc[:, 0].fillna("NA"), axis=0)


def read_labels(output):
    path = output / "manifest.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def check_posteriors(found, models, manifest):
    """They are the models' own, of each clip alone, in manifest order."""
    table = read_manifest(manifest)
    is_free = table["split"].isin(["", "train"])
    pool = table[(table["scene_label"] == "") & is_free]
    assert list(found.index) == list(pool["ID"]) and len(pool) == 20
    for name, model in models.items():
        assert list(found[name].columns) == list(SCENES)
        classifier = SceneClassifier.from_hparams(
            source=model / "model", run_opts={"device": "cpu"}
        )
        for row in pool.itertuples():
            out_prob, *_ = classifier.classify_file(
                row.wav, row.location, row.record_time
            )
            np.testing.assert_allclose(
                found.loc[row.ID, name], out_prob[0].exp(), atol=1e-4
            )
    assert np.ptp(found.to_numpy(), axis=0).max() > 1e-2


def test_posteriors_are_those_of_the_models(
    labelled, mixed, finished, finished_se_trans
):
    models = {"first": finished, "second": finished_se_trans}
    check_posteriors(read_posteriors(labelled), models, mixed)


def test_manifest_and_report(labelled, mixed, truth):
    folder = labelled / "round_1"
    labels = read_labels(labelled)
    pd.testing.assert_frame_equal(labels, read_labels(folder))
    given = read_manifest(mixed).set_index("ID")
    labels = labels.set_index("ID")
    rejected = pd.read_csv(folder / "rejected.csv", keep_default_na=False)
    steps = labels["label_source"].str.extract(r"pseudo-label step (\d)")[0]
    assert (steps == "1").sum() == 10
    assert steps.notna().sum() + len(rejected) == 20
    human = labels[steps.isna()]
    assert list(human.index) == list(given.index[given["scene_label"] != ""])
    assert (human["label_source"] == "synthetic").all()
    report = pd.read_csv(folder / "report.csv", index_col="part")
    right = (
        labels["scene_label"]
        == pd.read_csv(
            truth, dtype=str, keep_default_na=False, index_col=0
        ).loc[labels.index, "scene_label"]
    )
    for step in ("1", "2"):
        is_step = steps == step
        assert report.loc[f"step {step}", "clips"] == is_step.sum()
        assert report.loc[f"step {step}", "accuracy"] == pytest.approx(
            right[is_step].mean(), nan_ok=True
        )
    left = {path.name for path in labelled.rglob(".*")}
    assert left == {".lock"} and not list(labelled.rglob("*.tmp"))


@pytest.mark.parametrize(
    "options, launcher",
    [
        ({"batch_size": 3}, (sys.executable,)),
        ({"distributed_backend": "gloo"}, TWO_PROCESSES),
    ],
    ids=["batches", "processes"],
)
def test_batches_and_processes_change_nothing(
    labelled, arguments, tmp_path, options, launcher
):
    label(arguments(tmp_path, **options), launcher)
    pd.testing.assert_frame_equal(
        read_posteriors(tmp_path), read_posteriors(labelled), atol=1e-4, rtol=0
    )
    ours, theirs = read_labels(tmp_path), read_labels(labelled)
    columns = ["ID", "scene_label", "split", "label_source"]
    pd.testing.assert_frame_equal(ours[columns], theirs[columns])


def test_sessions_have_a_say(arguments, mixed, truth, tmp_path):
    """Here each scene is a session: all labels are right."""
    manifest = changed(
        mixed, tmp_path, session=lambda column: column.index // 6
    )
    output = tmp_path / "output"
    options = {"manifest": manifest, "session_labels": "propagate"}
    log = label(arguments(output, truth=truth, **options))
    assert "Sessions say the class of 100.0 % of the clips" in log
    report = pd.read_csv(output / "round_1" / "report.csv", index_col="part")
    assert report.loc["session", "clips"] == 20
    assert report.loc["session", "accuracy"] == 1


def test_bf16(labelled, arguments, tmp_path):
    log = label(arguments(tmp_path, precision="bf16"))
    assert "precision: bf16" in log
    found, exact = read_posteriors(tmp_path), read_posteriors(labelled)
    for name in ("first", "second"):
        error = (found[name] - exact[name]).abs().to_numpy().max()
        assert 1e-6 < error < 0.05
    key = json.loads((tmp_path / "round_1/posteriors.json").read_text())
    assert key["precision"] == "bf16"


def test_posteriors_are_used_again_until_something_changes(
    labelled, arguments, finished, tmp_path
):
    output = shutil.copytree(labelled, tmp_path / "output")
    kept = (output / "round_1" / "posteriors.csv").read_bytes()
    log = label(arguments(output, share=0.9))
    assert "Posteriors are taken from" in log
    assert "Selective scan on" not in log  # the model was not asked
    assert (output / "round_1" / "posteriors.csv").read_bytes() == kept
    sources = read_labels(output)["label_source"]
    assert (sources == "pseudo-label step 1").sum() == 18

    model = shutil.copytree(finished / "model", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"] += torch.linspace(0, 1, 10)
    save_file(weights, model / "model.safetensors")
    log = label(arguments(output, first=model))
    assert "Posteriors are taken from" not in log
    found, before = read_posteriors(output), read_posteriors(labelled)
    assert not np.allclose(found["first"], before["first"], atol=1e-2)
    np.testing.assert_allclose(found["second"], before["second"], atol=1e-6)


def test_two_rounds_in_two_processes(
    arguments, mixed, finished_se_trans, tmp_path
):
    settings = {**MAMBA[1], **FAST}
    options = {"rounds": 2, "finetune_overrides": settings}
    label(
        arguments(tmp_path, distributed_backend="gloo", **options),
        TWO_PROCESSES,
    )
    (training,) = tmp_path.glob("round_1/finetune_*")
    models = {"first": training, "second": finished_se_trans}
    check_posteriors(read_posteriors(tmp_path, 2), models, mixed)


def test_two_rounds_killed_and_run_again(
    arguments, mixed, finished_se_trans, tmp_path
):
    settings = {**MAMBA[1], **FAST, "number_of_epochs": 3}
    words = arguments(tmp_path, rounds=2, finetune_overrides=settings)
    run_killed(
        ["pseudo_label.py", *words],
        lambda: list(tmp_path.glob("round_1/finetune_*/train_log.txt")),
    )
    assert not (tmp_path / "manifest.csv").exists()

    log = label(words)
    assert log.count("Posteriors are taken from") == 1
    (training,) = tmp_path.glob("round_1/finetune_*")
    assert epochs(training) in ([1, 2, 3], [1, 1, 2, 3])
    models = {"first": training, "second": finished_se_trans}
    check_posteriors(read_posteriors(tmp_path, 2), models, mixed)
    last = (tmp_path / "round_2" / "manifest.csv").read_bytes()
    assert (tmp_path / "manifest.csv").read_bytes() == last


def test_stage_4_takes_the_manifest(labelled, finished, tmp_path):
    log = run(
        command(
            *(STAGE_4, labelled / "manifest.csv", tmp_path),
            pretrained_folder=finished,
        )
    )
    splits = read_labels(labelled)["split"].value_counts()
    assert f"Clips: {splits['train']} train, 9 valid, 9 test" in log
    assert "classifier kept" in log
    SceneClassifier.from_hparams(source=tmp_path / "model")


def refused(arguments, output):
    """The line that a command ends with, before it has written anything."""
    with pytest.raises(SystemExit) as error:
        pseudo_label.main(arguments)
    assert not output.exists()
    return error.value.code


@pytest.mark.parametrize(
    "options, message",
    [
        ({"first": "nowhere"}, "No such folder: nowhere"),
        ({"second": "results/a/b"}, "No such folder: results/a/b"),
        ({"second": "hparams"}, "neither it nor model/ in it has"),
        ({"share": 1.5}, "share must be a number from 0 to 1, got 1.5"),
        ({"share": "most"}, "share must be a number, got most"),
        ({"stage": "finetune"}, "its stage is finetune"),
        ({"rounds": 0}, "rounds must be a whole number from 1 on"),
        ({"truth": "no.csv"}, "no.csv"),
        ({"session_labels": "maybe"}, "None, propagate, add, veto, got maybe"),
        ({"session_level": "day"}, "session, run, city_day, city, got day"),
        # Clips of all scenes have the same places and times.
        ({"session_labels": "add"}, "0.0% agree with the others"),
        ({"manifest": "no.csv"}, "file not found"),
        ({"shares": 0.5}, "shares"),
        ({"rounds": 2, "finetune_overrides": {"lrr": 1}}, "mean --lr?"),
        ({"rounds": 2, "finetune_hparams": "no.yaml"}, "no.yaml"),
        ({"finetune_overrides": "lr"}, "must be names with values, got lr"),
        (
            {"rounds": 2, "finetune_overrides": {"metadata_dropout": 3}},
            "metadata_dropout must be a number from 0 to 1, got 3",
        ),
        # The model that is named first has 4 channels and 16 mel bands.
        ({"rounds": 2}, "finetune_overrides: The model in "),
        ({"rounds": 2, "finetune_overrides": {"n_mels": 16}}, "channels 4"),
        (
            {
                "rounds": 2,
                "finetune_overrides": {**MAMBA[1], **FAST, "freeze": ["x"]},
            },
            "freeze: the model has no part 'x'",
        ),
    ],
)
def test_wrong_settings_end_in_one_clear_line(
    arguments, tmp_path, options, message
):
    output = tmp_path / "output"
    assert message in refused(in_recipe(arguments(output, **options)), output)


def in_recipe(arguments):
    return [str(RECIPE / arguments[0]), *arguments[1:]]


def test_place_and_time_do_not_come_in_between_rounds(
    arguments, clips, tmp_path
):
    first, output = tmp_path / "first", tmp_path / "output"
    run_here(command(MAMBA, clips, first, use_context=False))
    settings = {**MAMBA[1], **FAST}
    options = {"rounds": 2, "first": first, "finetune_overrides": settings}
    message = refused(in_recipe(arguments(output, **options)), output)
    assert "first does not use place and time" in message
    settings["use_context"] = False
    run_here(["pseudo_label.py", *arguments(output, **options)])
    (folder,) = output.glob("round_1/finetune_*")
    assert not SceneClassifier.from_hparams(folder).mods.keys() & {
        "context_encoder"
    }


def test_wrong_models_are_refused(
    arguments, finished, finished_se_trans, tmp_path
):
    output, folder = tmp_path / "output", tmp_path / "model"

    def message_with(name, **change):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished / "model", folder)
        change["make"](folder / name)
        return refused(in_recipe(arguments(output, first=folder)), output)

    other = finished_se_trans / "model" / "model.safetensors"
    message = message_with(
        "model.safetensors", make=lambda path: shutil.copy(other, path)
    )
    assert f"{folder}" in message
    assert "does not fit the model" in message and "blocks" in message
    message = message_with(
        "model.safetensors", make=lambda path: path.write_text("x")
    )
    assert f"{folder}" in message and "damaged" in message

    def swap_classes(path):
        encoder = CategoricalEncoder()
        encoder.update_from_iterable(list(SCENES)[::-1])
        encoder.save(path)

    message = message_with("label_encoder.txt", make=swap_classes)
    assert "The annotators have different classes" in message

    # A stage that was killed has settings and checkpoints, and no model.
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished, unfinished)
    shutil.rmtree(unfinished / "model")
    message = refused(in_recipe(arguments(output, first=unfinished)), output)
    assert f"No finished model in {unfinished}" in message


def test_wrong_clips_are_refused(arguments, clips, mixed, tmp_path):
    output = tmp_path / "output"
    message = refused(in_recipe(arguments(output, manifest=clips)), output)
    assert f"{clips}: 1 problem" in message
    assert "no clips to pseudo-label" in message

    text = tmp_path / "text.wav"
    text.write_text("no sound")
    manifest = changed(
        *(mixed, tmp_path),
        wav=lambda column: column.where(column.index != 6, str(text)),
        scene_label=lambda column: column.where(column.index != 3, "Moon"),
    )
    words = in_recipe(arguments(output, manifest=manifest))
    message = refused(words, output)
    assert "line 8 (ID 1.50)" in message and "not an audio file" in message
    text.unlink()
    manifest = changed(
        *(mixed, tmp_path),
        scene_label=lambda column: column.where(column.index != 3, "Moon"),
    )
    assert "labels Moon are not among the classes" in refused(words, output)


def test_output_folder_of_another_stage_is_refused(arguments, finished):
    settings = (finished / "hyperparams.yaml").read_text()
    log = run(["pseudo_label.py", *arguments(finished)], expect=1)
    assert "is the output folder of stage finetune, this is" in log
    assert "Traceback" not in log
    assert (finished / "hyperparams.yaml").read_text() == settings
