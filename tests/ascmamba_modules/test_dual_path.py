"""The dual-path block: which sequences it reads, padding, dropout."""

import pytest
import torch
from model_checks import check_gradients

from ascmamba_modules.dual_path import DualPathMambaBlock


@pytest.fixture
def block(randomise):
    return randomise(
        DualPathMambaBlock(5, context_size=3, d_state=4, dropout=0.5)
    ).eval()


@pytest.mark.parametrize("frames, bins", [(1, 1), (1, 7), (13, 1), (13, 7)])
def test_reads_each_bin_over_time_then_each_frame_over_frequency(
    frames, bins, block
):
    x, context = torch.randn(2, frames, bins, 5), torch.randn(2, 3)
    y = block(x, context)
    assert y.shape == x.shape
    for clip in range(2):
        c = context[clip : clip + 1]
        z = x[clip : clip + 1].clone()
        normed = block.time_norm(z, c)
        for index in range(bins):
            z[:, :, index] += block.time_mamba(normed[:, :, index])
        normed = block.frequency_norm(z, c)
        for index in range(frames):
            z[:, index] = z[:, index] + block.frequency_mamba(normed[:, index])
        torch.testing.assert_close(y[clip : clip + 1], z, rtol=1e-4, atol=1e-4)


def test_padding_changes_no_clip(block):
    counts = [17, 9, 2, 1]
    x, context = torch.randn(4, 17, 6, 5), torch.randn(4, 3)
    mask = torch.arange(17) < torch.tensor(counts).unsqueeze(1)
    y = block(x, context, mask)
    for row, count in enumerate(counts):
        alone = block(x[row : row + 1, :count], context[row : row + 1])
        torch.testing.assert_close(
            y[row : row + 1, :count], alone, rtol=1e-4, atol=1e-4
        )


def test_both_paths_are_residual(block):
    with torch.no_grad():
        for mamba in (block.time_mamba, block.frequency_mamba):
            mamba.forward_mamba.out_proj.weight.zero_()
            mamba.backward_mamba.out_proj.weight.zero_()
    x = torch.randn(2, 13, 7, 5)
    torch.testing.assert_close(block(x, torch.randn(2, 3)), x)


def test_one_direction(randomise):
    """What follows a frame does not change what is told of it."""
    block = randomise(
        DualPathMambaBlock(5, context_size=3, bidirectional=False)
    ).eval()
    x, context = torch.randn(2, 13, 7, 5), torch.randn(2, 3)
    torch.testing.assert_close(
        block(x, context)[:, :9], block(x[:, :9], context)
    )


def test_dropout_acts_in_training_alone(block):
    x, context = torch.randn(2, 13, 7, 5), torch.randn(2, 3)
    assert torch.equal(block(x, context), block(x, context))
    block.train()
    assert not torch.equal(block(x, context), block(x, context))


def test_every_parameter_gets_a_gradient(block):
    y = block(torch.randn(2, 13, 7, 5), torch.randn(2, 3))
    check_gradients(block, y)
