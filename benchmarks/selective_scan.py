"""Times the engines of the selective scan against other implementations.

All get float32 tensors with channels last, as a Mamba block has them, with
step sizes that are ready (no softplus) and neither D nor gate.
"""

import functools
import importlib
import importlib.util
import inspect
import sys
from types import ModuleType

import torch
from mambapy.pscan import pscan
from measure import (
    machine,
    make_parser,
    markdown_table,
    median_times,
    parse_arguments,
    peak_memory,
)

from ascmamba_modules.selective_scan import engine_status, selective_scan

# Sequences, channels, steps; the first two are what one batch of four clips is
# to the time path and to the frequency path of the paper's ASCMamba.
SHAPES = {
    "time": (128, 128, 500),
    "frequency": (2000, 128, 32),
    "long": (1, 128, 8000),
    "small": (4, 32, 200),
    "reference": (8, 128, 500),
}
STATES = 16
PEER = "mambapy"
REFERENCE = "selective_scan_ref"
HUGGING_FACE = "Hugging Face"
# Loops over time, whose backward pass is quadratic in length: for the shape
# "reference" alone, elsewhere they take minutes and more.
LOOPS = (REFERENCE, HUGGING_FACE)
PASSES = ("forward", "forward + backward")


def scan_mambapy(u, delta, A, B, C):
    """The scan as mambapy's ``MambaBlock.selective_scan`` does it.

    Tensors are (batch, length, channels), A is (channels, state), B and C are
    (batch, length, state).

    Source: https://github.com/alxndrTL/mamba.py (MIT).
    """
    decay = torch.exp(delta.unsqueeze(-1) * A)  # (B, L, D, N)
    drive = delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1)
    states = pscan(decay, drive)
    return (states @ C.unsqueeze(-1)).squeeze(-1)


@functools.cache
def selective_scan_ref():
    """The reference of mamba-ssm, ``mamba_ssm.ops.selective_scan_interface
    .selective_scan_ref``, without what its package asks for."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None:
        raise ModuleNotFoundError("mamba-ssm is not installed; use make bench.")
    # Its __init__.py imports whole language models, the file its kernel.
    package = ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["mamba_ssm"] = package
    sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")
    module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    return module.selective_scan_ref


@functools.cache
def scan_of_hugging_face():
    """What transformers runs where it finds no kernel, its slow path,
    ``transformers.models.mamba.modeling_mamba.mamba_selective_scan``."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    # Without what looks for a kernel, and would take mamba-ssm's.
    return inspect.unwrap(mamba_selective_scan)


def scan(name, u, delta, A, B, C):
    """Runs mambapy or an engine; arguments as in :func:`scan_mambapy`."""
    if name == PEER:
        return scan_mambapy(u, delta, A, B, C)
    u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
    if name in LOOPS:
        loop = (
            selective_scan_ref()
            if name == REFERENCE
            else scan_of_hugging_face()
        )
        return loop(u, delta, A, B, C).transpose(1, 2)
    return selective_scan(u, delta, A, B, C, engine=name).transpose(1, 2)


def scan_loop(u, delta, A, B, C):
    """The scan step by step; arguments as in :func:`scan_mambapy`."""
    state = u.new_zeros(len(u), *A.shape)  # (B, D, N)
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(*(x.unbind(1) for x in (u, delta, B, C))):
        drive = (delta_t * u_t).unsqueeze(-1) * B_t.unsqueeze(1)
        state = torch.exp(delta_t.unsqueeze(-1) * A) * state + drive
        outputs.append((state * C_t.unsqueeze(1)).sum(-1))
    return torch.stack(outputs, dim=1)


def make_inputs(shape, device="cpu"):
    """Draws u, delta, A, B and C for one of the shapes."""
    sequences, channels, steps = shape
    u = torch.randn(sequences, steps, channels)
    delta = torch.empty_like(u).uniform_(0.001, 0.1)
    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    B, C = torch.randn(2, sequences, steps, STATES)
    return [x.to(device) for x in (u, delta, A, B, C)]


def prepare(name, pass_name, shape, device="cpu"):
    """Readies one pass, one of PASSES, of one implementation: "mambapy", an
    engine, or one of LOOPS.  The shape is (sequences, channels, steps)."""
    inputs = make_inputs(shape, device)
    grad_output = torch.randn_like(inputs[0])

    def run(inputs=inputs, grad_output=grad_output):
        if pass_name == "forward":
            with torch.no_grad():
                scan(name, *inputs)
        else:
            inputs = [x.detach().requires_grad_() for x in inputs]
            torch.autograd.grad(scan(name, *inputs), inputs, grad_output)

    # What a first call allocates once (threads, libraries) is not the scan's.
    tiny = make_inputs((1, 8, 8), device)
    run(tiny, torch.randn_like(tiny[0]))
    return run


def rows(shape, rounds, device="cpu"):
    """Times and measures all implementations at one shape (sequences,
    channels, steps); a row each."""
    names = [PEER, *_engines(device)]
    if shape == SHAPES["reference"]:
        names += LOOPS
    table = []
    for pass_name in PASSES:
        functions = {n: prepare(n, pass_name, shape, device) for n in names}
        memory = {
            n: peak_memory(prepare, n, pass_name, shape, device, device=device)
            for n in names
        }
        seconds = median_times(functions, rounds, device)
        for name in names:
            table.append(
                {
                    "shape": " x ".join(map(str, shape)),
                    "pass": pass_name,
                    "scan": name,
                    "seconds": seconds[name],
                    "x times faster": seconds[PEER] / seconds[name],
                    "GB": memory[name] / 1e9,
                    "x times smaller": _ratio(memory[PEER], memory[name]),
                }
            )
    return table


def error_rows(device="cpu"):
    """Largest error of each implementation against a float64 loop, relative to
    the largest output."""
    inputs = make_inputs(SHAPES["small"], device)
    expected = scan_loop(*(x.double() for x in inputs))
    table = []
    for name in (PEER, *_engines(device)):
        error = (scan(name, *inputs) - expected).abs().max()
        table.append(
            {
                "scan": name,
                "largest error": (error / expected.abs().max()).item(),
            }
        )
    return table


def _ratio(peer, ours):
    """A small call may fit into memory that the process holds already."""
    return peer / ours if ours > 0 else "-"


def _engines(device):
    return [
        name for name, reason in engine_status(device).items() if not reason
    ]


def main(arguments=None):
    """Prints the tables."""
    parser = make_parser(
        "Prints seconds (medians) and peak memory of one selective scan for "
        "mambapy, mamba-ssm's and Hugging Face's loops and each engine that "
        "runs here, how many times faster and smaller than mambapy each is, "
        "and the largest relative error of the outputs against a float64 "
        "loop. Shapes are sequences x channels x steps, with "
        f"{STATES} states; mambapy takes up to 6 GB."
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=list(SHAPES),
        default=["time", "frequency", "long", "reference"],
        help="shapes to run (default: all but small)",
    )
    options = parse_arguments(parser, arguments)
    print(machine(options.device))
    print(f"Medians of {options.rounds} interleaved turns, float32.\n")
    table = []
    for name in options.shapes:
        table += rows(SHAPES[name], options.rounds, options.device)
    print(markdown_table(table))
    print("\nAgainst a float64 loop, relative to the largest output:\n")
    print(markdown_table(error_rows(options.device)))


if __name__ == "__main__":
    main()
