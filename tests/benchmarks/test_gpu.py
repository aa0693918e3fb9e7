"""benchmarks/gpu.py where there is no GPU: that it would run, and counts."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ascmamba_modules.selective_scan.triton import engine as triton_engine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    # Else the engine triton would run too, on the CPU, for hours.
    monkeypatch.setattr(triton_engine, "interpreting", lambda: False)
    return importlib.import_module("gpu")


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "--dry-run" in err and err.count("\n") == 1


def test_dry_run_prints_all_tables(gpu, capsys):
    assert gpu.main(["--dry-run", "--precision", "bf16"]) == 0
    out = capsys.readouterr().out
    for title in (
        "Selective scan",
        "Clips of 0.5 s",
        "Memory of a training step",
        "Hours of the paper's pipeline",
        "Losses",
        "Mean distance of the curves",
    ):
        assert title in out
    assert "nan" not in out


def test_bytes_that_a_scan_must_move(gpu):
    shape, states = (3, 8, 5), 16
    given = gpu.scan_inputs(shape, torch.bfloat16, "cpu")
    u, delta, A, B, C, D, z, bias = given
    gradients = [u, delta, z, B, C]
    read = sum(x.nbytes for x in gradients)
    assert A.shape == (8, states)
    assert all(x.stride(1) == 1 for x in gradients)  # channels last
    assert gpu.scan_bytes(shape, torch.bfloat16) == {
        "forward": read + u.nbytes,
        "backward": read + u.nbytes + read,
    }


@pytest.mark.parametrize("name", ["torch", "mamba-ssm, its own layout"])
def test_scans_take_the_same_inputs(gpu, monkeypatch, name):
    """mamba-ssm's function is one of ours, asked for by its own name."""
    stand_in = SimpleNamespace(selective_scan_fn=gpu.selective_scan)
    module = "mamba_ssm.ops.selective_scan_interface"
    monkeypatch.setitem(gpu.sys.modules, module, stand_in)
    inputs = gpu.scan_inputs((2, 4, 6), torch.float32, "cpu")
    expected = gpu.scan_passes("torch", inputs)["forward"]()
    passes = gpu.scan_passes(name, inputs)
    torch.testing.assert_close(passes["forward"](), expected)
    passes["backward"]()
    passes["backward"]()


def test_scan_that_does_not_fit_has_no_row(gpu, monkeypatch):
    ours = gpu.scan_passes

    def passes(name, inputs):
        if name == "cpu":
            raise torch.OutOfMemoryError
        return ours(name, inputs)

    monkeypatch.setattr(gpu, "engines", lambda device: ["cpu", "torch"])
    monkeypatch.setattr(gpu, "scan_passes", passes)
    rates = {"bytes": 1e9, "exponentials": 1e9}
    table = gpu.scan_rows((2, 4, 6), "fp32", 1, "cpu", rates)
    assert [(row["pass"], row["scan"]) for row in table] == [
        ("forward", "torch"),
        ("backward", "torch"),
    ]
    assert all(row["of bandwidth"].endswith("%") for row in table)


def test_step_that_does_not_fit_has_an_empty_row(gpu, monkeypatch):
    def full():
        raise torch.OutOfMemoryError

    passes = {"training step": full, "inference": lambda: None}
    monkeypatch.setattr(gpu, "step_passes", lambda *_: passes)
    monkeypatch.setattr(gpu, "engines", lambda device: ["torch"])
    options = gpu.tiny_options(SimpleNamespace(precision=["fp32"]))
    train, infer = gpu.model_rows("ASCMamba", "fp32", 1, "cpu", options)
    assert train["clips a second"] == train["peak GB"] == "-"
    assert infer["clips a second"] > 0


def speeds(batch, train, infer):
    return [
        {
            "model": model,
            "precision": "bf16",
            "batch": batch,
            "pass": name,
            "clips a second": speed,
            "peak GB": 1.0 * batch,
            "scan": scan,
        }
        for model in ("ASCMamba", "SE-Trans")
        for name, speed in (("training step", train), ("inference", infer))
        for scan in ("torch", "mamba_ssm")
    ]


def test_hours_of_the_pipeline(gpu):
    table = speeds(4, 100.0, 400.0) + speeds(64, "-", 900.0)
    (row,) = gpu.pipeline_rows(table)
    assert row["pre-training"] == pytest.approx(50 * 59310 / 100 / 3600)
    assert row["labelling"] == pytest.approx(2 * 6960 / 400 / 3600)
    again = 50 * ((1392 + 6960) / 100 + 348 / 400)
    assert row["fine-tuning again"] == pytest.approx(again / 3600)
    stages = {"batch", "precision", "all"}
    assert row["all"] == pytest.approx(
        sum(hours for name, hours in row.items() if name not in stages)
    )


def test_measured_memory_beside_the_estimate(gpu, monkeypatch):
    card = SimpleNamespace(total_memory=24e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    table = speeds(4, 100.0, 400.0) + speeds(8, 100.0, 400.0)
    narrow = {"channels": 4, "n_blocks": 1}
    for row in gpu.memory_rows(table, narrow):
        assert row["measured MB a clip"] == pytest.approx(1000)
        assert row["largest batch here"] == 20  # 9 / 10 of 23 GB
        assert 10 < row["estimated MB a clip"] < 100


def test_rate_of_exponentials(gpu, monkeypatch):
    card = SimpleNamespace(multi_processor_count=132, clock_rate=1_980_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert gpu.exponential_rate("cuda") == pytest.approx(16 * 132 * 1.98e9)
    assert gpu.exponential_rate("cpu") is None


def test_gpu_clock(gpu, monkeypatch):
    """Events around the call alone, read once it is over."""
    common = importlib.import_module("common")
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
    seconds = common.median_times({"": lambda: order.append("call")}, 1, "cuda")
    assert seconds[""] == 0.002
    warm_up = order.index("record")
    assert order[:warm_up] == ["call"] * warm_up and warm_up > 0
    assert order[warm_up : warm_up + 4] == ["record", "call", "record", "wait"]
