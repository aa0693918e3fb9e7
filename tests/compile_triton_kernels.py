"""Compiles every kernel of the engine triton for GPUs that need not be there.

Runs a Mamba pair forward and backward, at the model's shapes, with launches
replaced by compiling what would be launched.  Prints one line of JSON for each
kernel: its name, type, architecture, registers, bytes of stack (where spilled
registers go) and of shared memory.  Not to be run with TRITON_INTERPRET=1.

    python tests/compile_triton_kernels.py 80 90
"""

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ascmamba_modules.selective_scan import triton_convolution, triton_kernels
from ascmamba_modules.selective_scan.triton_mamba import mamba_inner_triton

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}


class Recorder:
    """Stands in for a kernel, and keeps what it would be compiled from."""

    def __init__(self, kernel, sources):
        self.kernel, self.sources = kernel, sources

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps, **constants):
        names = self.kernel.arg_names
        values = {**dict(zip(names, arguments)), **constants}
        parameters = {p.name: p for p in self.kernel.params}
        signature, constexprs, attributes = {}, {}, {}
        for number, name in enumerate(names):
            parameter = parameters[name]
            signature[name] = specialise(
                values[name],
                (number,),
                parameter.is_constexpr,
                not parameter.do_not_specialize,
                constexprs,
                attributes,
            )
        source = ASTSource(self.kernel, signature, constexprs, attributes)
        self.sources.append((source, {"num_warps": num_warps}))


def specialise(value, path, constant, freely, constexprs, attributes):
    """A value's type in a signature, as Triton itself would choose it."""
    if isinstance(value, tuple):
        return tuple(
            specialise(v, (*path, i), constant, freely, constexprs, attributes)
            for i, v in enumerate(value)
        )
    is_one = isinstance(value, int) and value == 1
    if constant or value is None or (freely and is_one):
        constexprs[path] = value
        return "constexpr"
    if isinstance(value, torch.Tensor):
        if value.data_ptr() % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return TYPES[value.dtype]
    if freely and value % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def launches(dtype, batch=2, length=500, channels=128, states=16, rank=4):
    """What a Mamba pair launches in one training step."""
    sources = []
    for module, names in (
        (triton_kernels, ("scan_forward", "scan_backward")),
        (triton_convolution, ("_forward", "_backward")),
    ):
        for name in names:
            kernel = getattr(module, name)
            if isinstance(kernel, Recorder):  # of an earlier call
                kernel = kernel.kernel
            setattr(module, name, Recorder(kernel, sources))
    xz = torch.randn(batch, length, 2, 2 * channels, dtype=dtype)
    weights = [
        torch.randn(2, channels, 4),
        torch.randn(2, channels),
        torch.randn(2, rank + 2 * states, channels),
        torch.randn(2, channels, rank),
        torch.randn(2, channels),
        -torch.rand(2, channels, states),
        torch.randn(2, channels),
    ]
    tensors = [x.requires_grad_() for x in (xz, *weights)]
    mamba_inner_triton(*tensors).sum().backward()
    return sources


def resources(kernel):
    """Registers, bytes of stack and of shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        report = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    (found,) = re.findall(r"REG:(\d+) STACK:(\d+)", report)
    registers, stack = map(int, found)
    return {
        "registers": registers,
        "stack": stack,
        "shared": kernel.metadata.shared,
    }


def compile_all(architectures):
    """Yields one description and the compiled kernel after the other."""
    architectures = list(architectures)
    for dtype in (torch.float32, torch.bfloat16):
        distinct = {
            source.hash(): (source, options)
            for source, options in launches(dtype)
        }
        for source, options in distinct.values():
            for architecture in architectures:
                target = GPUTarget("cuda", architecture, 32)
                kernel = triton.compile(source, target, options)
                module = source.fn.__module__.rsplit(".", 1)[-1]
                description = {
                    "name": f"{module}.{source.fn.__name__}",
                    "dtype": str(dtype),
                    "architecture": architecture,
                    **resources(kernel),
                }
                yield description, kernel


if __name__ == "__main__":
    for description, _ in compile_all(map(int, sys.argv[1:])):
        print(json.dumps(description), flush=True)
