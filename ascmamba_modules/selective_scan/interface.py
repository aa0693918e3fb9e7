"""One entry to the selective scan, whichever engine computes it."""

import logging

import torch
import torch.nn.functional as F
from speechbrain.utils.logger import get_logger

from ascmamba_modules.selective_scan import mamba_ssm_engine
from ascmamba_modules.selective_scan.cpu import library as cpu_library
from ascmamba_modules.selective_scan.cpu.engine import scan_cpu
from ascmamba_modules.selective_scan.torch_engine import scan_torch
from ascmamba_modules.selective_scan.triton import (
    check as triton_check,
    engine as triton_engine,
)
from ascmamba_modules.selective_scan.triton.engine import scan_triton

logger = get_logger(__name__)

_logged_choices = set()


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    engine="auto",
    reverse=False,
):
    """Runs the input-dependent state space model of Mamba over a sequence.

    With step sizes d[t] = softplus(delta[t] + delta_bias),
    h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t] and
    y[t] = (C[t] h[t] + D u[t]) * silu(z[t]).
    Names, shapes, types and results are those of
    ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``, for real A;
    ``engine`` and ``reverse`` come on top.  The state is kept in float32
    (float64 for float64 input), whatever the type of the inputs and under
    autocast too.

    Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with
    Selective State Spaces", 2023, equations 2 and 4.

    Arguments
    ---------
    u : torch.Tensor
        Input (batch, channels, length).
    delta : torch.Tensor
        Step sizes before bias and softplus (batch, channels, length).
    A : torch.Tensor
        Decay rates (channels, state), negative for a stable system.
    B, C : torch.Tensor
        Projections into and out of the state: (batch, state, length),
        (batch, groups, state, length) or, if constant, (channels, state).
    D : torch.Tensor, optional
        Weight of the direct path (channels).
    z : torch.Tensor, optional
        Gate before its SiLU (batch, channels, length).
    delta_bias : torch.Tensor, optional
        Added to delta (channels).
    delta_softplus : bool
        Whether step sizes pass through a softplus.
    return_last_state : bool
        Whether to return the state after the last step as well.
    engine : str
        "auto" takes the fastest engine that runs here, and logs which once;
        "torch" runs anywhere; "cpu" is compiled for CPUs when the package is
        installed; "triton" is compiled for the GPU at its first call, and
        knows no float64; "mamba_ssm" is the CUDA kernel of mamba-ssm, which
        knows neither float64 nor a gradient through the last state.
    reverse : bool
        Whether to read time backwards, from the last step to the first.

    Returns
    -------
    torch.Tensor
        Output (batch, channels, length), of u's type.
    torch.Tensor
        Last state (batch, channels, state); only if asked for.

    Raises
    ------
    ValueError
        For shapes, types or devices that do not fit, or an unknown engine.
    RuntimeError
        If the engine asked for cannot run here, with reason and remedy.

    Example
    -------
    >>> u, delta = torch.rand(2, 8, 50), torch.rand(2, 8, 50)
    >>> A, B, C = -torch.rand(8, 16), torch.rand(2, 16, 50), torch.rand(8, 16)
    >>> y, state = selective_scan(u, delta, A, B, C, return_last_state=True)
    >>> y.shape, state.shape
    (torch.Size([2, 8, 50]), torch.Size([2, 8, 16]))
    """
    tensors = {
        "u": u,
        "delta": delta,
        "A": A,
        "B": B,
        "C": C,
        "D": D,
        "z": z,
        "delta_bias": delta_bias,
    }
    _check_types(tensors)
    B, C = _with_group_axis(B), _with_group_axis(C)
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    engine = choose_engine(engine, u, A, return_last_state)
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    if engine == "mamba_ssm":
        if reverse:
            inputs = _flipped(*inputs)
        results = mamba_ssm_engine.scan_mamba_ssm(
            *inputs, delta_softplus, return_last_state
        )
        if not reverse:
            return results
        if return_last_state:
            return results[0].flip(2), results[1]
        return results.flip(2)
    if engine == "triton":
        # One direction; tensors stay where and of what type they are.
        inputs = (x if x is None else x.unsqueeze(0) for x in inputs)
        y, last_state = scan_triton(*inputs, delta_softplus, int(reverse))
        return (y[0], last_state[0]) if return_last_state else y[0]
    with torch.autocast(u.device.type, enabled=False):
        full = torch.promote_types(u.dtype, torch.float32)
        inputs = [x if x is None else x.to(full) for x in inputs]
        if engine == "cpu":
            y, last_state = scan_cpu(*inputs, delta_softplus, reverse)
        else:
            y, last_state = _scan_torch(*inputs, delta_softplus, reverse)
    y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def engine_status(device="cpu"):
    """Says which engines can run on a device, fastest first.

    Arguments
    ---------
    device : str or torch.device
        Where the inputs of the scan will be.

    Returns
    -------
    dict
        For each engine None if it runs, else the reason why it does not.

    Example
    -------
    >>> engine_status("cpu")["torch"] is None
    True
    """
    kind = torch.device(device).type
    not_on_gpu = "the tensors are not on a CUDA GPU; move the model there"
    # That triton is the faster one on GPUs is expected, not measured: it
    # reads what a Mamba block has as it is, where mamba_ssm needs copies.
    status = {
        "triton": not_on_gpu,
        "mamba_ssm": not_on_gpu,
        "cpu": "the tensors are not on the CPU; move the model there",
        "torch": None,
    }
    if kind == "cuda":
        status["triton"] = triton_check.unavailable_reason()
        status["mamba_ssm"] = mamba_ssm_engine.unavailable_reason()
    if kind == "cpu":
        if triton_engine.interpreting():
            status["triton"] = triton_engine.missing_reason()
        status["cpu"] = cpu_library.unavailable_reason()
    return status


def check_engine(engine):
    """Raises an error unless ``engine`` can run on this machine.

    Arguments
    ---------
    engine : str
        "auto" or the name of an engine.

    Raises
    ------
    ValueError
        If there is no engine of that name.
    RuntimeError
        If it can run on no device of this machine, with reason and remedy.

    Example
    -------
    >>> check_engine("torch")
    """
    _check_name(engine)
    if engine == "triton" and triton_engine.interpreting():
        _raise_unavailable(engine, triton_engine.missing_reason())
        return
    never = {
        "triton": triton_check,
        "mamba_ssm": mamba_ssm_engine,
        "cpu": cpu_library,
    }
    if engine in never:
        _raise_unavailable(engine, never[engine].unavailable_reason())


def _check_name(engine):
    names = ("auto", *engine_status())
    if engine not in names:
        raise ValueError(
            f"Unknown engine '{engine}' for selective_scan; "
            f"choose from {', '.join(names)}."
        )


def _raise_unavailable(engine, reason):
    if reason:
        raise RuntimeError(f"Engine '{engine}' cannot run here: {reason}.")


def choose_engine(engine, u, A, return_last_state=False):
    """Names the engine that a scan will take.

    Arguments
    ---------
    engine : str
        "auto" or the name of an engine.
    u, A : torch.Tensor
        As in :func:`selective_scan`; their devices and types count.
    return_last_state : bool
        As in :func:`selective_scan`.

    Returns
    -------
    str

    Raises
    ------
    ValueError, RuntimeError
        As :func:`selective_scan` does.

    Example
    -------
    >>> choose_engine("torch", torch.rand(1, 4, 7), torch.rand(4, 3))
    'torch'
    """
    if engine == "torch":
        return engine
    _check_name(engine)
    status = engine_status(u.device)
    status["triton"] = status["triton"] or triton_engine.unsupported_reason(u)
    status["mamba_ssm"] = status[
        "mamba_ssm"
    ] or mamba_ssm_engine.unsupported_reason(u, A)
    if engine != "auto":
        _raise_unavailable(engine, status[engine])
        return engine
    if u.device.type == "cpu":
        status["triton"] = status["triton"] or "it is interpreted, for tests"
    if return_last_state and torch.is_grad_enabled():
        del status["mamba_ssm"]  # it gives the last state no gradient
    choice = next(name for name, reason in status.items() if not reason)
    _log_once(choice, u.device.type, status)
    return choice


def _log_once(choice, device, status):
    if (choice, device) in _logged_choices:
        return
    _logged_choices.add((choice, device))
    # Nobody on a CPU asked for the engines of GPUs.
    names = ("cpu",) if device == "cpu" else status
    passed_over = [f"{k}: {status[k]}" for k in names if status[k]]
    # Slow where it need not be is worth a warning.
    slow = choice == "torch" and device in ("cpu", "cuda")
    logger.log(
        logging.WARNING if slow else logging.INFO,
        "Selective scan on %s: engine '%s'%s",
        device,
        choice,
        f" ({'; '.join(passed_over)})" if passed_over else "",
    )


def _scan_torch(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    if reverse:
        u, delta, A, B, C, D, z, delta_bias = _flipped(
            u, delta, A, B, C, D, z, delta_bias
        )
    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    if delta_softplus:
        delta = F.softplus(delta)
    y, last_state = scan_torch(u, delta, A, B, C)
    if D is not None:
        y = torch.addcmul(y, u, D.unsqueeze(-1))
    if z is not None:
        y = y * F.silu(z)
    return y.flip(2) if reverse else y, last_state


def _flipped(u, delta, A, B, C, D, z, delta_bias):
    """The inputs with time running backwards."""
    u, delta, z = (x if x is None else x.flip(2) for x in (u, delta, z))
    B, C = (x.flip(3) if x.dim() == 4 else x for x in (B, C))
    return u, delta, A, B, C, D, z, delta_bias


def _with_group_axis(projection):
    """(B, N, L) is one group for all channels."""
    return projection.unsqueeze(1) if projection.dim() == 3 else projection


def _check_types(tensors):
    device = tensors["u"].device
    for name, x in tensors.items():
        if x is None:
            continue
        if x.is_complex():
            raise ValueError(f"selective_scan: {name} must be real.")
        if not x.is_floating_point():
            raise ValueError(
                f"selective_scan: {name} must be of a floating-point type, "
                f"got {x.dtype}."
            )
        if x.device != device:
            raise ValueError(
                f"selective_scan: {name} is on {x.device}, u on {device}; "
                "move them together."
            )


def _check_shapes(u, delta, A, B, C, D, z, delta_bias):
    if u.dim() != 3:
        raise ValueError(
            "selective_scan: u must be (batch, channels, length), got "
            f"{tuple(u.shape)}."
        )
    batch, channels, length = u.shape
    if u.numel() == 0 or A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(
            f"selective_scan: A must be ({channels}, state), and batch and "
            f"length not 0, got A {tuple(A.shape)} and u {tuple(u.shape)}."
        )
    state = A.shape[1]
    expected = {
        "delta": (delta, (batch, channels, length)),
        "z": (z, (batch, channels, length)),
        "D": (D, (channels,)),
        "delta_bias": (delta_bias, (channels,)),
    }
    for name, projection in (("B", B), ("C", C)):
        shape = (channels, state)
        if projection.dim() == 4:
            shape = (batch, projection.shape[1], state, length)
            if projection.shape[1] == 0 or channels % projection.shape[1]:
                raise ValueError(
                    f"selective_scan: {channels} channels do not divide into "
                    f"the {projection.shape[1]} groups of {name}."
                )
        expected[name] = (projection, shape)
    check_shapes("selective_scan", **expected)


def check_shapes(function, **expected):
    """Raises an error unless tensors have the shapes expected of them.

    Arguments
    ---------
    function : str
        What takes them.
    **expected
        For each name a tensor, or None, and its shape.

    Raises
    ------
    ValueError
        For the first that has another shape.

    Example
    -------
    >>> check_shapes("selective_scan", D=(torch.ones(4), (4,)), z=(None, (4,)))
    """
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{function}: {name} must be {shape}, "
                f"got {tuple(tensor.shape)}."
            )
