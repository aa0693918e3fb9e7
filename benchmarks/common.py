"""What the benchmarks share: machine line, timing, peak memory, tables."""

import multiprocessing
import os
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

BUSY_HINT = (
    "On a busy machine set OMP_NUM_THREADS=1: threads that wait for each other "
    "suffer most from other load."
)

# Shapes of a selective scan (sequences, channels, steps); the first two are
# what one batch of four clips is to the time path and to the frequency path of
# ASCMamba.
SHAPES = {
    "time": (128, 128, 500),
    "frequency": (2000, 128, 32),
    "long": (1, 128, 8000),
    "small": (4, 32, 200),
    "reference": (8, 128, 500),
}
STATES = 16

_TURN = 0.2
_GPU_WARM_UP = 3
_GPU_CACHE = 2**28  # bytes, more than any has
_GPU_FILLS = 16  # about 1 ms


def machine():
    """Describes the machine in one line.

    Returns
    -------
    str
        CPU model, cores, load before the benchmark (processes that want to
        run), threads and version of PyTorch, GPU if any.
    """
    parts = [
        _cpu_model(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"load {os.getloadavg()[0]:.1f}",
        f"{torch.get_num_threads()} threads",
        f"torch {torch.__version__}",
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def median_times(functions, rounds, device="cpu"):
    """Times functions in turn, so that other load hits all of them alike.

    Arguments
    ---------
    functions : dict
        Functions without arguments, by name.
    rounds : int
        Each function has this many turns, after calls to warm up.  In a turn
        it is called once, or as often as fits into _TURN seconds.
    device : str
        "cpu" is the clock of the host; "cuda" that of the GPU, for functions
        that leave it work: it is kept busy until the work is queued, so that
        queueing does not count, and its cache is emptied.

    Returns
    -------
    dict
        Median seconds of a call, by name.
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


def peak_memory(prepare, *args):
    """Measures the resident memory that a call adds, in a process of its own.

    Linux only, where ``ru_maxrss`` is in KiB.

    Arguments
    ---------
    prepare : function
        Function of a module, called with ``args`` in the new process.  What
        it returns is then called and measured; what it allocates itself does
        not count.
    *args
        Arguments of ``prepare``.

    Returns
    -------
    int
        Bytes.
    """
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


def peak_gpu_memory(function):
    """Measures the GPU memory that PyTorch allocates during a call.

    Arguments
    ---------
    function : function
        Function without arguments.

    Returns
    -------
    int
        Bytes.
    """
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def markdown_table(rows):
    """Formats a table; numbers are rounded and stand on the right.

    Arguments
    ---------
    rows : list
        One dict a row, all with the same keys, which head the columns.

    Returns
    -------
    str
        The table in Markdown.

    Example
    -------
    >>> print(markdown_table([{"name": "a", "ms": 1.2345}]))
    | name |   ms |
    |:-----|-----:|
    | a    | 1.23 |
    """
    heads = list(rows[0])
    cells = [[_format(row[head]) for head in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells)]
    left = [isinstance(rows[0][head], str) for head in heads]

    def line(texts):
        padded = (
            text.ljust(width) if is_left else text.rjust(width)
            for text, width, is_left in zip(texts, widths, left)
        )
        return f"| {' | '.join(padded)} |"

    rules = (
        f":{'-' * (width + 1)}" if is_left else f"{'-' * (width + 1)}:"
        for width, is_left in zip(widths, left)
    )
    return "\n".join([line(heads), f"|{'|'.join(rules)}|", *map(line, cells)])


def _format(value):
    if isinstance(value, str):
        return value
    if value != value:  # NaN: not measured
        return "-"
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")
