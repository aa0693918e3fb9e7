"""MobileNet: published weights, padding, features; and what is refused."""

import numpy as np
import pytest
import torch
from model_checks import check_gradients, check_padding, check_shapes_refused

from ascmamba_modules.encoders import mobilenet
from ascmamba_modules.encoders.mobilenet import (
    KaldiLogMel,
    MobileNet,
    load_published,
)


@pytest.fixture
def teacher(shared_data):
    folder = shared_data / "teacher"
    if not folder.exists():
        pytest.skip("needs the teacher's files")
    return folder


def small(**settings):
    return MobileNet(width=0.1, n_mels=32, **settings)


def test_published_weights_give_the_published_answers(teacher):
    encoder = MobileNet(n_tags=527).eval()
    weights = teacher / "mn04_as_mAP_432.pt"
    load_published(encoder, weights, mobilenet.PUBLISHED["mn04"][2])
    reference = np.load(teacher / "mn04_network.npz")
    with torch.no_grad():
        embedding = encoder(torch.tensor(reference["mel"][:, 0]).mT)
        logits = encoder.tag(embedding)
        features = KaldiLogMel()(torch.tensor(reference["waveform"])[None])
    for ours, name in ((embedding, "embedding"), (logits, "logits")):
        np.testing.assert_allclose(ours, reference[name], atol=1e-4)
    np.testing.assert_allclose(
        (features[0].T + 4.5) / 5, reference["waveform_mel"], atol=1e-4
    )


def test_encoder_without_tagger_takes_the_same_weights(teacher):
    with_tagger, without = MobileNet(n_tags=527).eval(), MobileNet().eval()
    for encoder in (with_tagger, without):
        load_published(encoder, teacher / "mn04_as_mAP_432.pt")
    features = torch.randn(1, 60, 128)
    assert torch.equal(with_tagger(features), without(features))


@pytest.mark.parametrize(
    "name, millions",
    # As the authors' table has them.
    [("mn04", 0.98), ("mn05", 1.43), ("mn10", 4.88), ("mn40", 68.43)],
)
def test_published_widths(name, millions):
    with torch.device("meta"):
        encoder = MobileNet(mobilenet.PUBLISHED[name][0], n_tags=527)
    count = sum(p.numel() for p in encoder.parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_does_not_change_the_embedding(garbage, randomise):
    encoder = randomise(small()).double().eval()
    counts = [97, 96, 65, 64, 40, 33, 32, 17, 16, 5, 2, 1]
    close = {"dtype": torch.float64, "rtol": 1e-6, "atol": 1e-9}
    check_padding(encoder, counts, 32, garbage, least=1e-3, **close)


@pytest.mark.parametrize("counts", [[7000, 3201], [6720, 3200], [6401, 515]])
def test_features_of_a_clip_are_the_same_in_a_padded_batch(counts):
    features = KaldiLogMel(n_mels=32)
    wavs = torch.randn(2, counts[0])
    wavs[1, counts[1] :] = 0
    lengths = torch.tensor(counts) / counts[0]
    together = features(wavs, lengths)
    frames = features.frame_lengths(wavs, lengths) * together.shape[1]
    for clip, wav, count, n in zip(together, wavs, counts, frames):
        alone = features(wav[None, :count])[0]
        assert len(alone) == n.round()
        torch.testing.assert_close(clip[: len(alone)], alone)


def test_frozen_encoder_stays_as_it_is():
    encoder = small(frozen=True).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder(torch.randn(4, 64, 32))
    assert not any(p.requires_grad for p in encoder.parameters())
    for name, values in encoder.state_dict().items():
        assert torch.equal(values, before[name]), name


def test_every_parameter_gets_a_gradient():
    encoder = small(n_tags=5).eval()
    lengths = torch.tensor([1, 1, 0.5])
    embedding = encoder(torch.randn(3, 64, 32), lengths)
    check_gradients(encoder, encoder.tag(embedding))


def other_width(path):
    torch.save(MobileNet(width=0.1, n_tags=5).state_dict(), path)


def other_keys(path):
    torch.save({"weight": torch.zeros(2)}, path)


def no_state(path):
    torch.save([1, 2], path)


@pytest.mark.parametrize(
    "write, message",
    [
        (other_width, "parameters are wrong"),
        (other_keys, "is missing"),
        (no_state, "no weights by name"),
        (lambda path: path.write_bytes(b"no weights"), "no file of PyTorch"),
    ],
)
def test_other_files_are_refused_in_one_line(write, message, tmp_path):
    write(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_published(MobileNet(), tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)


def test_wrong_checksum_missing_file_and_missing_network(tmp_path, monkeypatch):
    other_width(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="another SHA-256"):
        load_published(small(), tmp_path / "weights.pt", 64 * "0")
    with pytest.raises(FileNotFoundError, match="mn04, mn05"):
        load_published(small(), "mn4")
    with pytest.raises(ValueError, match="No checksum of mn10"):
        load_published(small(), "mn10")

    def retrieve(*_):
        raise OSError("no network")

    monkeypatch.setattr(mobilenet.pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match="mn04_as.*no network.*by hand"):
        load_published(MobileNet(), "mn04")


def test_clip_shorter_than_the_window_is_refused():
    with pytest.raises(ValueError, match="513 samples is too short"):
        KaldiLogMel()(torch.zeros(1, 513))
    assert KaldiLogMel()(torch.zeros(1, 514)).shape == (1, 2, 128)


def test_features_of_a_wrong_shape_are_refused():
    check_shapes_refused(small(), n_mels=32)
