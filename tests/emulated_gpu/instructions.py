"""The instructions of PTX that Triton has used here so far.

Source: NVIDIA, "Parallel Thread Execution ISA".

Each is made of the dotted rest of its name and its operands, and is a function
of a warp and a mask of lanes, which gives the label to jump to, if any.
"""

import operator

import numpy as np

from emulated_gpu.memory import check_alignment

LANES = 32
EXIT = object()
TYPES = {
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "b16": np.uint16,
    "b32": np.uint32,
    "b64": np.uint64,
    "f32": np.float32,
    "f32x2": np.float32,  # two in a register of 64 bits
    "pred": np.bool_,
}


def _members(operand):
    """The registers of {a, b}, or of a alone."""
    return [part.strip() for part in operand.strip("{}").split(",")]


def _address(operand):
    """Base and offset of [base + offset]."""
    base, _, offset = operand.strip("[]").replace(" ", "").partition("+")
    return base, int(offset or 0)


def _elementwise(function, count, modifiers=("rn",)):
    """An instruction that does the same in each lane, of one type."""

    def make(kinds, to, *operands):
        *others, kind = kinds
        if len(operands) != count or not set(modifiers).issuperset(others):
            raise TypeError
        dtype = TYPES[kind]

        def execute(warp, mask):
            values = (warp.value(operand, kind) for operand in operands)
            values = np.asarray(function(*values)).astype(dtype)
            warp.set(to, values.view(f"u{values.nbytes // LANES}"), mask)

        return execute

    return make


def _flushed(x):
    """Without subnormal numbers."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, 0 * x, x)


def _exp2(x):
    return _flushed(np.exp2(_flushed(x).astype(np.float64)).astype(np.float32))


def _fma(a, b, c):
    return a.astype(np.float64) * b + c


def _divide(a, b):
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise ZeroDivisionError("PTX leaves x / 0 undefined.")
    quotient = np.abs(a) // np.abs(b)  # towards zero
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def _multiply(kinds, *operands):
    if kinds[0] == "wide":
        return _wide(kinds[-1], *operands, "0")
    return _elementwise(operator.mul, 2, ("rn", "lo"))(kinds, *operands)


def _multiply_add(kinds, *operands):
    if kinds[0] == "wide":
        return _wide(kinds[-1], *operands)
    add = _elementwise(lambda a, b, c: a * b + c, 3, ("lo",))
    return add(kinds, *operands)


def _wide(kind, to, a, b, c):
    double = {"s32": "s64", "u32": "u64"}[kind]
    dtype = TYPES[double]

    def execute(warp, mask):
        factors = (warp.value(x, kind).astype(dtype) for x in (a, b))
        product = operator.mul(*factors)
        warp.set(to, product + warp.value(c, double), mask)

    return execute


def _shift(function):
    def make(kinds, to, a, count):
        bits = int(kinds[-1][1:])

        def execute(warp, mask):
            x, by = warp.value(a, kinds[-1]), warp.value(count, "u32")
            if (by >= bits).any():
                raise NotImplementedError("Shifts by all bits.")
            warp.set(to, function(x, by.astype(x.dtype)), mask)

        return execute

    return make


def _extract_bits(kinds, to, a, position, length):
    def extract(x, position, length):
        width = 8 * x.dtype.itemsize
        # To the top, and back down with or without the sign.
        up = (width - position - length).astype(x.dtype)
        return (x << up) >> (width - length).astype(x.dtype)

    def execute(warp, mask):
        places = (warp.value(x, "u32") for x in (position, length))
        warp.set(to, extract(warp.value(a, kinds[-1]), *places), mask)

    return execute


def _select(kinds, to, a, b, predicate):
    def execute(warp, mask):
        a_, b_ = warp.value(a, kinds[-1]), warp.value(b, kinds[-1])
        warp.set(to, np.where(warp.value(predicate, "pred"), a_, b_), mask)

    return execute


def to_bfloat16(x):
    """The upper halves of float32 numbers, rounded to the nearest even."""
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = np.where(np.isnan(x), np.uint32(0x7FFF0000), rounded)
    return (rounded >> np.uint32(16)).astype(np.uint16)


_ENCODE = {
    "bf16": to_bfloat16,
    "f16": lambda x: x.astype(np.float16).view(np.uint16),
}
_DECODE = {
    "bf16": lambda bits: (bits.astype(np.uint32) << 16).view(np.float32),
    "f16": lambda bits: bits.view(np.float16).astype(np.float32),
}


def _compare(kinds, to, a, b):
    name, kind = kinds
    function = {
        "lt": operator.lt,
        "le": operator.le,
        "gt": operator.gt,
        "ge": operator.ge,
        "eq": operator.eq,
        "ne": operator.ne,
    }[name]

    def read(warp, operand):
        if kind in _DECODE:
            return _DECODE[kind](warp.value(operand, "b16"))
        return warp.value(operand, kind)

    def execute(warp, mask):
        warp.set(to, function(read(warp, a), read(warp, b)), mask)

    return execute


def _convert(kinds, to, *operands):
    *rounding, target, source = kinds
    if target in ("bf16x2", "f16x2"):  # the first operand is the upper half
        encode = _ENCODE[target[:-2]]

        def execute(warp, mask):
            upper, lower = (
                encode(warp.value(x, source)).astype(np.uint32)
                for x in operands
            )
            warp.set(to, upper << np.uint32(16) | lower, mask)

        return execute
    (operand,) = operands

    def execute(warp, mask):
        if source in _DECODE and target == "f32":
            values = _DECODE[source](warp.value(operand, "b16"))
        elif target in _ENCODE and source == "f32" and rounding == ["rn"]:
            values = _ENCODE[target](warp.value(operand, "f32"))
        elif source[0] in "us" and target[0] in "us":
            values = warp.value(operand, source).astype(TYPES[target])
        else:
            raise NotImplementedError(f"cvt.{'.'.join(kinds)}")
        warp.set(to, values, mask)

    return execute


def _move(kinds, to, source):
    kind = kinds[-1]
    targets, sources = _members(to), _members(source)
    part = f"b{int(kind[1:]) // 2}" if kind != "pred" else None

    def execute(warp, mask):
        if len(targets) == 2:
            dtype = TYPES[part]
            halves = warp.value(source, kind).view(dtype).reshape(LANES, 2)
            for register, half in zip(targets, halves.T):
                warp.set(register, half, mask)
        elif len(sources) == 2:
            halves = [warp.value(x, part) for x in sources]
            both = np.stack(halves, 1).view(TYPES[f"b{kind[1:]}"])[:, 0]
            warp.set(to, both, mask)
        else:
            warp.set(to, warp.value(source, kind), mask)

    return execute


def _load(kinds, to, source):
    if kinds[0] == "param":
        return _load_parameter(kinds[-1], to, source)
    return _access(kinds, source, to, stores=False)


def _store(kinds, to, source):
    return _access(kinds, to, source, stores=True)


def _load_parameter(kind, to, source):
    base, _ = _address(source)
    size = 8 if to.startswith("%rd") else 4

    def execute(warp, mask):
        values = warp.parameters[base].astype(TYPES[kind])
        # Small ones keep their sign in large registers.
        warp.set(to, values.astype(f"{values.dtype.kind}{size}"), mask)

    return execute


def _access(kinds, place, registers, stores):
    space, *vector, kind = kinds
    registers = _members(registers)
    known = [f"v{len(registers)}"] if len(registers) > 1 else []
    if space not in ("global", "shared") or vector != known:
        raise TypeError
    dtype = TYPES[kind]
    size = np.dtype(dtype).itemsize

    def execute(warp, mask):
        pointers = _pointers(warp, place, space)
        check_alignment(pointers[mask], size * len(registers))
        places = [pointers + i * size for i in range(len(registers))]
        _transfer(warp, space, places, registers, dtype, mask, stores)

    return execute


def _pointers(warp, place, space):
    base, offset = _address(place)
    pointers = warp.value(base, "u64" if space == "global" else "u32")
    return pointers.astype(np.int64) + offset


def _transfer(warp, space, places, registers, dtype, mask, stores):
    memory = warp.memory[space]
    for register, at in zip(registers, places):
        if stores:
            values = warp.value(register, f"b{8 * np.dtype(dtype).itemsize}")
            memory.store(at, values, mask)
        else:
            warp.set(register, memory.load(at, dtype, mask), mask)


def _load_matrix(kinds, to, source):
    return _access_matrix(kinds, source, to, stores=False)


def _store_matrix(kinds, to, source):
    return _access_matrix(kinds, to, source, stores=True)


def _access_matrix(kinds, place, registers, stores):
    """8 x 8 matrices of 16-bit numbers.

    Lane 8 m + row holds the address of a row of matrix m; lane 4 row + i has
    its pair i of numbers.
    """
    registers = _members(registers)
    count = len(registers)
    if kinds != ["sync", "aligned", "m8n8", f"x{count}", "shared", "b16"]:
        raise TypeError
    lanes = np.arange(LANES)

    def execute(warp, mask):
        rows = _pointers(warp, place, "shared")
        check_alignment(rows[: 8 * count], 16)
        places = [
            rows[8 * m + lanes // 4] + lanes % 4 * 4 for m in range(count)
        ]
        _transfer(warp, "shared", places, registers, np.uint32, mask, stores)

    return execute


def _shuffle(kinds, to, source, other, clamp, members):
    if kinds != ["sync", "bfly", "b32"] or (clamp, members) != ("31", "-1"):
        raise TypeError

    def execute(warp, mask):
        lanes = np.arange(LANES) ^ warp.value(other, "s32")
        warp.set(to, warp.value(source, "b32")[lanes], mask)

    return execute


def _barrier(kinds, which):
    if (kinds, which) not in ((["sync"], "0"), (["warp", "sync"], "-1")):
        raise TypeError
    return lambda warp, mask: warp.barrier()


def _branch(kinds, label):
    if kinds not in ([], ["uni"]):
        raise TypeError
    return lambda warp, mask: label


def _return(kinds):
    return lambda warp, mask: EXIT


INSTRUCTIONS = {
    "abs": _elementwise(np.abs, 1),
    "add": _elementwise(operator.add, 2),
    "and": _elementwise(operator.and_, 2),
    "bar": _barrier,
    "bfe": _extract_bits,
    "bra": _branch,
    "cvt": _convert,
    "div": _elementwise(_divide, 2, ("full",)),
    "ex2": _elementwise(_exp2, 1, ("approx", "ftz")),
    "fma": _elementwise(_fma, 3),
    "ld": _load,
    "ldmatrix": _load_matrix,
    "mad": _multiply_add,
    "max": _elementwise(np.fmax, 2),
    "min": _elementwise(np.fmin, 2),
    "mov": _move,
    "mul": _multiply,
    "neg": _elementwise(operator.neg, 1),
    "not": _elementwise(operator.invert, 1),
    "or": _elementwise(operator.or_, 2),
    "ret": _return,
    "selp": _select,
    "setp": _compare,
    "shfl": _shuffle,
    "shl": _shift(operator.lshift),
    "shr": _shift(operator.rshift),
    "st": _store,
    "stmatrix": _store_matrix,
    "sub": _elementwise(operator.sub, 2),
    "xor": _elementwise(operator.xor, 2),
}
