"""Estimates of benchmarks/memory.py against counts by hand and autograd's."""

import contextlib
import importlib
from pathlib import Path

import pytest
import torch

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.selective_scan.triton import engine as triton_engine
from ascmamba_modules.selective_scan.triton.mamba import mamba_inner_triton

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NARROW = {"channels": 4, "n_blocks": 1, "d_state": 2, "dropout": 0.0}


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("memory")


def test_trace_counts_what_is_alive(memory):
    given = torch.zeros(500)
    with memory.MemoryTrace() as trace:
        x = torch.zeros(250)  # 1,000 bytes
        x = x + 1  # both are alive until the sum is there
        assert (trace.live, trace.peak) == (1000, 2000)
        views = x[:10], x.view(5, 50), given[:10]
        x.add_(1)
        given.add_(1)
        assert (trace.live, trace.peak) == (1000, 2000)
        del x, views
        assert (trace.live, trace.peak) == (0, 2000)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["triton", "mamba_ssm", "torch"])
def test_shapes_alone_give_what_values_give(
    memory, monkeypatch, precision, engine
):
    if engine == "triton" and triton_engine.missing_reason():
        pytest.skip(triton_engine.missing_reason())
    estimate = memory.training_step_bytes(1, precision, engine, **NARROW)
    monkeypatch.setattr(memory, "FakeTensorMode", contextlib.nullcontext)
    traced = memory.training_step_bytes(1, precision, engine, **NARROW)
    assert traced == pytest.approx(estimate, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_is_what_autograd_saves(memory, precision):
    engine = memory.TORCH
    _, kept = memory.training_step_bytes(2, precision, engine, **NARROW)
    model = ASCMamba(**NARROW, engine="torch")
    given = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in given:
            saved[storage.data_ptr()] = storage
        return x

    features = torch.randn(2, 500, 64)
    given.add(features.untyped_storage().data_ptr())
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        memory.scan_by(engine),
        memory.as_on_a_gpu(precision),
    ):
        model(features).float().square().mean()
    total = sum(storage.nbytes() for storage in saved.values())
    assert kept == pytest.approx(total, rel=0.02)


def test_engine_triton_keeps_projections_and_every_32nd_state(memory):
    if triton_engine.missing_reason():
        pytest.skip(triton_engine.missing_reason())
    batch, length, pair, inner, rank, states = 3, 100, 2, 8, 2, 4
    weights = (
        torch.rand(pair, inner, 4),
        torch.rand(pair, inner),
        torch.rand(pair, rank + 2 * states, inner),
        torch.rand(pair, inner, rank),
        torch.rand(pair, inner),
        -torch.rand(pair, inner, states),
        torch.rand(pair, inner),
    )
    xz = torch.rand(batch, length, pair, 2 * inner, requires_grad=True)
    with memory.scan_by(memory.TRITON), memory.MemoryTrace() as trace:
        y = mamba_inner_triton(xz, *weights)
    positions = batch * pair * length
    kept = positions * (rank + 2 * states) + batch * pair * 3 * states * inner
    assert trace.live == 4 * (y.numel() + kept)


def test_mamba_ssm_keeps_what_it_reads_and_its_output(memory):
    batch, inner, length, states = 3, 8, 100, 4
    u, delta, z = torch.rand(3, batch, inner, length).unbind()
    B, C = torch.rand(2, batch, states, length).unbind()
    A, (D, bias) = torch.rand(inner, states), torch.rand(2, inner).unbind()
    u.requires_grad_()
    with memory.MemoryTrace() as trace:
        y = memory._scan(u, delta, A, B, C, D, z, bias)
    kept = u.numel() + batch * inner * 2 * states
    assert trace.live == 4 * (y.numel() + kept)


def test_memory_of_a_clip_does_not_depend_on_the_batch(memory):
    size = memory.per_clip("fp32", memory.KERNEL, **NARROW)
    peak, kept = memory.training_step_bytes(16, "fp32", memory.KERNEL, **NARROW)
    assert peak == pytest.approx(size["fixed"] + 16 * size["peak"], rel=0.01)
    assert kept == pytest.approx(16 * size["kept"], rel=0.01)


def test_largest_batch_is_what_fits(memory):
    size = {"peak": 100e6, "fixed": 2e9}
    # 9 / 10 of 24 GB - 1 GB, less 2 GB, in clips of 0.1 GB.
    assert memory.largest_batch(24e9, size) == 187
