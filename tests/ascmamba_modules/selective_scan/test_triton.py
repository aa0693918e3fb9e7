"""Convolution and Mamba block in Triton, and all its kernels compiled."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from ascmamba_modules.mamba import Mamba
from ascmamba_modules.selective_scan import mamba_inner
from ascmamba_modules.selective_scan.triton import (
    check as triton_check,
    engine as triton_engine,
)
from ascmamba_modules.selective_scan.triton.mamba import mamba_inner_triton

installed = importlib.util.find_spec("triton") is not None
DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(
            not installed or not triton_engine.interpreting(),
            reason="triton is not installed, or its kernels run on the GPU",
        ),
        id="interpreted",
    ),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                not torch.cuda.is_available(), reason="no CUDA GPU is visible"
            ),
        ],
    ),
]


def convolution_in_float64(x, weight, bias, mask, reverse_mask):
    """By F.conv1d, direction by direction."""
    x, weight = x.double(), weight.double()
    bias = [None] * len(x) if bias is None else bias.double()
    mask = torch.ones(x.shape[1:3]) if mask is None else mask
    outputs = []
    for k in range(len(x)):
        flip = (1,) if reverse_mask >> k & 1 else ()
        x_k = (x[k] * mask.unsqueeze(-1)).flip(flip).transpose(1, 2)
        x_k = F.pad(x_k, (weight.shape[-1] - 1, 0))
        kernel = weight[k].unsqueeze(1)
        y = F.conv1d(x_k, kernel, bias[k], groups=len(kernel))
        y = F.silu(y).transpose(1, 2).flip(flip)
        outputs.append(y * mask.unsqueeze(-1))
    return torch.stack(outputs)


@pytest.mark.parametrize(
    "sizes, width, case",
    [
        ((1, 2, 9, 5), 4, {}),
        ((1, 2, 9, 5), 4, {"reverse_mask": 1}),
        ((2, 2, 10, 33), 4, {"reverse_mask": 0b10, "programs": 3}),
        ((2, 1, 3, 4), 5, {"reverse_mask": 0b01, "masked": True}),
        ((1, 3, 10, 4), 1, {"masked": True}),
        ((1, 1, 1, 1), 2, {"bias": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_convolution_equals_that_of_pytorch(
    device, dtype, sizes, width, case, monkeypatch
):
    triton_engine.kernels()
    from ascmamba_modules.selective_scan.triton import (
        convolution as triton_convolution,
    )

    if "programs" in case:  # several tiles each
        monkeypatch.setattr(
            triton_convolution, "_MAX_PROGRAMS", case["programs"]
        )
    directions, batch, length, channels = sizes
    reverse_mask = case.get("reverse_mask", 0)
    # Halves of one tensor, directions next to each other.
    xz = torch.randn(batch, length, directions, 2 * channels).to(dtype)
    x = xz.permute(2, 0, 1, 3)[..., :channels]
    weight = torch.randn(directions, channels, width)
    bias = torch.randn(directions, channels) if case.get("bias", True) else None
    mask = None
    if case.get("masked"):
        mask = (torch.rand(batch, length) > 0.3).to(dtype)
    grad_y = torch.randn(sizes).to(dtype)

    inputs = [v for v in (x, weight, bias) if v is not None]
    inputs = [v.requires_grad_() for v in inputs]
    expected = convolution_in_float64(x, weight, bias, mask, reverse_mask)
    expected_gradients = torch.autograd.grad(expected, inputs, grad_y.double())

    with torch.no_grad():
        x, weight, bias, mask, grad_y = (
            v if v is None else v.to(device)
            for v in (x, weight, bias, mask, grad_y)
        )
        y = triton_convolution.convolution_forward(
            x, weight, bias, mask, reverse_mask
        )
        grad_x = torch.full_like(x, torch.nan)
        gradients = triton_convolution.convolution_backward(
            x, weight, bias, mask, reverse_mask, grad_y, grad_x
        )
    assert y.dtype == grad_x.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    gradients = [v for v in (grad_x, *gradients) if v is not None]
    for actual, x in zip(
        [y, *gradients], [expected, *expected_gradients], strict=True
    ):
        torch.testing.assert_close(
            actual.double().cpu(), x.double(), rtol=tolerance, atol=tolerance
        )


def weights_of(blocks):
    """Arguments of mamba_inner_triton, from some Mamba modules."""
    return [torch.stack(w) for w in zip(*(b.inner_weights() for b in blocks))]


def blocks_with_gradients(blocks, x, mask, inner, flags):
    """Outputs of the blocks, and the gradients of x and all parameters."""
    y = [
        block.out_proj(y)
        for block, y in zip(blocks, inner(blocks, x, mask, flags))
    ]
    y = torch.stack(y).float()
    parameters = [p for block in blocks for p in block.parameters()]
    factors = torch.arange(y.numel(), device=y.device).view(y.shape).sin()
    gradients = torch.autograd.grad((y * factors).sum(), [x, *parameters])
    return [y, *gradients]


def inner_in_triton(blocks, x, mask, flags):
    xz = torch.stack([block.in_proj(x) for block in blocks], dim=2)
    reverse_mask = sum(flag << k for k, flag in enumerate(flags))
    y = mamba_inner_triton(xz, *weights_of(blocks), mask, reverse_mask)
    assert y.dtype == xz.dtype
    return y.unbind(2)


def inner_in_pytorch(blocks, x, mask, flags):
    return [
        block_inner(block, x, mask, flag) for block, flag in zip(blocks, flags)
    ]


def block_inner(block, x, mask, flag):
    weights = block.inner_weights()
    return mamba_inner(block.in_proj(x), *weights, mask, flag, "torch")


@pytest.mark.parametrize(
    "flags, masked",
    [
        pytest.param((False,), True, id="one, masked"),
        pytest.param((True,), True, id="reverse, masked"),
        pytest.param((False, True), True, id="pair, masked"),
        pytest.param((False, True), False, id="pair"),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_block_equals_the_module_in_pytorch(
    device, masked, flags, randomise, monkeypatch
):
    monkeypatch.setattr(triton_engine, "CHUNK", 4)
    blocks = [
        randomise(Mamba(6, d_state=3, dt_rank=2, engine="torch")).to(device)
        for _ in flags
    ]
    x = torch.randn(2, 6, 6, device=device, requires_grad=True)
    mask = None
    if masked:
        mask = torch.ones(2, 6, dtype=torch.bool, device=device)
        mask[0, 5:] = mask[1, :2] = False
    actual, expected = (
        blocks_with_gradients(blocks, x, mask, inner, flags)
        for inner in (inner_in_triton, inner_in_pytorch)
    )
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_block_under_autocast(device, dtype, randomise):
    flags = (False, True)
    blocks = [
        randomise(Mamba(6, d_state=3, engine="torch")).to(device) for _ in flags
    ]
    x = torch.randn(1, 5, 6, device=device, requires_grad=True)
    expected = blocks_with_gradients(blocks, x, None, inner_in_pytorch, flags)
    with torch.autocast(device, dtype):
        actual = blocks_with_gradients(blocks, x, None, inner_in_triton, flags)
    for one, other in zip(actual, expected):
        assert one.dtype == torch.float32
        torch.testing.assert_close(
            one, other, rtol=0.05, atol=0.05 * max(1, other.abs().max().item())
        )


@pytest.mark.parametrize("device", DEVICES)
def test_block_refuses_what_it_cannot_take(device):
    weights = weights_of([Mamba(4).to(device)])
    xz = torch.rand(2, 5, 1, 16, device=device)
    with pytest.raises(ValueError, match="float64.*engine='torch'"):
        mamba_inner_triton(xz.double(), *weights)
    with pytest.raises(ValueError, match="batch and length"):
        mamba_inner_triton(xz[:, :0], *weights)


@pytest.fixture
def interpreted_check(monkeypatch):
    """The check of the GPU's kernels, on the interpreter and small."""
    if not installed or not triton_engine.interpreting():
        pytest.skip("triton is not installed, or its kernels run on the GPU")
    check = triton_check.largest_error
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton_engine, "CHUNK", 4)
    monkeypatch.setattr(
        triton_check, "largest_error", lambda _: check("cpu", 3, 2, 5)
    )
    return triton_check.unavailable_reason.__wrapped__


def test_kernels_are_trusted_if_they_give_what_pytorch_gives(
    interpreted_check,
):
    assert interpreted_check() is None


def test_kernels_are_trusted_whatever_the_caller_has_set(interpreted_check):
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert interpreted_check() is None
    finally:
        torch.set_default_dtype(dtype)


@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_kernels_with_wrong_gradients_are_not_trusted(
    wrong, interpreted_check, monkeypatch
):
    backward = triton_engine.scan_backward

    def spoilt(*args, **options):
        gradients, projections = backward(*args, **options)
        return {**gradients, "A": gradients["A"] * wrong}, projections

    monkeypatch.setattr(triton_engine, "scan_backward", spoilt)
    reason = interpreted_check()
    assert "other results" in reason and "engine='torch'" in reason


def test_kernels_that_do_not_run_are_not_trusted(
    interpreted_check, monkeypatch
):
    def fail(*args, **options):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(triton_engine, "scan_forward", fail)
    assert "no C compiler" in interpreted_check()
