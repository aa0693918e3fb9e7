"""The baseline's encoder: by hand, blindness to padding, and gradients."""

import pytest
import torch
import torch.nn.functional as F
from model_checks import check_gradients, check_padding, check_shapes_refused

from ascmamba_modules.encoders.baseline import SETransEncoder


def small(n_mels=9, **options):
    return SETransEncoder(
        **{
            "n_mels": n_mels,
            "channels": (6, 8),
            "n_segments": 5,
            "n_heads": 2,
            "d_ffn": 16,
            **options,
        }
    )


@pytest.fixture
def encoder(randomise):
    return randomise(small()).eval()


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 37])
@pytest.mark.parametrize("n_mels", [4, 31, 64])
def test_shapes(n_mels, frames):
    assert small(n_mels)(torch.randn(2, frames, n_mels)).shape == (2, 8)


def test_size_is_that_of_the_organisers():
    # Theirs, counted from their layers, without place and time and the
    # classifier; the gates of ours are half as many, with biases.
    convolutions = 9 * (1 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
    norms = 2 * 2 * (64 + 128)
    gates = (2 * 64 * 4 + 4 + 64) + (2 * 128 * 8 + 8 + 128)
    attention = 4 * (128 * 128 + 128)
    rest = 2 * 128 * 32 + 32 + 128 + 2 * 2 * 128
    count = sum(p.numel() for p in SETransEncoder().parameters())
    assert count == convolutions + norms + gates + attention + rest


def test_layers_by_hand(encoder):
    features = torch.randn(1, 41, 9)
    x = features.unsqueeze(1)
    for block in encoder.blocks:
        for conv, norm in zip(block.convs, block.norms):
            x = F.conv2d(x, conv.weight, padding=1)
            statistics = norm.running_mean, norm.running_var
            x = F.batch_norm(x, *statistics, norm.weight, norm.bias)
            x = x.clamp(min=0)
        squeezed = block.se.squeeze(x.mean((2, 3))).clamp(min=0)
        x = x * block.se.excite(squeezed).sigmoid()[:, :, None, None]
        x = F.avg_pool2d(x, 2)
    segments = F.adaptive_avg_pool2d(x, (5, 1))[..., 0].transpose(1, 2)
    expected = encoder.transformer(segments).max(1).values
    torch.testing.assert_close(
        encoder(features), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_does_not_change_the_embedding(garbage, encoder):
    counts = [41, 40, 23, 9, 7, 6, 5, 4, 3, 2, 1]
    check_padding(encoder, counts, 9, garbage)


def test_every_parameter_gets_a_gradient():
    encoder, lengths = small(), torch.tensor([1.0, 0.6, 0.3])
    check_gradients(encoder, encoder(torch.randn(3, 40, 9), lengths))


def test_features_of_a_wrong_shape_are_refused(encoder):
    check_shapes_refused(encoder)
