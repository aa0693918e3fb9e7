"""The selective scan by kernels in Triton, as functions of tensors.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.3.2 (states are recomputed in the backward pass
instead of stored) and figure 3.

Triton comes with PyTorch for Linux.  It is slow to import and absent
elsewhere, so that nothing here imports it before it is asked to run.  With the
environment variable TRITON_INTERPRET=1, set before the first scan, the kernels
run on the CPU, slowly, for tests.
"""

import contextlib
import functools
import importlib.util
import math
import os
from typing import NamedTuple

import torch

from ascmamba_modules.selective_scan.autograd import first_derivatives_only

# Steps from one state kept for the backward pass to the next.
CHUNK = 32
# Steps that are unrolled, which divide a chunk.  The backward pass keeps their
# states in registers, of which more steps leave too few.
_FORWARD_STEPS, _BACKWARD_STEPS = 4, 2
# One program is one warp: a channel for each lane.
_BLOCK = 32
# Programs of the backward pass, each with memory of its own; more than any
# GPU runs at once, and the same for all, so that results are.
_MAX_PROGRAMS = 4096


def interpreting():
    """Whether kernels are interpreted on the CPU.

    Returns
    -------
    bool

    Example
    -------
    >>> interpreting() in (True, False)
    True
    """
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def missing_reason():
    """Says why the kernels cannot even be interpreted on the CPU.

    Returns
    -------
    str or None
        The reason with its remedy, None if they can.

    Example
    -------
    >>> reason = missing_reason()
    >>> reason is None or "not installed" in reason
    True
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; use engine='torch'"
    return None


def unsupported_reason(u):
    """Says why the kernels cannot take inputs, wherever they are.

    Arguments
    ---------
    u : torch.Tensor
        Input of the scan.

    Returns
    -------
    str or None
        The reason with its remedy, None if they take it.

    Example
    -------
    >>> unsupported_reason(torch.rand(1, 4, 7)) is None
    True
    """
    if u.dtype == torch.float64:
        return "its kernels know no float64; use engine='torch'"
    return None


def scan_triton(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    reverse_mask=0,
):
    """Runs scans of several directions at once.

    All tensors are read where they are, in their types; the state and sums
    are float32.  Channels that lie next to each other are read fastest.

    Arguments
    ---------
    u, delta, z : torch.Tensor
        (directions, batch, channels, length).
    A : torch.Tensor
        (directions, channels, state).
    B, C : torch.Tensor
        (directions, batch, groups, state, length) or, if constant,
        (directions, channels, state).
    D, delta_bias : torch.Tensor
        (directions, channels).
    delta_softplus : bool
        Whether step sizes pass through a softplus.
    reverse_mask : int
        Bit k is set if direction k reads time in reverse.

    Returns
    -------
    y : torch.Tensor
        Output (directions, batch, channels, length), of u's type.
    last_state : torch.Tensor
        State after the last step (directions, batch, channels, state),
        float32.

    Example
    -------
    >>> u, A = torch.rand(2, 3, 8, 50), -torch.rand(2, 8, 4)
    >>> B = torch.rand(2, 3, 1, 4, 50)
    >>> if torch.cuda.is_available():  # forwards and in reverse
    ...     inputs = [x.cuda() for x in (u, u, A, B, B)]
    ...     y, last_state = scan_triton(*inputs, reverse_mask=0b10)
    """
    y, last_state = _Scan.apply(
        *(_steps_first(x) for x in (u, delta)),
        A,
        *(_steps_first(x) for x in (B, C)),
        D,
        _steps_first(z),
        delta_bias,
        delta_softplus,
        reverse_mask,
        torch.is_grad_enabled(),
    )
    return y.transpose(2, 3), last_state.transpose(2, 3)


def _steps_first(x):
    """Time before channels or states, unless x is constant over time."""
    return x if x is None or x.dim() == 3 else x.transpose(-1, -2)


class ScanInputs(NamedTuple):
    """What the scan reads: tensors of any strides and floating-point types."""

    u: torch.Tensor  # (directions, batch, length, channels)
    delta: torch.Tensor  # as u
    A: torch.Tensor  # (directions, channels, state)
    # (directions, batch, groups, length, state) or as A
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None  # (directions, channels)
    z: torch.Tensor | None  # as u
    delta_bias: torch.Tensor | None  # (directions, channels)
    delta_softplus: bool
    reverse_mask: int


class _Scan(torch.autograd.Function):
    """The tensors of :class:`ScanInputs`."""

    @staticmethod
    def forward(ctx, *arguments):
        *arguments, with_backward = arguments
        inputs = ScanInputs(*arguments)
        y, last_state, checkpoints = scan_forward(inputs, with_backward)
        if with_backward:
            ctx.save_for_backward(*inputs[:-2], checkpoints)
            ctx.options = inputs[-2:]
        return y, last_state

    @staticmethod
    @first_derivatives_only
    def backward(ctx, grad_y, grad_last_state):
        *tensors, checkpoints = ctx.saved_tensors
        inputs = ScanInputs(*tensors, *ctx.options)
        gradients, projections = scan_backward(
            inputs, checkpoints, grad_y, grad_last_state.contiguous()
        )
        for name in ("B", "C"):
            x = getattr(inputs, name)
            if x.dim() == 5:
                states = x.shape[-1]
                grad = projections[..., :states]
                projections = projections[..., states:]
                # (parts, B, L, K, N) -> (G, B, L, K, N)
                grad = grad.unflatten(0, (x.shape[2], -1)).sum(1)
                gradients[name] = grad.permute(3, 1, 0, 2, 4).to(x.dtype)
        return (
            *(
                gradients.get(name) if x is not None else None
                for name, x in zip(inputs._fields, inputs[:-2])
            ),
            *(None, None, None),
        )


def scan_forward(inputs, keep_checkpoints):
    """Runs the scans.

    Arguments
    ---------
    inputs : ScanInputs
    keep_checkpoints : bool
        Whether the backward pass will be asked for.

    Returns
    -------
    y : torch.Tensor
        (directions, batch, length, channels), of u's type.
    last_state : torch.Tensor
        (directions, batch, state, channels).
    checkpoints : torch.Tensor or None
        What the backward pass needs.
    """
    inputs = _for_kernels(inputs)
    u = inputs.u
    directions, batch, length, channels = u.shape
    states = inputs.A.shape[1]
    checkpoints = None
    if keep_checkpoints:
        n_checkpoints = (length - 1) // CHUNK
        checkpoints = _floats(
            u, directions, batch, n_checkpoints, states, channels
        )
    y = u.new_empty(batch, length, directions, channels)
    last_state = _floats(u, directions, batch, states, channels)
    sizes, parts, options = _geometry(inputs)
    with device_of(u):
        kernels().scan_forward[(directions * batch * parts,)](
            *_tensors(inputs),
            *(y, checkpoints, last_state),
            *_strides(u, inputs.delta, inputs.z, inputs.B, inputs.C),
            *sizes,
            STEPS=_FORWARD_STEPS,
            **options,
        )
    return y.permute(2, 0, 1, 3), last_state, checkpoints


def scan_backward(
    inputs, checkpoints, grad_y, grad_last_state=None, grad_z=None
):
    """Runs the backward pass of the scans.

    Arguments
    ---------
    inputs : ScanInputs
    checkpoints : torch.Tensor
        From :func:`scan_forward`.
    grad_y : torch.Tensor
        (directions, batch, length, channels).
    grad_last_state : torch.Tensor, optional
        (directions, batch, state, channels), contiguous float32.
    grad_z : torch.Tensor, optional
        Where to put the gradient of z (batch, length, directions, channels),
        with rows of equal distance.

    Returns
    -------
    gradients : dict
        Gradients by the name of the input, in its shape and type; but not
        those of B and C where they vary over time.
    projections : torch.Tensor or None
        (parts, batch, length, directions, n): the gradients of B and C where
        they vary over time, side by side, as float32.  They are the sums over
        the parts, of which each group has the same number.
    """
    given, inputs = inputs, _for_kernels(inputs)
    u, delta, z = inputs.u, inputs.delta, inputs.z
    directions, batch, length, channels = u.shape
    states = inputs.A.shape[1]
    sizes, parts, options = _geometry(inputs)
    rows = math.ceil(directions * batch * parts / _MAX_PROGRAMS)
    runs = math.ceil(batch / rows)
    programs = directions * runs * parts

    grad_y = _within_reach(grad_y)
    written = (batch, length, directions, channels)
    if grad_z is None and z is not None:
        grad_z = z.new_empty(written)
    per_sequence = {
        "u": u.new_empty(written),
        "delta": delta.new_empty(written),
        "z": grad_z,
    }
    constant = {"A": (states,), "D": (), "delta_bias": ()}
    varying = 0
    for name, x in (("B", inputs.B), ("C", inputs.C)):
        if x.dim() == 5:
            varying += 1
        else:
            constant[name] = (states,)
    constant = {
        name: _floats(u, directions, runs, *shape, channels)
        for name, shape in constant.items()
    }
    gradients = {**per_sequence, **constant}
    projections = None
    if varying:
        columns = varying * states
        projections = _floats(u, parts, batch, length, directions, columns)
    scratch = _floats(
        u,
        programs,
        CHUNK // _BACKWARD_STEPS,
        options["PADDED_STATES"],
        options["BLOCK"],
    )
    with device_of(u):
        kernels().scan_backward[(programs,)](
            *_tensors(inputs),
            *(checkpoints, scratch, grad_y, grad_last_state),
            *(gradients.get(name) for name in ("u", "delta", "z", "A")),
            *(gradients.get(name) for name in ("B", "C", "D", "delta_bias")),
            projections,
            *_strides(u, delta, z, inputs.B, inputs.C, grad_y),
            0 if grad_z is None else grad_z.stride(2),
            rows,
            *sizes,
            STEPS=_BACKWARD_STEPS,
            **options,
        )
    results = {
        name: None if x is None else x.permute(2, 0, 1, 3)
        for name, x in per_sequence.items()
    }
    for name, x in constant.items():
        parameter = getattr(given, name)
        if parameter is not None:
            x = x.sum(1)  # (K, [N,] E)
            x = x.transpose(1, 2) if x.dim() == 3 else x
            results[name] = x.to(parameter.dtype)
    return results, projections


@functools.lru_cache(maxsize=1)
def kernels():
    """Imports the kernels, and Triton with them.

    Returns
    -------
    module

    Example
    -------
    >>> if torch.cuda.is_available():
    ...     forward = kernels().scan_forward
    """
    if interpreting():
        _let_interpreter_count()
    from ascmamba_modules.selective_scan.triton import kernels as triton_kernels

    return triton_kernels


def _let_interpreter_count():
    """Triton 3.6 makes loop bounds of arrays as NumPy 2.4 forbids it."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda x: x.handle.data.item())

    interpreter._patch_lang_tensor = patch_with_index


def device_of(x):
    """Triton launches on the current GPU."""
    return (
        torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
    )


def _floats(like, *shape):
    return like.new_empty(shape, dtype=torch.float32)


def _for_kernels(inputs):
    """The inputs as the kernels expect them.

    What has no time axis is contiguous, states first.
    """
    changed = {}
    for name, x in zip(inputs._fields, inputs[:-2]):
        if x is None:
            continue
        if x.dim() == 2:
            changed[name] = x.contiguous()
        elif x.dim() == 3:
            changed[name] = x.transpose(1, 2).contiguous()  # (K, N, E)
        else:
            changed[name] = _within_reach(x)
    return inputs._replace(**changed)


def _within_reach(x):
    """Kernels find the steps of a sequence with 32 bits."""
    reach = sum(
        (size - 1) * stride
        for size, stride in zip(x.shape[-2:], x.stride()[-2:])
    )
    return x if reach < 2**31 else x.contiguous()


def _tensors(inputs):
    return tuple(
        getattr(inputs, name)
        for name in ("u", "delta", "z", "A", "B", "C", "D", "delta_bias")
    )


def _strides(*tensors):
    """Outer and inner strides of each, as the kernels expect them."""
    strides = []
    for x in tensors:
        if x is None or x.dim() == 3:  # absent or constant over time
            strides += [(0, 0, 0), (0, 0)]
        else:
            strides += [x.stride()[:-2], x.stride()[-2:]]
    return strides


def _geometry(inputs):
    """Sizes for the kernels, the parts of the channels, and constants."""
    directions, batch, length, channels = inputs.u.shape
    if 2 * length * directions * channels >= 2**31:
        raise ValueError(
            f"Engine 'triton' takes sequences of up to 2**30 elements, not "
            f"{length} steps of {directions * channels} channels; cut them."
        )
    states = inputs.A.shape[1]
    groups_of = [
        x.shape[2] if x.dim() == 5 else 1 for x in (inputs.B, inputs.C)
    ]
    groups = math.lcm(*groups_of)
    group_width = channels // groups
    splits = math.ceil(group_width / _BLOCK)
    sizes = (
        *(batch, length, channels, group_width, splits),
        *(groups // n for n in groups_of),
        inputs.reverse_mask,
    )
    options = {
        "STATES": states,
        "PADDED_STATES": max(4, 2 ** (states - 1).bit_length()),
        "BLOCK": _BLOCK,
        "CHUNK": CHUNK,
        "SOFTPLUS": bool(inputs.delta_softplus),
        "CONSTANT_B": inputs.B.dim() == 3,
        "CONSTANT_C": inputs.C.dim() == 3,
        "num_warps": 1,
    }
    return sizes, groups * splits, options
