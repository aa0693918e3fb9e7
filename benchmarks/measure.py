"""What the benchmarks share: machine line, timing, peak memory, tables."""

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch

BUSY_HINT = (
    "On a busy machine set OMP_NUM_THREADS=1: threads that wait for each other "
    "suffer most from other load."
)
_TURN = 0.2  # seconds
_GPU_WARM_UP = 3
_GPU_CACHE = 2**28  # bytes, more than any has
_GPU_FILLS = 16  # about 1 ms


def make_parser(description):
    """Makes a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, epilog=BUSY_HINT)
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="default: cpu"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of each (default: 3)"
    )
    return parser


def parse_arguments(parser, arguments=None):
    """Reads the options; ends with one line where there is no such device."""
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA GPU is visible to PyTorch: nothing to measure")
    return options


def machine(device="cpu"):
    """Describes the machine in one line: CPU model, cores, load before the
    benchmark (processes that want to run), threads and version of PyTorch, and
    the GPU if it is used."""
    parts = [
        _cpu_model(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"load {os.getloadavg()[0]:.1f}",
        f"{torch.get_num_threads()} threads",
        f"torch {torch.__version__}",
    ]
    if device == "cuda":
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def median_times(functions, rounds, device="cpu"):
    """Times functions in turn, so that other load hits all of them alike.

    Each function of the dictionary has ``rounds`` turns, after calls to warm
    up; in a turn it is called once, or as often as fits into _TURN seconds.  On
    "cpu" the clock is that of the host; on "cuda" that of the GPU, for
    functions that leave it work: it is kept busy until the work is queued, so
    that queueing does not count, and its cache is emptied.  Gives the median
    seconds of a call, by name.
    """
    for function in functions.values():
        for _ in range(_GPU_WARM_UP if device == "cuda" else 1):
            function()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            while time.perf_counter() - start < _TURN or not seconds[name]:
                seconds[name].append(_seconds(function, device))
    return {name: statistics.median(s) for name, s in seconds.items()}


def _seconds(function, device):
    if device != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    buffer = torch.empty(_GPU_CACHE, dtype=torch.uint8, device=device)
    for _ in range(_GPU_FILLS):
        buffer.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def peak_memory(prepare, *args, device="cpu"):
    """Measures the bytes that a call adds.

    ``prepare`` is a function of a module, called with ``args``.  What it
    returns is then called and measured; what it allocates itself does not
    count.  On a CPU it is the resident memory of a process of its own (Linux
    only, where ``ru_maxrss`` is in KiB), on a GPU what PyTorch allocates.
    """
    if device == "cuda":
        function = prepare(*args)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    # A spawned process starts with its parent's peak, which execve keeps; one
    # forked by a small server does not.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_added_memory, prepare, args).result()


def _added_memory(prepare, args):
    function = prepare(*args)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * 1024


def markdown_table(rows):
    """Formats rows, dicts with the same keys, as a table in Markdown, numbers
    to three digits.

    Example
    -------
    >>> print(markdown_table([{"name": "a", "ms": 1.2345}]))
    | name   |   ms |
    |:-------|-----:|
    | a      | 1.23 |
    """
    table = pd.DataFrame(rows)
    return table.to_markdown(index=False, floatfmt=".3g", intfmt=",")
