"""Estimates of benchmarks/memory.py against counts by hand and autograd's."""

import contextlib
import importlib
from pathlib import Path

import pytest
import torch

from ascmamba_modules.ascmamba import ASCMamba

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
@pytest.mark.parametrize("scan", ["a kernel", "engine `torch`"])
def test_shapes_alone_give_what_values_give(
    memory, monkeypatch, precision, scan
):
    estimate = memory.training_step_bytes(1, precision, scan, **NARROW)
    monkeypatch.setattr(memory, "FakeTensorMode", contextlib.nullcontext)
    traced = memory.training_step_bytes(1, precision, scan, **NARROW)
    assert traced == pytest.approx(estimate, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_is_what_autograd_saves(memory, precision):
    scan = memory.TORCH
    _, kept = memory.training_step_bytes(2, precision, scan, **NARROW)
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
        memory.as_on_a_gpu(scan, precision),
    ):
        model(features).float().square().mean()
    total = sum(storage.nbytes() for storage in saved.values())
    assert kept == pytest.approx(total, rel=0.02)


def test_memory_of_a_clip_does_not_depend_on_the_batch(memory):
    size = memory.per_clip("fp32", memory.KERNEL, **NARROW)
    peak, kept = memory.training_step_bytes(16, "fp32", memory.KERNEL, **NARROW)
    assert peak == pytest.approx(size["fixed"] + 16 * size["peak"], rel=0.01)
    assert kept == pytest.approx(16 * size["kept"], rel=0.01)


def test_largest_batch_is_what_fits(memory):
    size = {"peak": 100e6, "fixed": 2e9}
    # 9 / 10 of 24 GB - 1 GB, less 2 GB, in clips of 0.1 GB.
    assert memory.largest_batch(24e9, size) == 187
