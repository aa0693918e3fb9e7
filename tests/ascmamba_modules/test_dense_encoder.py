"""The dense encoder: its dilations, its norm, and its blindness to padding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.dense_encoder import ConvNormAct, DenseBlock, DenseEncoder


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("bands", [3, 31, 64])
@pytest.mark.parametrize("frames", [1, 2, 37])
def test_frequency_is_halved_and_time_kept(in_channels, frames, bands):
    encoder = DenseEncoder(in_channels, channels=5, depth=3)
    x = encoder(torch.randn(2, in_channels, frames, bands))
    assert x.shape == (2, 5, frames, -(-bands // 2))


@pytest.mark.parametrize("masked", [False, True])
def test_layer_is_convolution_instance_norm_and_prelu(masked, randomise):
    layer = randomise(ConvNormAct(3, 4, (3, 3), padding=(1, 1)))
    x = torch.randn(2, 3, 11, 7)
    mask = torch.ones(2, 1, 11, 1) if masked else None
    expected = F.prelu(
        F.instance_norm(
            F.conv2d(x, layer.conv.weight, padding=1),
            weight=layer.norm.weight,
            bias=layer.norm.bias,
        ),
        layer.act.weight,
    )
    torch.testing.assert_close(layer(x, mask), expected, rtol=1e-4, atol=1e-5)


def reach(module, channels, frames=61, bands=11):
    """Offsets in time and frequency from which one output value is made."""
    x = torch.randn(1, channels, frames, bands, requires_grad=True)
    middle = frames // 2, bands // 2
    y = module(x)[0, :, middle[0], middle[1]]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    used = gradient[0].abs().sum(0) > 0  # (frames, bands)
    return [
        set((used.any(1 - axis).nonzero()[:, 0] - middle[axis]).tolist())
        for axis in (0, 1)
    ]


@pytest.fixture
def local_block(randomise):
    """A dense block without the norms, which see the whole clip."""
    block = randomise(DenseBlock(2, depth=4))
    for layer in block.layers:
        layer.norm = nn.Identity()
    return block


def test_dilation_along_time_doubles_with_each_layer(local_block):
    for layer, dilation in zip(local_block.layers, (1, 2, 4, 8), strict=True):
        channels = layer.conv.in_channels
        time, frequency = reach(lambda x: layer([x]), channels)
        assert time == {-dilation, 0, dilation}
        assert frequency == {-1, 0, 1}


def test_dense_block_sees_every_frame_within_its_reach(local_block):
    time, frequency = reach(local_block, channels=2)
    assert time == set(range(-15, 16))
    assert frequency == set(range(-4, 5))


def test_each_layer_sees_the_outputs_of_all_before_it(randomise):
    block = randomise(DenseBlock(2, depth=4))
    x = torch.randn(2, 2, 20, 8)
    seen = x
    for index, layer in enumerate(block.layers):
        y = F.conv2d(
            seen,
            layer.conv.weight,
            padding=(2**index, 1),
            dilation=(2**index, 1),
        )
        y = layer.act(layer.norm(y))
        seen = torch.cat([y, seen], dim=1)  # as in DenseNet
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_changes_no_clip_and_comes_out_as_zero(garbage, randomise):
    encoder = randomise(DenseEncoder(2, channels=4))
    counts = [40, 23, 5, 2, 1]
    x = torch.randn(len(counts), 2, 40, 9)
    for clip, count in zip(x, counts):
        clip[:, count:] = garbage * torch.randn_like(clip[:, count:])
    y = encoder(x, torch.tensor(counts) / 40)
    for row, count in enumerate(counts):
        alone = encoder(x[row : row + 1, :, :count])
        torch.testing.assert_close(
            y[row : row + 1, :, :count], alone, rtol=1e-3, atol=1e-4
        )
        assert (y[row, :, count:] == 0).all()


def test_every_parameter_gets_a_gradient():
    encoder = DenseEncoder(1, channels=4, depth=2)
    encoder(torch.randn(2, 1, 20, 8)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
