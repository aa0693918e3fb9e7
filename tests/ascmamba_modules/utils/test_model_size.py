"""Counts of multiply-adds against counts by hand."""

import pytest
import torch
from torch import nn

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.mamba import Mamba
from ascmamba_modules.utils.model_size import multiply_adds

CHANNELS, CONTEXT, DEPTH, STATES, CLASSES = 4, 3, 2, 5, 6
FRAMES, MELS = 10, 8
BINS = MELS // 2  # behind the encoder
INNER, RANK, TAPS = 2 * CHANNELS, 1, 4  # of a Mamba block


@pytest.fixture
def small_model():
    return ASCMamba(
        n_classes=CLASSES,
        n_mels=MELS,
        channels=CHANNELS,
        n_blocks=1,
        context_size=CONTEXT,
        depth=DEPTH,
        d_state=STATES,
        patch=(1, 1),
        stride=(1, 1),
    )


def mamba_products():
    """Multiply-adds of the four projections of a Mamba block, per step."""
    return (
        CHANNELS * 2 * INNER
        + INNER * (RANK + 2 * STATES)
        + RANK * INNER
        + INNER * CHANNELS
    )


def test_parameters_of_a_small_ascmamba(small_model):
    per_map = 2 + 1  # norm, PReLU
    weights = 1 + 9 * CHANNELS + 9 * 2 * CHANNELS + 3 * CHANNELS
    encoder = CHANNELS * weights + 4 * CHANNELS * per_map
    # Beside its products: convolution and its bias, step bias, A and D.
    mamba = mamba_products() + INNER * (TAPS + 1 + 1 + STATES + 1)
    norm = 2 * (CONTEXT + 1) * CHANNELS
    last_norm = 2 * CHANNELS
    classifier = (2 * BINS * CHANNELS + 1) * CLASSES
    count = sum(p.numel() for p in small_model.parameters())
    assert count == encoder + 4 * mamba + 2 * norm + last_norm + classifier


def test_multiply_adds_of_a_small_ascmamba(small_model):
    weights = MELS * (1 + 9 * CHANNELS + 9 * 2 * CHANNELS) + BINS * 3 * CHANNELS
    encoder = FRAMES * CHANNELS * weights
    norm = 2 * CONTEXT * CHANNELS
    paths = scans = 0
    for sequences, length in ((BINS, FRAMES), (FRAMES, BINS)):
        computed_steps = length + TAPS - 1  # the last ones are dropped
        scans += 2 * 4 * sequences * length * INNER * STATES
        paths += 2 * sequences * length * mamba_products()
        paths += 2 * sequences * computed_steps * INNER * TAPS
    classifier = 2 * BINS * CHANNELS * CLASSES
    features = torch.randn(1, FRAMES, MELS)
    total, scan = multiply_adds(small_model, features)
    assert scan == scans
    assert total == encoder + 2 * norm + paths + scans + classifier


def test_multiply_adds_of_a_convolution():
    conv = nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(1, 0))
    counts = multiply_adds(conv, torch.randn(2, 3, 7, 8))
    assert counts == (2 * 7 * 4 * 5 * 3 * 3 * 2, 0)


def test_scan_counts_once_on_every_device():
    mamba = Mamba(CHANNELS, d_state=STATES)
    x = torch.randn(2, FRAMES, CHANNELS)
    total, scan = multiply_adds(mamba, x)
    assert scan == 4 * 2 * FRAMES * INNER * STATES
    conv = 2 * (FRAMES + TAPS - 1) * INNER * TAPS
    assert total == scan + conv + 2 * FRAMES * mamba_products()
    assert (total, scan) == multiply_adds(mamba.to("meta"), x.to("meta"))


@pytest.mark.parametrize("gradients", [True, False])
def test_attention_counts(gradients):
    width, inner = 8, 12
    layer = nn.TransformerEncoderLayer(width, 2, inner, batch_first=True)
    with torch.set_grad_enabled(gradients):
        total, _ = multiply_adds(layer.eval(), torch.randn(1, FRAMES, width))
    projections = 4 * width**2 + 2 * width * inner
    attention = 2 * FRAMES * width
    assert total == FRAMES * (projections + attention)
