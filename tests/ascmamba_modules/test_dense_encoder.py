"""The dense encoder: patches, dilations, norms, and blindness to padding."""

import gc

import pytest
import torch
import torch.nn.functional as F
from model_checks import check_gradients
from process_threads import has_gloo_threads
from torch import nn

from ascmamba_modules.dense_encoder import (
    BatchNorm,
    ConvNormAct,
    DenseBlock,
    DenseEncoder,
    Projection,
)

EVERY_FRAME = {"patch": (1, 1), "stride": (1, 1), "norm": "instance"}


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("bands", [3, 31, 64])
@pytest.mark.parametrize("frames", [1, 2, 37])
@pytest.mark.parametrize("stride", [(1, 1), (3, 2)])
def test_frequency_is_halved_beside_the_stride(
    in_channels, frames, bands, stride
):
    encoder = DenseEncoder(in_channels, 5, 3, patch=(4, 2), stride=stride)
    x = encoder(torch.randn(2, in_channels, frames, bands))
    bins = -(-bands // (2 * stride[1]))
    assert x.shape == (2, 5, -(-frames // stride[0]), bins)
    assert encoder.n_bins(bands) == bins


@pytest.mark.parametrize("patch, stride", [((4, 2), (4, 2)), ((7, 4), (3, 2))])
def test_patches_are_centred_on_the_steps_of_the_stride(patch, stride):
    project = Projection(1, 1, patch, stride, norm="batch").eval()
    torch.nn.init.ones_(project.conv.weight)
    x = torch.rand(1, 1, 11, 9)
    y, _ = project(x)
    eps = project.norm.eps
    for i, j in [(0, 0), (1, 2), (y.shape[2] - 1, y.shape[3] - 1)]:
        first = [n * s - (p - s) // 2 for n, p, s in zip((i, j), patch, stride)]
        rows, columns = (slice(max(0, n), n + p) for n, p in zip(first, patch))
        expected = x[0, 0, rows, columns].sum() / (1 + eps) ** 0.5
        torch.testing.assert_close(y[0, 0, i, j], expected)


@pytest.mark.parametrize("stride", [(5, 2), (0, 1)])
def test_stride_that_leaves_frames_out_is_refused(stride):
    with pytest.raises(ValueError, match="at least 1 and at most the patch"):
        DenseEncoder(patch=(4, 2), stride=stride)


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="batch or instance, got 'layer'"):
        DenseEncoder(channels=4, norm="layer")


@pytest.mark.parametrize("masked", [False, True])
def test_layer_is_convolution_instance_norm_and_prelu(masked, randomise):
    layer = randomise(ConvNormAct(3, 4, (3, 3), "instance", padding=(1, 1)))
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


@pytest.mark.parametrize("masked", [False, True])
def test_layer_is_convolution_batch_norm_and_prelu(masked, randomise):
    layer = randomise(ConvNormAct(3, 4, (3, 3), padding=(1, 1)))
    reference = nn.BatchNorm2d(4)
    reference.load_state_dict(layer.norm.state_dict(), strict=False)
    x = torch.randn(2, 3, 11, 7)
    mask = torch.ones(2, 1, 11, 1) if masked else None

    def expected():
        y = F.conv2d(x, layer.conv.weight, padding=1)
        return F.prelu(reference(y), layer.act.weight)

    for _ in range(3):
        torch.testing.assert_close(
            layer(x, mask), expected(), rtol=1e-4, atol=1e-5
        )
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(layer.norm, name), getattr(reference, name)
        )
    # After training the norm is part of the convolution.
    layer.eval(), reference.eval()
    torch.testing.assert_close(layer(x, mask), expected(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_batch_norm_counts_valid_frames_alone(garbage, randomise):
    padded, norm = randomise(BatchNorm(3)), BatchNorm(3)
    norm.load_state_dict(padded.state_dict())
    counts = [9, 4, 1]
    x = torch.randn(3, 3, 9, 5)
    mask = torch.zeros(3, 1, 9, 1)
    for row, count in enumerate(counts):
        mask[row, :, :count] = 1
        x[row, :, count:] = garbage
    # All valid frames in a row are one clip without padding.
    frames = [clip[:, :count] for clip, count in zip(x, counts)]
    expected = norm(torch.cat(frames, dim=1)[None])[0]
    y = padded(x, mask)
    got = [clip[:, :count] for clip, count in zip(y, counts)]
    torch.testing.assert_close(
        torch.cat(got, dim=1), expected, rtol=1e-4, atol=1e-5
    )
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(getattr(padded, name), buffer)


def _train_in_process(rank, address, x, mask, state, results):
    torch.distributed.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=2
    )
    norm = BatchNorm(3)
    norm.load_state_dict(state)
    x = x[rank].requires_grad_()
    y = norm(x, None if mask is None else mask[rank])
    (y.square() * y).sum().backward()
    gradient = norm.weight.grad
    torch.distributed.all_reduce(gradient)
    if rank == 0:
        torch.save((y, x.grad, gradient, norm.running_var), results)
    torch.distributed.barrier()
    del norm, x, y, gradient  # what is computed holds the group
    gc.collect()
    torch.distributed.destroy_process_group()
    assert not has_gloo_threads()


@pytest.mark.parametrize("masked", [False, True])
def test_two_processes_normalise_as_one(masked, randomise, tmp_path):
    norm = randomise(BatchNorm(3))
    state = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(2, 2, 3, 8, 5)  # (process, B, C, T, F)
    mask = None
    if masked:
        mask = torch.ones(2, 2, 1, 8, 1)
        mask[0, 1, :, 3:] = 0
    address = f"file://{tmp_path}/rendezvous"
    torch.multiprocessing.spawn(
        _train_in_process,
        (address, x, mask, state, tmp_path / "results.pt"),
        nprocs=2,
    )
    whole = x.flatten(0, 1).requires_grad_()
    y = norm(whole, None if mask is None else mask.flatten(0, 1))
    (y.square() * y).sum().backward()
    expected = y[:2], whole.grad[:2], norm.weight.grad, norm.running_var
    for got, value in zip(torch.load(tmp_path / "results.pt"), expected):
        torch.testing.assert_close(got, value, rtol=1e-4, atol=1e-5)


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
    """A dense block after training: its norms do not see the clip."""
    return randomise(DenseBlock(2, depth=4)).eval()


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
    block = randomise(DenseBlock(2, depth=4, norm="instance"))
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
@pytest.mark.parametrize(
    "options",
    [EVERY_FRAME, {}, {"patch": (7, 4), "stride": (3, 2)}],
    ids=["every frame", "defaults", "overlap"],
)
def test_padding_changes_no_clip_and_comes_out_as_zero(
    garbage, options, randomise
):
    encoder = randomise(DenseEncoder(2, channels=4, **options)).eval()
    stride = encoder.project.conv.stride[0]
    counts = [40, 23, 5, 2, 1]
    x = torch.randn(len(counts), 2, 40, 9)
    for clip, count in zip(x, counts):
        clip[:, count:] = garbage * torch.randn_like(clip[:, count:])
    y = encoder(x, torch.tensor(counts) / 40)
    for row, count in enumerate(counts):
        alone = encoder(x[row : row + 1, :, :count])
        steps = -(-count // stride)
        torch.testing.assert_close(
            y[row : row + 1, :, :steps], alone, rtol=1e-3, atol=1e-4
        )
        assert (y[row, :, steps:] == 0).all()


def test_every_parameter_gets_a_gradient():
    encoder = DenseEncoder(1, channels=4, depth=2)
    check_gradients(encoder, encoder(torch.randn(2, 1, 20, 8)))
