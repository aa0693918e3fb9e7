"""Runs PTX, the code that Triton compiles for NVIDIA's GPUs, in NumPy.

Source: NVIDIA, "Parallel Thread Execution ISA".

Programs are of one warp, and run one after the other; a register is an array
of 32 lanes.  Branches must be the same for all lanes.  An instruction that no
kernel has used so far is a NotImplementedError that names it.
"""

import re

import numpy as np

from emulated_gpu.instructions import EXIT, INSTRUCTIONS, LANES, TYPES
from emulated_gpu.memory import Region, View

_EVERYONE = np.ones(LANES, bool)
# Registers have no more of a type than their size.
_REGISTERS = {"p": "pred", "rs": "b16", "r": "b32", "rd": "b64"}


class Warp:
    """The state of one program.

    Arguments
    ---------
    program : tuple
        Its three indices.
    grid : tuple
        How many there are of each.
    parameters : dict
        Values of the kernel's parameters by name, one for each lane.
    memory : View
        Global memory.
    shared : View
        Shared memory, which begins at address 0.
    """

    def __init__(self, program, grid, parameters, memory, shared):
        self.registers = {"%tid.x": np.arange(LANES, dtype=np.uint32)}
        for axis, index, size in zip("xyz", program, grid):
            self.registers[f"%ctaid.{axis}"] = np.full(LANES, index, np.uint32)
            self.registers[f"%nctaid.{axis}"] = np.full(LANES, size, np.uint32)
        self.parameters = parameters
        self.memory = {"global": memory, "shared": shared}

    def value(self, operand, kind):
        """The values of a register or constant, as a type of PTX."""
        dtype = TYPES[kind]
        if operand in self.registers:
            return self.registers[operand].view(dtype)
        if operand.startswith("%"):
            number = -1  # never set: not a number, and no address
        elif operand.startswith("0f"):
            number = int(operand[2:], 16)
        elif operand == "global_smem":
            number = 0
        else:
            number = int(operand, 0)
        size = np.dtype(dtype).itemsize
        return np.full(LANES, number % 256**size, f"u{size}").view(dtype)

    def set(self, register, values, mask=_EVERYONE):
        """Puts values of any type of the register's size where the mask is."""
        if register == "_":  # a place for what nobody needs
            return
        values = np.ascontiguousarray(values)
        name = re.fullmatch(r"%([a-z]+)\d+", register)[1]
        kind = _REGISTERS[name]
        values = values.view(TYPES[kind])
        if not mask.all():
            values = np.where(mask, values, self.value(register, kind))
        self.registers[register] = values

    def barrier(self):
        """All lanes see what all have written."""
        for view in self.memory.values():
            view.barrier()


class Kernel:
    """One kernel, ready to run.

    Arguments
    ---------
    ptx : str
        What Triton compiled.
    shared_bytes : int
        Size of its shared memory.
    """

    def __init__(self, ptx, shared_bytes):
        self.shared_bytes = shared_bytes
        header, body = re.search(
            r"\.entry[^(]*\((.*?)\)[^{]*\{(.*)^\}", ptx, re.S | re.M
        ).groups()
        if not re.search(r"\.reqntid\s+32\s", ptx):
            raise NotImplementedError("Programs of several warps.")
        self.parameters = re.findall(
            r"\.param\s+\.(\w+).*?(\w+)(?:,|$)", header, re.M
        )
        self.code, self.labels = [], {}
        for line in body.splitlines():
            line = line.split("//")[0].strip()
            if line.endswith(":"):
                self.labels[line[:-1]] = len(self.code)
            elif line and not line.startswith("."):
                self.code.append((line, *_parse(line)))

    def run(self, grid, arguments, regions):
        """Runs all programs.

        Arguments
        ---------
        grid : tuple
            Numbers of programs along three axes.
        arguments : list
            Addresses and integers, one for each parameter.
        regions : list of Region
            All memory that the kernel may use.
        """
        parameters = {
            name: np.full(LANES, value, TYPES[kind])
            for (kind, name), value in zip(
                self.parameters, arguments, strict=True
            )
        }
        for number, (z, y, x) in enumerate(np.ndindex(*grid[::-1])):
            shared = Region(0, np.full(self.shared_bytes, 0xFF, np.uint8))
            views = View(regions, number), View([shared], number, rounded=True)
            with np.errstate(all="ignore"):
                self._run(Warp((x, y, z), grid, parameters, *views))

    def _run(self, warp):
        at = 0
        while at < len(self.code):
            line, guard, negated, execute = self.code[at]
            at += 1
            mask = _EVERYONE
            if guard:
                mask = warp.value(guard, "pred") ^ negated
            try:
                target = execute(warp, mask)
            except Exception as error:
                raise RuntimeError(f"{error} PTX: {line}") from error
            if target is None or not mask.any():
                continue
            if not mask.all():
                raise NotImplementedError(f"Lanes part at a branch: {line}")
            if target is EXIT:
                return
            at = self.labels[target]


def _parse(line):
    """Guard, whether it is negated, and what to do."""
    match = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.]+)\s*(.*?)\s*;", line)
    if not match:
        raise NotImplementedError(f"PTX: {line}")
    negated, guard, name, operands = match.groups()
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", operands)
    first, *kinds = name.split(".")
    try:
        execute = INSTRUCTIONS[first](
            kinds, *(operand.strip() for operand in operands)
        )
    except (KeyError, TypeError, NotImplementedError) as error:
        raise NotImplementedError(f"PTX: {line}") from error
    return guard, negated == "!", execute
