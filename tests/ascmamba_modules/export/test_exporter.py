"""Exported files against the classifier that they were made from."""

import json
import shutil
import sys

import pytest
import torch
from small_models import write_folder

from ascmamba_modules.command_line import main
from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.export.exporter import (
    METADATA_FILE,
    export_model,
    onnx_runner,
    quantise,
    torch_runner,
)
from ascmamba_modules.inference import SceneClassifier

NEEDED = ("onnx", "onnxruntime", "onnxscript")
TIME = "2023-04-21 18:30:00"


@pytest.fixture(scope="module", autouse=True)
def packages():
    for name in NEEDED:
        pytest.importorskip(name, reason="extra 'export' is not installed")


@pytest.fixture(scope="module")
def classifier(model_folder):
    return SceneClassifier.from_hparams(
        model_folder, run_opts={"device": "cpu"}
    )


@pytest.fixture(scope="module")
def onnx_file(model_folder, tmp_path_factory):
    """Written by the command: waveform in, no place and time, any length."""
    path = tmp_path_factory.mktemp("onnx") / "modèle.onnx"
    assert main(["export", str(model_folder), "--output", str(path)]) == 0
    return path


def posteriors(classifier, wavs, *metadata):
    return classifier.classify_batch(wavs, None, *metadata)[0].exp()


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert found.max() < 0.99  # else little would be shown


@pytest.mark.parametrize("batch, samples", [(1, 44100), (3, 30_007), (2, 4410)])
def test_any_batch_and_length(onnx_file, classifier, batch, samples):
    wavs = 0.1 * torch.randn(batch, samples)
    assert_same(onnx_runner(onnx_file)(wavs), posteriors(classifier, wavs))


def test_real_recordings(onnx_file, classifier, shared_data):
    run = onnx_runner(onnx_file)
    esc10 = sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::40]
    ambience = (shared_data / "ambience").glob("*.*[!d]")
    for path in [*esc10, *sorted(ambience)]:
        wavs = load_audio(path, classifier.audio_normalizer)[None, :441_000]
        assert_same(run(wavs), posteriors(classifier, wavs))


def test_file_is_small_and_says_what_it_is(onnx_file):
    import onnx

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    assert len(scans) == 4  # two paths, both ways
    assert len(model.graph.node) < 400
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["Bus", "Bar", "Park"]
    assert metadata["sample_rate"] == "44100"
    assert metadata["window_seconds"] == "null"
    assert metadata["hop_samples"] == "882"
    assert metadata["context"] == "none"
    assert str(onnx_file.parent.parent).encode() not in onnx_file.read_bytes()
    assert b"traceable.py" not in onnx_file.read_bytes()


def test_features_and_context_in(classifier, tmp_path):
    path = tmp_path / "model.onnx"
    exported = export_model(classifier, path, "onnx", "features", True)
    run = onnx_runner(path)
    wavs = 0.1 * torch.randn(2, 33_000)
    features = classifier.mods["features"](wavs)
    context = classifier.context("Xi'an", TIME).expand(2, -1)
    known = run(features, context)
    assert_same(known, posteriors(classifier, wavs, "Xi'an", TIME))
    unknown = torch.tensor(json.loads(exported.metadata["unknown_context"]))
    found = run(features, unknown.expand(2, -1))
    assert_same(found, posteriors(classifier, wavs))
    assert (found - known).abs().max() > 1e-3


def test_int8_is_near(onnx_file, classifier, tmp_path):
    import onnx

    path = shutil.copy(onnx_file, tmp_path / "model.onnx")
    quantise(path)
    model = onnx.load(path)
    assert model.metadata_props
    types = {x.name: x.data_type for x in model.graph.initializer}
    assert types["features.bands"] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.INT8 in types.values()
    found, expected = [], []
    for _ in range(4):
        wavs = 0.1 * torch.randn(2, 22050)
        found.append(onnx_runner(path)(wavs))
        expected.append(posteriors(classifier, wavs))
    differences = (torch.cat(found) - torch.cat(expected)).abs()
    assert 1e-6 < differences.max() < 0.1


def test_torch_export(classifier, tmp_path):
    path = tmp_path / "model.pt2"
    export_model(classifier, path, "torch")
    run = torch_runner(path)
    for batch, samples in ((1, 44100), (3, 30_007)):
        wavs = 0.1 * torch.randn(batch, samples)
        assert_same(run(wavs), posteriors(classifier, wavs))
    extra = {METADATA_FILE: ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(json.loads(extra[METADATA_FILE])["classes"])[0] == "Bus"
    assert b"traceable.py" not in path.read_bytes()


@pytest.mark.parametrize("model", ["se_trans", "baseline", "resnet"])
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_other_models_at_one_length(model, format, tmp_path):
    folder, _ = write_folder(tmp_path, model, uses_context=model != "se_trans")
    classifier = SceneClassifier.from_hparams(folder)
    path = tmp_path / "exported"
    with pytest.raises(ValueError, match="--seconds 10"):
        export_model(classifier, path, format)
    assert not path.exists()
    exported = export_model(classifier, path, format, seconds=0.7)
    assert exported.metadata["window_seconds"] == "0.7"
    run = (onnx_runner if format == "onnx" else torch_runner)(path)
    for batch in (1, 4):
        wavs = 0.1 * torch.randn(batch, 30_870)
        assert_same(run(wavs), posteriors(classifier, wavs))


def test_export_that_differs_is_not_kept(tmp_path, monkeypatch):
    folder, _ = write_folder(tmp_path, "se_trans", uses_context=False)
    classifier = SceneClassifier.from_hparams(folder)
    monkeypatch.setattr("ascmamba_modules.export.exporter.TOLERANCE", -1.0)
    output = tmp_path / "output"
    with pytest.raises(ValueError, match="not written"):
        export_model(classifier, output / "a.pt2", "torch", seconds=0.5)
    assert not list(output.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--format", "torch", "--int8"], "for format onnx alone"),
        (["--seconds", "0.01"], "at least two hops"),
        (["--seconds", "0"], "0 is not over 0"),
        (["--output", "model.pt"], "must end in .onnx"),
        (["--format", "wav"], "invalid choice"),
        (["--input", "mp3"], "invalid choice"),
    ],
)
def test_wrong_options_end_in_one_clear_line(
    model_folder, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model_folder), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_model_without_context_has_no_vector(tmp_path):
    folder, _ = write_folder(tmp_path, uses_context=False)
    classifier = SceneClassifier.from_hparams(folder)
    with pytest.raises(ValueError, match="takes no context vector"):
        export_model(classifier, tmp_path / "a.onnx", takes_context=True)


def test_missing_packages_are_named(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"ascmamba\[export\]"):
        export_model(classifier, tmp_path / "a.onnx")
