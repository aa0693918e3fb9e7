"""The challenge's file, as users make it: rows, columns, bad input."""

import shutil

import numpy as np
import pandas as pd
import predict
import pytest
from prepare_cas import SCENES
from recipe_commands import changed, run

from ascmamba_modules.data.manifest import read_manifest, write_manifest
from ascmamba_modules.inference import SceneClassifier

COLUMNS = ["filename", "location", "record_time", "scene_label"]


@pytest.fixture(scope="module")
def manifest(clips, tmp_path_factory):
    """Unlabelled clips, some with names that pandas reads otherwise."""
    names = {"bus_000": "007", "bus_001": "NA", "airport_000": "1.50"}
    return changed(
        *(clips, tmp_path_factory.mktemp("unlabelled")),
        ID=lambda column: column.replace(names),
        scene_label=lambda column: "",
    )


@pytest.fixture(scope="module")
def metadata(manifest):
    """The organisers' file: 23 of the clips, in another order."""
    table = read_manifest(manifest).rename(columns={"ID": "filename"})
    first = table["filename"].isin(["007", "NA", "1.50"])
    table = pd.concat([table[first], table[~first].iloc[:20]])
    path = manifest.parent / "eval_metadata.csv"
    write_metadata(table.sample(frac=1, random_state=0), path)
    return path


def write_metadata(table, path):
    table[COLUMNS].to_csv(path, index=False, encoding="utf-8-sig")


def read(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def command(model, manifest, metadata, output, *more):
    files = {"manifest": manifest, "metadata": metadata, "output": output}
    files = [f"--{name}={path}" for name, path in files.items()]
    return [str(model), *files, *more]


@pytest.fixture(scope="module")
def predicted(finished, manifest, metadata, tmp_path_factory):
    output = tmp_path_factory.mktemp("predicted") / "submission.csv"
    words = command(finished, manifest, metadata, output, "--batch-size=5")
    log = run(["predict.py", *words])
    assert f"{output}: 23 clips" in log
    return output


def test_form_is_that_of_the_organisers(predicted, metadata):
    given, found = read(metadata), read(predicted)
    assert list(found.columns) == COLUMNS
    # All but the labels, in the same order, and without a byte-order mark.
    emptied = found.assign(scene_label="").to_csv(index=False)
    assert metadata.read_text("utf-8-sig") == emptied
    assert predicted.read_bytes().startswith(b"filename,")
    assert set(found["scene_label"]) <= set(SCENES)
    assert {"007", "NA", "1.50"} <= set(found["filename"])
    assert not predicted.read_bytes().count(b"\r")
    assert len(given) == 23


def test_posteriors_are_the_models_own_for_each_clip_alone(
    predicted, finished, manifest
):
    answers = read(predicted)
    found = read(predicted.with_name("submission_posteriors.csv"))
    assert list(found["filename"]) == list(answers["filename"])
    assert list(found.columns[1:]) == [f"p({name})" for name in SCENES]
    posteriors = found.iloc[:, 1:].astype(float).to_numpy()
    classifier = SceneClassifier.from_hparams(
        source=finished / "model", run_opts={"device": "cpu"}
    )
    encoder = classifier.hparams.label_encoder
    order = [encoder.lab2ind[name] for name in SCENES]
    rows = read_manifest(manifest).set_index("ID")
    for i, name in enumerate(found["filename"]):
        row = rows.loc[name]
        out_prob, *_ = classifier.classify_file(
            row["wav"], row["location"], row["record_time"]
        )
        expected = out_prob[0, order].exp()
        np.testing.assert_allclose(posteriors[i], expected, atol=1e-4)
    best = [SCENES[i] for i in posteriors.argmax(axis=1)]
    assert list(answers["scene_label"]) == best
    assert np.ptp(posteriors, axis=0).max() > 1e-3


def test_batches_change_nothing(
    predicted, finished, manifest, metadata, tmp_path, capsys
):
    output = tmp_path / "new" / "b.csv"
    model = finished / "model"  # or the stage's folder, as above
    predict.main(command(model, manifest, metadata, output, "--batch-size=23"))
    assert "23 clips" in capsys.readouterr().out
    assert output.read_bytes() == predicted.read_bytes()
    names = ["b_posteriors.csv", "submission_posteriors.csv"]
    ours, theirs = (
        pd.read_csv(path.with_name(name)).iloc[:, 1:]
        for path, name in zip((output, predicted), names)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_true_metadata(shared_data, clips, finished, tmp_path, monkeypatch):
    """Eleven hundred rows as the organisers published them."""
    metadata = (
        shared_data / "cas_metadata" / "APSIPA2025_GC_ASC_eval_metadata.csv"
    )
    if not metadata.is_file():
        pytest.skip(f"no {metadata}")
    given = pd.read_csv(metadata, encoding="utf-8-sig", keep_default_na=False)
    table = given.rename(columns={"filename": "ID"}).assign(
        wav=str(read_manifest(clips)["wav"][0]),
        duration="",
        session="",
        dataset="CAS 2023",
        split="evaluation",
        label_source="",
    )
    # The manifest has other rows, too, in another order.
    table = pd.concat([read_manifest(clips), table])
    write_manifest(table.iloc[::-1], tmp_path / "manifest.csv")

    def stand_in(classifier, clips, options):
        asked.extend(clips["ID"])
        labels = given.set_index("filename").index.get_indexer(clips["ID"]) % 10
        return pd.DataFrame(np.eye(10)[labels], clips["ID"], SCENES)

    asked = []
    monkeypatch.setattr(predict, "find_posteriors", stand_in)
    output = tmp_path / "submission.csv"
    predict.main(command(finished, tmp_path / "manifest.csv", metadata, output))
    assert asked == list(given["filename"]) and len(asked) == 1100
    given["scene_label"] = [SCENES[i % 10] for i in range(1100)]
    assert output.read_text("utf-8") == given.to_csv(index=False)


@pytest.fixture
def refused(finished, manifest, metadata, tmp_path, monkeypatch):
    """Runs with other files, which must end before any clip is asked about,
    and leave nothing."""

    def check(message, **files):
        files = {
            "model": finished,
            "manifest": manifest,
            "metadata": metadata,
            "output": tmp_path / "out" / "a.csv",
            **files,
        }
        with pytest.raises(SystemExit, match=message):
            predict.main(command(**files))
        assert not list(tmp_path.glob("out/*"))

    def inference(*arguments):
        raise AssertionError("a model was asked")

    monkeypatch.setattr(predict, "find_posteriors", inference)
    return check


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda table: pd.concat([table, table.iloc[[3]]]),
            r"metadata.csv.*\n.*line 25: second row for .* line 5",
        ),
        (
            lambda table: table.replace({"filename": {"007": "008"}}),
            r"manifest.csv.*\n.*008 \(line \d+ of .*is missing",
        ),
        (
            lambda table: table.assign(scene_label=["", "Bar"] + [""] * 21),
            r"metadata.csv.*\n.*1 of 23 clips have a label, first on line 3",
        ),
        (
            lambda table: table.assign(record_time="yesterday"),
            r"metadata.csv: 23 problems\n.*line 2.*yesterday",
        ),
        (lambda table: table.iloc[:0], r"metadata.csv.*\n.*no clips"),
    ],
    ids=["repeated", "missing", "labelled", "time", "empty"],
)
def test_bad_metadata(refused, metadata, tmp_path, change, message):
    path = tmp_path / "metadata.csv"
    write_metadata(change(read(metadata)), path)
    refused(message, metadata=path)


def test_bad_manifest(refused, manifest, tmp_path):
    refused("nowhere.csv.*\n.*not found", manifest=tmp_path / "nowhere.csv")
    path = tmp_path / "manifest.csv"
    table = read_manifest(manifest)
    table["duration"] = ""
    write_manifest(pd.concat([table, table.iloc[[5]]]), path)
    refused("manifest.csv.*\n.*duplicate ID", manifest=path)

    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    table.loc[table["ID"].isin(["007", "1.50"]), "wav"] = str(bad)
    write_manifest(table, path)
    refused(r"manifest.csv: 2 problems\n.*\(ID 1.50\).*bad.wav", manifest=path)


def test_bad_model(refused, finished, tmp_path):
    refused("nothing", model=tmp_path / "nothing")
    model = shutil.copytree(finished / "model", tmp_path / "model")
    labels = model / "label_encoder.txt"
    labels.write_text(labels.read_text().replace("'Bar'", "'Pub'"))
    refused("classes of the model.*Pub.*are not the challenge's", model=model)
    shutil.copy(finished / "model" / labels.name, model)
    (model / "model.safetensors").write_bytes(b"{}")
    refused("model.safetensors is damaged", model=model)


def test_bad_output(refused, tmp_path):
    refused("is a folder", output=tmp_path)


def test_clips_of_a_session_share_their_answer(
    finished, manifest, metadata, tmp_path
):
    """Here all clips of a city are one session."""
    manifest = changed(
        manifest,
        tmp_path,
        session=lambda _: read_manifest(manifest)["location"],
    )
    output = tmp_path / "submission.csv"
    words = command(finished, manifest, metadata, output, "--pool-sessions")
    run(["predict.py", *words])
    answers = read(output)
    assert len(answers) == 23
    by_session = answers.groupby("location")["scene_label"]
    assert by_session.nunique().max() == 1
    path = tmp_path / "submission_posteriors.csv"
    posteriors = pd.read_csv(path).drop(columns="filename")
    np.testing.assert_allclose(posteriors.sum(axis="columns"), 1, atol=1e-6)
