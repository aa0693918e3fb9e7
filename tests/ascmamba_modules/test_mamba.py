"""Mamba is mamba-ssm's Mamba, causal, and blind to padding."""

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ascmamba_modules import mamba as mamba_module
from ascmamba_modules.mamba import BidirectionalMamba, Mamba
from ascmamba_modules.selective_scan import choose_engine

OPTIONS = [
    {},
    {"d_state": 5},
    {"d_conv": 2},
    {"expand": 3},
    {"bias": True},
    {"conv_bias": False},
    {"dt_rank": 3, "d_state": 1, "d_conv": 3, "expand": 1, "bias": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("d_model", [7, 20])
def test_parameters_are_those_of_mamba_ssm(
    d_model, options, mamba_ssm_reference
):
    ours = Mamba(d_model, **options).state_dict()
    theirs = mamba_ssm_reference.Mamba(d_model, **options).state_dict()
    assert {name: x.shape for name, x in ours.items()} == {
        name: x.shape for name, x in theirs.items()
    }
    for name in ("A_log", "D"):  # these start without chance
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("to_ours", [True, False], ids=["to ours", "from ours"])
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_moved_weights_give_the_results_of_mamba_ssm(
    engine, to_ours, options, mamba_ssm_reference, randomise
):
    ours = randomise(Mamba(12, engine=engine, **options))
    theirs = randomise(mamba_ssm_reference.Mamba(12, **options))
    if to_ours:
        ours.load_state_dict(theirs.state_dict())
    else:
        theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 23, 12, requires_grad=True)
    weight = torch.randn(2, 23, 12)
    results = []
    for mamba in (ours, theirs):
        y = mamba(x)
        parameters = dict(mamba.named_parameters())
        gradients = torch.autograd.grad(
            (y * weight).sum(), [x, *parameters.values()]
        )
        results.append({"y": y, **dict(zip(["x", *parameters], gradients))})
    assert results[0].keys() == results[1].keys()
    for name in results[0]:
        torch.testing.assert_close(
            results[0][name],
            results[1][name],
            rtol=1e-4,
            atol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("dt_min, dt_max", [(0.001, 0.1), (0.02, 0.03)])
def test_step_sizes_start_log_uniform_in_their_range(dt_min, dt_max):
    bias = Mamba(500, dt_min=dt_min, dt_max=dt_max).dt_proj.bias.detach()
    steps = torch.log1p(torch.exp(bias.double()))
    assert steps.min() >= dt_min * (1 - 1e-3)
    assert steps.max() <= dt_max * (1 + 1e-3)
    # Uniform in the logarithm: its quartiles, within 4 standard errors.
    quarter, half, three_quarters = (
        (steps.log() - math.log(dt_min)) / math.log(dt_max / dt_min)
    ).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.double))
    assert quarter.item() == pytest.approx(0.25, abs=0.06)
    assert half.item() == pytest.approx(0.5, abs=0.07)
    assert three_quarters.item() == pytest.approx(0.75, abs=0.06)


def test_output_depends_on_the_past_alone(randomise):
    mamba = randomise(Mamba(6))
    x = torch.randn(1, 12, 6, requires_grad=True)
    for step in (0, 5, 11):
        (gradient,) = torch.autograd.grad(mamba(x)[0, step].sum(), x)
        reaches = gradient[0].abs().sum(-1) > 0
        assert reaches[: step + 1].all() and not reaches[step + 1 :].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("kind", [Mamba, BidirectionalMamba])
def test_padding_before_and_after_changes_nothing(
    kind, engine, dtype, randomise
):
    mamba = randomise(kind(6, bias=True, engine=engine))
    spans = [(0, 20), (0, 7), (13, 20), (4, 15), (9, 10), (0, 1), (19, 20)]
    x = 10 * torch.randn(len(spans), 20, 6)  # padding holds garbage
    mask = torch.zeros(len(spans), 20, dtype=dtype)
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = 1
    y = mamba(x, mask)
    for row, (start, end) in enumerate(spans):
        alone = mamba(x[row : row + 1, start:end])
        torch.testing.assert_close(
            y[row : row + 1, start:end], alone, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("d_conv", [2, 4])
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_reverse_reads_from_the_last_step_to_the_first(
    engine, d_conv, randomise
):
    mamba = randomise(Mamba(6, d_conv=d_conv, engine=engine))
    x = torch.randn(2, 75, 6)
    mask = torch.arange(75) < torch.tensor([[75], [40]])
    flipped = torch.stack(x.unbind(1)[::-1], 1)
    flipped_mask = torch.stack(mask.unbind(1)[::-1], 1)
    expected = mamba(flipped, flipped_mask)
    expected = torch.stack(expected.unbind(1)[::-1], 1)
    torch.testing.assert_close(
        mamba(x, mask, reverse=True)[mask], expected[mask]
    )


def test_engines_give_the_same_gradients_of_padded_sequences(randomise):
    mamba = randomise(BidirectionalMamba(20, d_state=5))
    x = torch.randn(3, 75, 20, requires_grad=True)
    mask = torch.arange(75) < torch.tensor([[75], [40], [1]])
    weight = torch.randn(3, 75, 20) * mask.unsqueeze(-1)
    results = []
    for engine in ("auto", "torch"):
        mamba.forward_mamba.engine = mamba.backward_mamba.engine = engine
        y = (mamba(x, mask) * weight).sum()
        results.append(torch.autograd.grad(y, [x, *mamba.parameters()]))
    for actual, expected in zip(*results):
        torch.testing.assert_close(
            actual,
            expected,
            rtol=1e-4,
            atol=1e-6 * expected.abs().max().item(),
        )


def test_bidirectional_sees_past_and_future(randomise):
    mamba = randomise(BidirectionalMamba(6))
    x = torch.randn(1, 12, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(mamba(x)[0, 5].sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()


def test_bidirectional_passes_its_options_to_both_blocks():
    mamba = BidirectionalMamba(6, d_state=4, d_conv=3, expand=1)
    for block in (mamba.forward_mamba, mamba.backward_mamba):
        assert block.A_log.shape == (6, 4)
        assert block.conv1d.weight.shape == (6, 1, 3)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("kind", [Mamba, BidirectionalMamba])
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_stays_close_to_full_precision(kind, engine, autocast):
    mamba = kind(16, engine=engine)
    x = torch.randn(2, 50, 16)
    expected = mamba(x)
    if not autocast:
        mamba, x = mamba.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = mamba(x)
    assert y.dtype == torch.bfloat16
    error = (y.float() - expected).norm() / expected.norm()
    assert error < 0.03
    y.float().sum().backward()
    for parameter in mamba.parameters():
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant, engine):
    mamba = BidirectionalMamba(6, engine=engine)
    x = torch.randn(2, 9, 6, requires_grad=True)
    inputs = [x, *mamba.parameters()]
    mamba(x).square().sum().backward()
    expected = [tensor.grad.clone() for tensor in inputs]
    for tensor in inputs:
        tensor.grad = None
    y = checkpoint(mamba, x, use_reentrant=use_reentrant)
    y.square().sum().backward()
    for tensor, gradient in zip(inputs, expected):
        torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_second_derivatives_are_refused(engine):
    mamba = Mamba(6, engine=engine)
    x = torch.randn(2, 9, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(mamba(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("shape", [(2, 0, 6), (0, 5, 6), (5, 6)])
def test_wrong_shapes_are_refused(shape, engine):
    with pytest.raises(ValueError, match="batch, length, d_model"):
        Mamba(6, engine=engine)(torch.randn(shape))


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_mask_broadcasts_or_is_refused(engine):
    mamba = Mamba(6, engine=engine)
    x = torch.randn(3, 8, 6)
    mask = torch.arange(8) < 5
    torch.testing.assert_close(
        mamba(x, mask[None]), mamba(x, mask.expand(3, 8))
    )
    for shape in ((3, 7), (2, 8), (3, 9)):
        with pytest.raises(RuntimeError, match="size"):
            mamba(x, torch.ones(shape))


def test_engine_reaches_the_scan():
    with pytest.raises(ValueError, match="abacus"):
        Mamba(6, engine="abacus")


def block_engine(block):
    first = getattr(block, "forward_mamba", block)
    return choose_engine(first.engine, first.A_log, first.A_log)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", [Mamba, BidirectionalMamba])
def test_blocks_of_sequences_give_what_all_give(
    kind, rows, randomise, monkeypatch
):
    block = randomise(kind(6))
    if block_engine(block) != "cpu":
        pytest.skip("the kernels are not compiled: no blocks are made")
    x = torch.randn(8, 8, 6)
    mask = torch.arange(8) < torch.arange(1, 9).unsqueeze(1)
    seen = []
    first = getattr(block, "forward_mamba", block)
    first.in_proj.register_forward_hook(
        lambda module, inputs, outputs: seen.append(len(outputs))
    )
    for masks in (None, mask, mask[:1]):
        with torch.no_grad():
            expected = block(x, masks)
            with monkeypatch.context() as patch:
                in_proj_bytes = 2 * 12 * 8 * 4  # of one sequence
                patch.setattr(
                    mamba_module, "_BLOCK_BYTES", rows * in_proj_bytes
                )
                seen.clear()
                torch.testing.assert_close(block(x, masks), expected)
                assert seen == {1: 8 * [1], 3: [3, 3, 2]}[rows]


@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "conv_bias": False, "dt_rank": 2}], ids=str
)
@pytest.mark.parametrize("reverse", [None, False, True])
def test_triton_gives_what_torch_gives(reverse, options, randomise):
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = BidirectionalMamba if reverse is None else Mamba
    mamba = randomise(kind(4, d_state=3, d_conv=3, **options)).to(device)
    x = torch.randn(2, 7, 4, device=device, requires_grad=True)
    mask = torch.arange(7, device=device) < torch.tensor([[7], [4]]).to(device)
    weight = torch.randn(2, 7, 4, device=device) * mask.unsqueeze(-1)
    results = []
    for engine in ("triton", "torch"):
        for module in mamba.modules():
            module.engine = engine
        y = mamba(x, mask, *([] if reverse is None else [reverse]))
        parameters = dict(mamba.named_parameters())
        gradients = torch.autograd.grad(
            (y * weight).sum(), [x, *parameters.values()]
        )
        y = y * mask.unsqueeze(-1)
        results.append({"y": y, **dict(zip(["x", *parameters], gradients))})
    for name, expected in results[1].items():
        torch.testing.assert_close(
            results[0][name],
            expected,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_triton_runs_both_directions_in_one_launch(monkeypatch):
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mamba = BidirectionalMamba(4, d_state=2, engine="triton").to(device)
    launches = []
    run = mamba_module.mamba_inner_triton

    def count(xz, *others, **options):
        launches.append(xz.shape)
        return run(xz, *others, **options)

    monkeypatch.setattr(mamba_module, "mamba_inner_triton", count)
    mamba(torch.randn(1, 3, 4, device=device))
    assert launches == [(1, 3, 2, 16)]
