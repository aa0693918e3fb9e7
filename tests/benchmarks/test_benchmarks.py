"""The benchmarks run, and print what they say."""

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a script of the benchmarks, quick to run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    measure = importlib.import_module("measure")
    monkeypatch.setattr(measure, "_TURN", 0.0)
    # On a CPU it starts a process for each row.
    monkeypatch.setattr(measure, "peak_memory", lambda *_, **__: 1e6)
    return importlib.import_module


def test_scan(load, capsys):
    load("selective_scan").main(["--shapes", "small", "--rounds", "1"])
    out = capsys.readouterr().out
    assert "| mambapy |" in out.replace("  ", "") and "float64 loop" in out


def test_model(load, capsys):
    arguments = ["--models", "SETrans", "--rounds", "1", "--precision", "bf16"]
    load("model").main(arguments)
    out = capsys.readouterr().out
    assert "| SETrans" in out and "training step, GB" in out


def test_sizes(load):
    model = load("model")
    rows = model.size_rows()
    assert [row["model"] for row in rows] == list(model.COUNTED)
    scans = [row["scan_multiply_adds"] for row in rows]
    # 4 x blocks x (paths x directions) x (patches x bins) x channels x states
    assert scans == [
        4 * 4 * 4 * 63 * 8 * 128 * 16,
        4 * 1 * 4 * 63 * 8 * 32 * 8,
        0,
    ]
    assert all(row["multiply_adds"] > row["scan_multiply_adds"] for row in rows)


@pytest.mark.parametrize("script", ["gpu", "model", "selective_scan"])
def test_without_a_gpu_they_say_so(load, monkeypatch, capsys, script):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        load(script).main(["--device", "cuda"])
    assert stop.value.code == 2
    assert "no CUDA GPU is visible" in capsys.readouterr().err


def test_gpu_clock(load, monkeypatch):
    """Events around the call alone, read once it is over."""
    measure = load("measure")
    order = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            order.append("record")

        def synchronize(self):
            order.append("wait")

        def elapsed_time(self, end):
            return 2.0  # ms

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: empty(1))
    call = {"": lambda: order.append("call")}
    seconds = measure.median_times(call, 1, "cuda")
    assert seconds[""] == 0.002
    warm_up = order.index("record")
    assert order[:warm_up] == ["call"] * warm_up and warm_up > 0
    assert order[warm_up : warm_up + 4] == ["record", "call", "record", "wait"]
