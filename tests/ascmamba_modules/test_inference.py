"""SceneClassifier on a model folder, and what it refuses."""

import datetime

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file, save_file

from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder import write_model_folder

RATE = 44100
STAGE = """
scene_labels: [Bus, Bar, Park]
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: 44100
features: !new:ascmamba_modules.features.LogMel
normalize: !new:speechbrain.processing.features.InputNormalization
tokenizer: !new:ascmamba_modules.context.ContextTokenizer
context_encoder: !new:ascmamba_modules.context.ContextEncoder
    context_size: 4
model: !new:ascmamba_modules.ascmamba.ASCMamba
    n_classes: !apply:len [!ref <scene_labels>]
    channels: 4
    n_blocks: 1
    context_size: 4
    d_state: 2
modules:
    features: !ref <features>
    normalize: !ref <normalize>
    context_encoder: !ref <context_encoder>
    model: !ref <model>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
"""


@pytest.fixture(scope="module")
def stage():
    """A stage with random weights everywhere, in evaluation mode."""
    torch.manual_seed(0)
    hparams = load_hyperpyyaml(STAGE)
    hparams["label_encoder"].update_from_iterable(hparams["scene_labels"])
    hparams["label_encoder"].ignore_len()
    hparams["tokenizer"].train(["Xi'an"])
    hparams["normalize"](torch.randn(4, 50, 64) * 20 - 40)
    for name in ("model", "context_encoder"):
        for parameter in hparams[name].parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    for module in hparams["modules"].values():
        module.eval()
    return hparams


@pytest.fixture(scope="module")
def source(stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    yaml = folder / "hyperparams.yaml"
    yaml.write_text(STAGE.replace("!ref <scene_labels>", "[1, 2, 3]"))
    write_model_folder(stage, yaml, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def classifier(source):
    return SceneClassifier.from_hparams(
        source=source, run_opts={"device": "cpu"}
    )


def answer(stage, wav, location=None, record_time=None):
    """What the stage's own modules say of one waveform."""
    tokenizer = stage["tokenizer"]
    with torch.no_grad():
        features = stage["normalize"](stage["features"](wav.unsqueeze(0)))
        context = stage["context_encoder"](
            tokenizer.encode_location(location).unsqueeze(0),
            tokenizer.encode_time(record_time).unsqueeze(0),
        )
        return torch.log_softmax(stage["model"](features, context), -1)


METADATA = [
    (None, None),
    ("Xi'an", None),
    (None, "2023-04-21 18:30:00"),
    ("Xi'an", datetime.datetime(2023, 4, 21, 18, 30)),
]


@pytest.mark.parametrize("location, record_time", METADATA)
def test_file_is_classified_as_by_the_modules(
    stage, classifier, tmp_path, location, record_time
):
    wav = 0.1 * torch.randn(RATE)
    path = tmp_path / "clip.wav"
    soundfile.write(path, wav.numpy(), RATE, subtype="FLOAT")
    out_prob, score, index, text_lab = classifier.classify_file(
        path, location, record_time
    )
    expected = answer(stage, wav, location, record_time)
    torch.testing.assert_close(out_prob, expected, atol=1e-5, rtol=0)
    assert score.item() == out_prob.max().item()
    assert index.item() == out_prob.argmax().item()
    assert text_lab == [["Bus", "Bar", "Park"][index.item()]]


def test_place_and_time_change_the_answer(classifier):
    wav = 0.1 * torch.randn(RATE)
    answers = [classifier.classify_batch(wav, None, *m)[0] for m in METADATA]
    for i in range(len(answers)):
        for j in range(i):
            assert not torch.allclose(answers[i], answers[j], atol=1e-4)


def test_batch_of_different_lengths_equals_single_clips(stage, classifier):
    wavs = torch.zeros(4, RATE)
    lengths = torch.tensor([1.0, 0.5, 0.2503, 0.03])
    for wav, length in zip(wavs, lengths):
        n = int(round(length.item() * RATE))
        wav[:n] = 0.1 * torch.randn(n)
    places, times = zip(*METADATA)
    out_prob, *_ = classifier.classify_batch(
        wavs, lengths, list(places), list(times)
    )
    for i, length in enumerate(lengths):
        wav = wavs[i, : int(round(length.item() * RATE))]
        expected = answer(stage, wav, places[i], times[i])
        torch.testing.assert_close(out_prob[i], expected[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count(classifier, tmp_path, rate, channels):
    time_axis = np.arange(2 * rate) / rate
    tone = 0.2 * np.sin(2 * np.pi * 440 * time_axis)
    soundfile.write(
        tmp_path / "own.wav", np.tile(tone[:, None], channels), rate
    )
    out_prob, *_ = classifier.classify_file(tmp_path / "own.wav")
    time_axis = np.arange(2 * RATE) / RATE
    tone = torch.tensor(0.2 * np.sin(2 * np.pi * 440 * time_axis))
    reference, *_ = classifier.classify_batch(tone)
    # Resampling leaves ripples far down; the answer hardly moves.
    torch.testing.assert_close(
        out_prob.exp(), reference.exp(), atol=0.05, rtol=0
    )


def test_real_recordings(classifier, shared_data):
    for path in sorted((shared_data / "ambience").glob("*.*[!d]")):
        out_prob, *_ = classifier.classify_file(path, "Berlin", None)
        assert torch.isfinite(out_prob).all()
        assert out_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_model_folder_calls_nothing_and_names_no_paths(source):
    text = (source / "hyperparams.yaml").read_text()
    assert "!apply" not in text and "n_classes: 3" in text
    assert str(source.parent) not in text


def test_folder_moves(source, tmp_path, classifier):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in source.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    wav = torch.randn(RATE)
    torch.testing.assert_close(
        SceneClassifier.from_hparams(source=str(moved)).classify_batch(wav)[0],
        classifier.classify_batch(wav)[0],
    )
    assert {f.name for f in moved.iterdir()} == {
        f.name for f in source.iterdir()
    }


@pytest.mark.parametrize("name", ["no/such/folder", "./none", "none", "/none"])
def test_mistyped_folder_is_refused_at_once(name, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("tried to fetch")

    monkeypatch.setattr("speechbrain.utils.fetching.fetch", no_network)
    with pytest.raises(FileNotFoundError, match="No such folder"):
        SceneClassifier.from_hparams(source=name)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        SceneClassifier.from_hparams(source=tmp_path)


def test_weights_that_do_not_fit_are_refused(source, tmp_path):
    broken = tmp_path / "model"
    broken.mkdir()
    for file in source.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "model.safetensors")
    state["stray"] = state.pop("classifier.weight")
    save_file(state, broken / "model.safetensors")
    with pytest.raises(ValueError, match="classifier.weight"):
        SceneClassifier.from_hparams(source=broken)


def test_bad_input_is_named(classifier, tmp_path):
    (tmp_path / "text.wav").write_text("not sound")
    with pytest.raises(ValueError, match="text.wav: not an audio file"):
        classifier.classify_file(tmp_path / "text.wav")
    with pytest.raises(ValueError, match="none.wav: file not found"):
        classifier.classify_file(tmp_path / "none.wav")
    with pytest.raises(ValueError, match="'soon' is not a time"):
        classifier.classify_batch(torch.randn(RATE), record_time="soon")
    with pytest.raises(ValueError, match="3 entries for 2 clips"):
        classifier.classify_batch(torch.randn(2, RATE), location=["a"] * 3)
    with pytest.raises(ValueError, match="batch, samples"):
        classifier.classify_batch(torch.randn(1, 2, RATE))


@pytest.mark.parametrize(
    "lengths", [torch.tensor([1.0]), [44100, 22050], [1.0, 0.0], [[1.0, 1.0]]]
)
def test_lengths_that_are_not_relative_are_refused(classifier, lengths):
    with pytest.raises(ValueError, match="2 relative lengths"):
        classifier.classify_batch(torch.randn(2, RATE), lengths)


def test_mistyped_name_in_a_folder_that_exists_is_not_fetched(
    tmp_path, monkeypatch
):
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="results/modle"):
        SceneClassifier.from_hparams(source="results/modle")
