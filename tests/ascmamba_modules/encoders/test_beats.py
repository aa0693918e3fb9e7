"""BEATs against SpeechBrain's own class, with random weights."""

import pytest
import torch
from speechbrain.lobes.models.beats import BEATs

from ascmamba_modules.encoders.beats import (
    BEATsEncoder,
    KaldiFbank,
    load_published,
)

SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 8,
    "encoder_attention_heads": 2,
    "embed_dim": 12,
}


def features(wavs):
    return (KaldiFbank()(wavs) - 15.41663) / 13.11164


def test_equals_speechbrains_class():
    reference = BEATs()
    encoder = BEATsEncoder(**vars(reference.cfg)).eval()
    encoder.load_state_dict(reference.state_dict(), strict=True)
    wavs = torch.randn(2, 8000)
    tokens, *_ = reference.extract_features(wavs, torch.ones(2))
    torch.testing.assert_close(encoder(features(wavs)), tokens.mean(1))


def test_padding_does_not_change_the_embedding():
    encoder = BEATsEncoder(**SMALL).eval()
    wavs = torch.randn(3, 16000)
    lengths = torch.tensor([1.0, 0.61, 0.2])
    frames = KaldiFbank().frame_lengths(wavs, lengths)
    together = encoder(features(wavs), frames)
    alone = torch.cat(
        [
            encoder(features(wavs[row : row + 1, :count]))
            for row, count in enumerate([16000, 9760, 3200])
        ]
    )
    assert alone.std(0).mean() > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def checkpoint(path, **config):
    encoder = BEATsEncoder(**{**SMALL, **config})
    model = {**encoder.state_dict(), "predictor.bias": torch.zeros(3)}
    torch.save({"cfg": vars(encoder.config), "model": model}, path)
    return encoder.eval()


def test_published_file_is_loaded(tmp_path):
    original = checkpoint(tmp_path / "beats.pt")
    encoder = BEATsEncoder(**SMALL).eval()
    load_published(encoder, tmp_path / "beats.pt")
    x = torch.randn(1, 32, 128)
    assert torch.equal(encoder(x), original(x))


def test_file_of_other_settings_is_refused(tmp_path):
    checkpoint(tmp_path / "beats.pt", max_distance=100)  # of the same shapes
    with pytest.raises(ValueError, match="another max_distance"):
        load_published(BEATsEncoder(**SMALL), tmp_path / "beats.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not of BEATs"):
        load_published(BEATsEncoder(**SMALL), tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="no file absent.pt"):
        load_published(BEATsEncoder(**SMALL), "absent.pt")


def test_frozen_encoder_does_not_train():
    encoder = BEATsEncoder(frozen=True, **SMALL).train()
    assert not encoder.training and not encoder.encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    x = torch.randn(1, 32, 128)
    assert torch.equal(encoder(x), encoder(x))  # no dropout


def test_short_clips_are_refused():
    with pytest.raises(ValueError, match="2799 samples is too short"):
        KaldiFbank()(torch.zeros(1, 2799))
    assert KaldiFbank()(torch.zeros(1, 2800)).shape == (1, 16, 128)
    with pytest.raises(ValueError, match="at least 16 frames"):
        BEATsEncoder(**SMALL)(torch.randn(1, 15, 128))
