"""Estimates the memory that training takes on a GPU, with or without one.

A training step of ASCMamba is traced on tensors that have shapes and no
values.  Added up is what its operations allocate until it is freed, so that
the largest sum is the peak, gradients and what the backward pass needs in
between included.  Two things are done as on a GPU: under autocast a layer norm
answers in float32, and dropout keeps a mask of bytes.  On top come weights and
Adam's moments, and on the card what is in RESERVED.

They are estimates: the allocator's rounding and gaps and the workspaces of
convolutions are guessed (RESERVED, USABLE), and what mamba-ssm allocates is
read from its source.  benchmarks/gpu.py puts the measured peak beside them.
"""

import argparse
import contextlib
import weakref
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from common import markdown_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.selective_scan import torch_engine
from ascmamba_modules.selective_scan.triton import engine as triton_engine

FRAMES, MELS = 500, 64
CARDS = (16, 24, 80, 140)  # GB
# Driver, libraries and workspaces; and how much of the rest can be filled.
RESERVED, USABLE = 1e9, 0.9
# Our kernels, mamba-ssm's, none.
ENGINES = TRITON, KERNEL, TORCH = "triton", "mamba_ssm", "torch"
_ADAM = 3 * 4  # bytes a parameter: itself and two moments


class MemoryTrace(TorchDispatchMode):
    """Adds up the tensors that are alive.

    Example
    -------
    >>> with MemoryTrace() as trace:
    ...     x = torch.zeros(250)
    ...     x = x + 1
    >>> trace.live, trace.peak
    (1000, 2000)
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._storages = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {x._cdata for x in _storages((args, kwargs))}
        results = function(*args, **(kwargs or {}))
        for storage in _storages(results):
            # An operation may answer with its input, or a view of it.
            if storage._cdata not in before:
                self._add(storage)
        return results

    def _add(self, storage):
        if storage in self._storages:
            return
        size = storage.nbytes()
        self._storages.add(storage)
        weakref.finalize(storage, self._subtract, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _subtract(self, size):
        self.live -= size


def _storages(values):
    return [
        x.untyped_storage()
        for x in tree_leaves(values)
        if isinstance(x, torch.Tensor)
    ]


class _Scan(torch.autograd.Function):
    """Allocates and keeps what mamba-ssm does around its kernel.

    Source: https://github.com/state-spaces/mamba, SelectiveScanFn and
    selective_scan.cpp of version 2.3.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias):
        batch, channels, length = u.shape
        chunks = -(-length // 2048)
        states = u.new_empty(
            (batch, channels, chunks, 2 * A.shape[1]), dtype=torch.float32
        )
        out = torch.empty_like(u)  # before the gate
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, states, out)
        return torch.empty_like(u)

    @staticmethod
    def backward(ctx, grad_y):
        u, delta, A, B, C, D, z, delta_bias, *_ = ctx.saved_tensors
        # Sums over channels, in full precision first.
        full = (torch.empty_like(x, dtype=torch.float32) for x in (B, C))
        grad_B, grad_C = (x.to(like.dtype) for x, like in zip(full, (B, C)))
        grads = (torch.empty_like(x) for x in (u, delta, A))
        others = (torch.empty_like(x) for x in (D, z, delta_bias))
        return (*grads, grad_B, grad_C, *others)


class _NoKernel:
    """Takes the place of kernels in Triton, which allocate nothing."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


def _scan(u, delta, A, B, C, D, z, delta_bias, **options):
    return _Scan.apply(u, delta, A, B, C, D, z, delta_bias)


@contextlib.contextmanager
def scan_by(engine):
    """Chooses what computes the scans, without its kernels.

    Arguments
    ---------
    engine : str
        TRITON, KERNEL or TORCH.
    """
    chosen = TRITON if engine == TRITON else TORCH
    patches = [
        mock.patch("ascmamba_modules.mamba.choose_engine", lambda *_: chosen),
        mock.patch.object(
            torch_engine,
            "_chunk_elements",
            lambda _: torch_engine._CHUNK_ELEMENTS["cuda"],
        ),
    ]
    if engine == TRITON:
        from ascmamba_modules.selective_scan.triton import (
            convolution as triton_convolution,
        )

        names = ("scan_forward", "scan_backward")
        kernels = SimpleNamespace(**{name: _NoKernel() for name in names})
        patches += [
            mock.patch.object(triton_engine, "kernels", lambda: kernels),
            mock.patch.object(triton_convolution, "_forward", _NoKernel()),
            mock.patch.object(triton_convolution, "_backward", _NoKernel()),
        ]
    if engine == KERNEL:
        patches.append(
            mock.patch(
                "ascmamba_modules.selective_scan.inner.selective_scan", _scan
            )
        )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


@contextlib.contextmanager
def as_on_a_gpu(precision):
    """Patches what allocates other tensors on a CPU than on a GPU.

    Arguments
    ---------
    precision : str
        "fp32" or "bf16".
    """
    layer_norm = F.layer_norm

    def full_layer_norm(x, *args, **kwargs):
        return layer_norm(x.float(), *args, **kwargs)

    def dropout(x, p=0.5, training=True, inplace=False):
        return torch.native_dropout(x, p, training)[0] if training else x

    with (
        mock.patch.object(F, "layer_norm", full_layer_norm),
        mock.patch.object(F, "dropout", dropout),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


def training_step_bytes(batch, precision, engine, **model_options):
    """Estimates the memory of a training step.

    Arguments
    ---------
    batch : int
        Ten-second clips.
    precision : str
        "fp32" or "bf16" (autocast).
    engine : str
        TRITON, KERNEL or TORCH.
    **model_options
        Of :class:`~ascmamba_modules.ascmamba.ASCMamba`.

    Returns
    -------
    peak : int
        Bytes at the peak, weights and Adam's moments included.
    kept : int
        Bytes of them that the forward pass keeps for the backward pass.
    """
    with FakeTensorMode():
        model = ASCMamba(**model_options, engine="torch")
        features = torch.empty(batch, FRAMES, MELS)
        with MemoryTrace() as trace, scan_by(engine):
            with as_on_a_gpu(precision):
                loss = model(features).float().square().mean()
            kept = trace.live
            loss.backward()
        weights = sum(p.numel() for p in model.parameters())
    return trace.peak + _ADAM * weights, kept


def per_clip(precision, engine, **model_options):
    """Fits a straight line to the memory against the batch.

    Arguments
    ---------
    precision, engine, **model_options
        As in :func:`training_step_bytes`.

    Returns
    -------
    dict
        Bytes: "peak" and "kept", of each clip; "fixed", of none.
    """
    small, large = 4, 8
    peak, kept = training_step_bytes(small, precision, engine, **model_options)
    more = training_step_bytes(large, precision, engine, **model_options)
    slope = (more[0] - peak) / (large - small)
    return {
        "peak": slope,
        "kept": (more[1] - kept) / (large - small),
        "fixed": max(0.0, peak - small * slope),
    }


def largest_batch(card, size):
    """Estimates how many clips fit on a card.

    Arguments
    ---------
    card : float
        Its memory in bytes.
    size : dict
        From :func:`per_clip`.

    Returns
    -------
    int

    Example
    -------
    >>> largest_batch(11e9, {"peak": 1e9, "fixed": 0.0})
    9
    """
    usable = USABLE * (card - RESERVED) - size["fixed"]
    return max(0, int(usable / size["peak"]))


def rows(**model_options):
    """Estimates for both precisions and all engines.

    That of the engine triton is left out where Triton is not installed.

    Arguments
    ---------
    **model_options
        Of :class:`~ascmamba_modules.ascmamba.ASCMamba`.

    Returns
    -------
    list
        One dict a row of the table.
    """
    engines = list(ENGINES)
    if triton_engine.missing_reason():
        engines.remove(TRITON)
    table = []
    for precision in ("bf16", "fp32"):
        for engine in engines:
            size = per_clip(precision, engine, **model_options)
            table.append(
                {
                    "precision": precision,
                    "engine": engine,
                    "kept (MB a clip)": size["kept"] / 1e6,
                    "peak (MB a clip)": size["peak"] / 1e6,
                    **{
                        f"clips on {card} GB": largest_batch(1e9 * card, size)
                        for card in CARDS
                    },
                }
            )
    return table


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description="Estimates the memory of a training step of ASCMamba on "
        "a GPU, and the largest batches, as a Markdown table; needs no GPU."
    )
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--n-blocks", type=int, default=4)
    args = parser.parse_args()
    print(markdown_table(rows(**vars(args))))
    print(
        f"\nEstimates for clips of ten seconds; {RESERVED / 1e9:.0f} GB of a "
        f"card are taken for libraries and workspaces,\nand {USABLE:.0%} of "
        "the rest for usable."
    )


if __name__ == "__main__":
    main()
