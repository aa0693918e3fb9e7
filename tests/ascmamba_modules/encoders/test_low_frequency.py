"""ASCMamba pooled by average, on features of the low frequencies."""

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from ascmamba_modules.ascmamba import ASCMamba

HPARAMS = Path(__file__).resolve().parents[3] / "hparams" / "comparison"


def small(pooling):
    return ASCMamba(
        n_classes=4,
        n_mels=9,
        channels=6,
        n_blocks=1,
        context_size=3,
        d_state=4,
        pooling=pooling,
    )


def test_mean_is_the_mean_of_mean_and_maximum(randomise):
    both, mean = small("mean_max"), small("mean")
    body = {
        name: weight
        for name, weight in randomise(both).state_dict().items()
        if not name.startswith("classifier.")
    }
    assert set(mean.load_state_dict(body, strict=False).missing_keys) == {
        "classifier.weight",
        "classifier.bias",
    }
    both.eval()
    mean.eval()
    clips = torch.randn(2, 20, 9), torch.randn(2, 3), torch.tensor([1.0, 0.4])
    embedding = mean.embed(*clips)
    expected = both.embed(*clips).view(2, -1, 2, 6)[:, :, 0].flatten(1)
    torch.testing.assert_close(embedding, expected)
    assert embedding.shape == (2, mean.embedding_size)
    assert mean(*clips).shape == (2, 4)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="mean_max or mean, got 'max'"):
        small("max")


def test_features_end_at_f_max():
    with open(HPARAMS / "low_frequency.yaml") as file:
        hparams = load_hyperpyyaml(
            file,
            {
                "manifest": "none.csv",
                "channels": 4,
                "n_blocks": 1,
                "frequency_centering": False,
            },
        )
    f_max, rate = hparams["f_max"], hparams["sample_rate"]
    time = torch.arange(rate) / rate
    inside, outside = (
        hparams["features"](torch.sin(2 * torch.pi * f * time).unsqueeze(0))
        for f in (0.9 * f_max, 1.1 * f_max)
    )
    # Away from the edges, where a cut tone has all frequencies.
    assert inside[:, 5:-5].amax() > outside[:, 5:-5].amax() + 30
    # So many bands in so few bins of the transform: none may be empty.
    filters = hparams["features"].mel_spectrogram.mel_scale.fb
    assert filters.shape[1] == 64 and (filters.amax(0) > 0).all()
