"""The time of exponentials alone, the least that a selective scan can take.

Two ways: ``torch.exp``, and the kernels' own function in a loop over numbers
that stay in the cache (``exponentials.c``, compiled for this machine), which
is the stricter.
"""

import ctypes
import functools
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ascmamba_modules.selective_scan.cpu import library as cpu_library

_TORCH_BLOCK = 2**16
_BLOCK = 2**10  # 4 KiB, of each thread
# By the numbers of cpu_library.INSTRUCTION_SETS.
_VECTOR_BYTES = (16, 32, 64)


def torch_exponentials(count):
    """Computes exponentials by ``torch.exp``.

    Arguments
    ---------
    count : int
        How many, rounded down to whole blocks.
    """
    block = torch.randn(_TORCH_BLOCK)
    result = torch.empty_like(block)
    for _ in range(count // _TORCH_BLOCK):
        torch.exp(block, out=result)


def kernel_exponentials(count):
    """Computes exponentials by the kernels' function, in PyTorch's number of
    threads.

    Arguments
    ---------
    count : int
        How many, rounded down to whole blocks.
    """
    threads = torch.get_num_threads()
    rounds = count // (_BLOCK * threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_run, [rounds] * threads))


def _run(rounds):
    block = torch.randn(_BLOCK)
    result = torch.empty_like(block)
    _library().exponentials(
        ctypes.c_void_p(result.data_ptr()),
        ctypes.c_void_p(block.data_ptr()),
        ctypes.c_int64(_BLOCK),
        ctypes.c_int64(rounds),
    )


@functools.cache
def _library():
    here = Path(__file__)
    headers = Path(cpu_library.__file__).with_name("cpu_kernels")
    vector_bytes = _VECTOR_BYTES[cpu_library.instruction_set()]
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "exponentials.so")
        subprocess.run(
            [
                *(compiler, "-std=gnu11", "-O3", "-ffp-contract=fast"),
                *("-march=native", "-shared", "-fPIC", f"-I{headers}"),
                *("-DREAL=float", "-DREAL_IS_DOUBLE=0"),
                f"-DVECTOR_BYTES={vector_bytes}",
                *(here.with_suffix(".c"), "-o", library),
            ],
            check=True,
        )
        return ctypes.CDLL(str(library))
