"""The compiled kernels of the engine ``cpu``, as functions of tensors.

The C files in ``kernels`` are compiled when the package is installed, see
``setup.py``, and know nothing of PyTorch or Python: this file hands them
pointers and strides.  ctypes releases the interpreter lock during a call.
"""

import ctypes
import functools
import math
from pathlib import Path
from typing import NamedTuple

import torch

LIBRARY = Path(__file__).with_name("kernels.so")
# By the numbers that library.c gives them.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
# As in arguments.h.
CHUNK = 32
# Sequences are shared out in this many blocks at most, and where they are few
# so are their channels: enough for any number of threads, and the same for
# all of them, so that results do not depend on it.
_MAX_BLOCKS = 64
_MIN_TASKS = 16
# Channels: whole vectors, and enough to share the cost of sums over them.
_MIN_PART = 32
# Less work than this is not worth waking threads for.
_MIN_ELEMENTS = 2**17


class _Tensor(ctypes.Structure):
    """(batch, length, channels)"""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("step", ctypes.c_int64),
    ]

    @classmethod
    def of(cls, x, reverse):
        if x is None:
            return cls()
        return cls(_start(x, 1, reverse), x.stride(0), _step(x, 1, reverse))


class _Projection(ctypes.Structure):
    """(batch, groups, length, states), or constant (states, channels)"""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("groups", ctypes.c_int64),
    ]

    @classmethod
    def of(cls, x, reverse):
        if x.dim() == 2:
            return cls(x.data_ptr(), 0, 0, 0, 0)
        return cls(
            _start(x, 2, reverse),
            x.stride(0),
            x.stride(1),
            _step(x, 2, reverse),
            x.shape[1],
        )


def _start(x, axis, reverse):
    """Address of the step that is read first."""
    last = (x.shape[axis] - 1) * x.stride(axis) if reverse else 0
    return x.data_ptr() + last * x.element_size()


def _step(x, axis, reverse):
    return -x.stride(axis) if reverse else x.stride(axis)


class _Scan(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "length", "channels", "states", "rank"),
                *("groups", "splits", "part_width", "rows", "softplus"),
            )
        ),
        *((name, _Tensor) for name in ("u", "delta", "z", "y")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias")),
        ("step", _Tensor),
        ("weight", ctypes.c_void_p),
        *((name, _Projection) for name in ("B", "C")),
        *((name, ctypes.c_void_p) for name in ("checkpoints", "last_state")),
        *(
            (name, _Tensor)
            for name in ("grad_y", "grad_u", "grad_delta", "grad_z")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("grad_last_state", "grad_A", "grad_D", "grad_bias"),
                "grad_weight",
            )
        ),
        *((name, _Tensor) for name in ("grad_step", "grad_B", "grad_C")),
        ("grad_part", ctypes.c_int64),
    ]


class _Convolution(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "length", "channels", "width"),
                *("splits", "part_width", "rows"),
            )
        ),
        *((name, _Tensor) for name in ("x", "y", "mask")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, _Tensor) for name in ("grad_y", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias")),
    ]


@functools.lru_cache(maxsize=1)
def load():
    """Loads the compiled kernels.

    Returns
    -------
    ctypes.CDLL

    Raises
    ------
    OSError
        If they are not there, or not for this machine.
    """
    library = ctypes.CDLL(str(LIBRARY))
    # PyTorch's OpenMP, unless its symbols are kept from us.
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel is not None:
        library.use_openmp(parallel)
    return library


@functools.lru_cache(maxsize=1)
def unavailable_reason():
    """Says why the kernels cannot run here.

    Returns
    -------
    str or None
        The reason with its remedy, None if they run.

    Example
    -------
    >>> reason = unavailable_reason()
    >>> reason is None or "install" in reason
    True
    """
    remedy = (
        "with a C compiler (e.g. apt install gcc) install the package again"
    )
    if not LIBRARY.exists():
        return (
            "its kernels were not compiled when the package was installed; "
            + remedy
        )
    try:
        load()
    except (OSError, AttributeError) as error:  # AttributeError: an old file
        return f"its kernels do not load ({error}); {remedy}"
    return None


class ScanInputs(NamedTuple):
    """What the scan reads: tensors of one type, the last axis contiguous."""

    u: torch.Tensor  # (batch, length, channels)
    A: torch.Tensor  # (channels, state)
    B: torch.Tensor  # (batch, groups, length, state) or (channels, state)
    C: torch.Tensor  # as B
    D: torch.Tensor | None  # (channels)
    z: torch.Tensor | None  # as u
    delta_bias: torch.Tensor | None  # (channels)
    delta_softplus: bool
    reverse: bool  # whether time is read backwards
    # Step sizes, as u; or their factors instead.
    delta: torch.Tensor | None = None
    step: torch.Tensor | None = None  # (batch, length, rank)
    weight: torch.Tensor | None = None  # (channels, rank)


def scan_forward(inputs, keep_checkpoints):
    """Runs the scan.

    Arguments
    ---------
    inputs : ScanInputs
    keep_checkpoints : bool
        Whether the backward pass will be asked for.

    Returns
    -------
    y : torch.Tensor
        (batch, length, channels).
    last_state : torch.Tensor
        (batch, state, channels).
    checkpoints : torch.Tensor or None
        What the backward pass needs.
    """
    u = inputs.u
    batch, length, channels = u.shape
    states = inputs.A.shape[1]
    checkpoints = None
    if keep_checkpoints:
        n_checkpoints = math.ceil(length / CHUNK) - 1
        checkpoints = u.new_empty(batch, n_checkpoints, states, channels)
    results = {
        "y": u.new_empty(u.shape),
        "last_state": u.new_empty(batch, states, channels),
        "checkpoints": checkpoints,
    }
    _call(
        "scan_forward",
        _Scan,
        {**_scan_fields(inputs), **results},
        inputs.reverse,
        u.numel() * states,
    )
    return tuple(results.values())


def scan_backward(
    inputs, checkpoints, grad_y, grad_last_state=None, grad_z=None
):
    """Runs the scan's backward pass.

    Arguments
    ---------
    inputs : ScanInputs
    checkpoints : torch.Tensor
        From :func:`scan_forward`.
    grad_y : torch.Tensor
        (batch, length, channels), the last axis contiguous.
    grad_last_state : torch.Tensor, optional
        (batch, state, channels), contiguous.
    grad_z : torch.Tensor, optional
        Where to put the gradient of z.

    Returns
    -------
    gradients : dict
        Gradients by the name of the input, in its shape; but not those of
        step, B and C where they vary over time.
    projections : torch.Tensor
        (parts, batch, length, n): the gradients of step, B and C where they
        vary over time, side by side.  They are the sums over the parts; B and
        C with groups have the same number of parts for each.
    """
    u = inputs.u
    batch, length, channels = u.shape
    states = inputs.A.shape[1]
    rank = 0 if inputs.step is None else inputs.step.shape[-1]
    fields = _scan_fields(inputs)
    per_sequence = {
        "u": u.new_empty(u.shape),
        "delta": None if inputs.delta is None else u.new_empty(u.shape),
        "z": grad_z,
    }
    if grad_z is None and inputs.z is not None:
        per_sequence["z"] = u.new_empty(u.shape)

    varying = {"step": rank}
    per_channel = {"A": states, "D": 1, "bias": 1, "weight": rank}
    for name, x in (("B", inputs.B), ("C", inputs.C)):
        (varying if x.dim() == 4 else per_channel)[name] = states
    blocks = math.ceil(batch / fields["rows"])
    per_channel = {
        name: u.new_empty(blocks, n, channels)
        for name, n in per_channel.items()
    }
    projections = u.new_empty(
        fields["groups"] * fields["splits"],
        batch,
        length,
        sum(varying.values()),
    )
    slices = projections[0].split(list(varying.values()), dim=-1)

    gradients = {**per_sequence, **per_channel, **dict(zip(varying, slices))}
    fields.update({f"grad_{name}": x for name, x in gradients.items()})
    fields.update(
        checkpoints=checkpoints,
        grad_y=grad_y,
        grad_last_state=grad_last_state,
        grad_part=projections.stride(0),
    )
    _call(
        "scan_backward",
        _Scan,
        fields,
        inputs.reverse,
        2 * u.numel() * states,
        constant={f"grad_{name}" for name in per_channel},
    )
    sums = {name: x.sum(0).T for name, x in per_channel.items()}
    for name in ("D", "bias"):
        sums[name] = sums[name].squeeze(1)
    sums["delta_bias"] = sums.pop("bias")
    return {**per_sequence, **sums}, projections


def _scan_fields(inputs):
    batch, length, channels = inputs.u.shape
    groups = math.lcm(
        *(x.shape[1] for x in (inputs.B, inputs.C) if x.dim() == 4)
    )
    weight = inputs.weight
    return {
        "batch": batch,
        "length": length,
        "channels": channels,
        "states": inputs.A.shape[1],
        "rank": 0 if weight is None else weight.shape[1],
        "groups": groups,
        **_split(batch * groups, batch, channels // groups),
        "softplus": int(inputs.delta_softplus),
        "u": inputs.u,
        "delta": inputs.delta,
        "z": inputs.z,
        "A": (inputs.A * math.log2(math.e)).T.contiguous(),
        "D": _contiguous(inputs.D),
        "bias": _contiguous(inputs.delta_bias),
        "step": inputs.step,
        "weight": None if weight is None else weight.T.contiguous(),
        "B": inputs.B.T.contiguous() if inputs.B.dim() == 2 else inputs.B,
        "C": inputs.C.T.contiguous() if inputs.C.dim() == 2 else inputs.C,
    }


def convolution_forward(x, weight, bias, mask, reverse):
    """SiLU of a causal depthwise convolution.

    Arguments
    ---------
    x : torch.Tensor
        (batch, length, channels), the last axis contiguous.
    weight : torch.Tensor
        (channels, width).
    bias : torch.Tensor or None
        (channels).
    mask : torch.Tensor or None
        (batch, length); x and the result are multiplied by it.
    reverse : bool
        Whether time is read backwards.

    Returns
    -------
    torch.Tensor
        (batch, length, channels).
    """
    fields = _convolution_fields(x, weight, bias, mask)
    fields["y"] = x.new_empty(x.shape)
    _call("convolution_forward", _Convolution, fields, reverse, x.numel())
    return fields["y"]


def convolution_backward(x, weight, bias, mask, reverse, grad_y, grad_x):
    """The backward pass of :func:`convolution_forward`.

    Arguments
    ---------
    x, weight, bias, mask, reverse
        As in :func:`convolution_forward`.
    grad_y : torch.Tensor
        (batch, length, channels), the last axis contiguous.
    grad_x : torch.Tensor
        Where to put the gradient of x.

    Returns
    -------
    grad_weight : torch.Tensor
        (channels, width).
    grad_bias : torch.Tensor
        (channels).
    """
    fields = _convolution_fields(x, weight, bias, mask)
    channels, width = weight.shape
    blocks = math.ceil(len(x) / fields["rows"])
    grad_weight = x.new_empty(blocks, width, channels)
    grad_bias = x.new_empty(blocks, channels)
    fields.update(
        grad_y=grad_y,
        grad_x=grad_x,
        grad_weight=grad_weight,
        grad_bias=grad_bias,
    )
    _call("convolution_backward", _Convolution, fields, reverse, x.numel())
    return grad_weight.sum(0).T, grad_bias.sum(0)


def _convolution_fields(x, weight, bias, mask):
    batch, length, channels = x.shape
    return {
        "batch": batch,
        "length": length,
        "channels": channels,
        "width": weight.shape[1],
        **_split(batch, batch, channels),
        "x": x,
        "mask": mask,
        "weight": weight.T.contiguous(),
        "bias": _contiguous(bias),
    }


def _contiguous(x):
    return None if x is None else x.contiguous()


def _split(sequences, batch, width):
    """Sequences a block, and pieces of the channels and their width."""
    splits = math.ceil(_MIN_TASKS / sequences)
    part_width = math.ceil(width / splits / _MIN_PART) * _MIN_PART
    return {
        "rows": math.ceil(batch / _MAX_BLOCKS),
        "splits": math.ceil(width / part_width),
        "part_width": part_width,
    }


def _call(name, structure, fields, reverse, elements, constant=()):
    """Calls a function of the library; fields not given are 0 or NULL.

    Fields that are ``constant`` have no time axis to reverse.
    """
    kinds = dict(structure._fields_)
    arguments = structure()
    for field, value in fields.items():
        if kinds[field] in (_Tensor, _Projection):
            has_time = field not in constant
            value = kinds[field].of(value, reverse and has_time)
        elif isinstance(value, torch.Tensor):
            value = value.data_ptr()
        setattr(arguments, field, value)
    # All of them or one: OpenMP would end threads that a smaller team leaves
    # out, and start them again for PyTorch.
    threads = 1
    if elements >= _MIN_ELEMENTS:
        threads = torch.get_num_threads()
    first = fields["u"] if "u" in fields else fields["x"]
    failed = getattr(load(), name)(
        ctypes.byref(arguments),
        ctypes.c_int(instruction_set()),
        ctypes.c_int(first.dtype == torch.double),
        ctypes.c_int64(threads),
    )
    if failed:
        raise MemoryError(f"selective_scan: no memory for {threads} threads.")


@functools.lru_cache(maxsize=1)
def instruction_set():
    """Number of the best instruction set that this machine has."""
    return load().best_instruction_set()
