"""One entry to the selective scan, whichever engine computes it."""

import torch
import torch.nn.functional as F
from speechbrain.utils.logger import get_logger

from ascmamba_modules.selective_scan import mamba_ssm_engine
from ascmamba_modules.selective_scan.torch_engine import scan_torch

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
):
    """Runs the input-dependent state space model of Mamba over a sequence.

    With step sizes d[t] = softplus(delta[t] + delta_bias),
    h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t] and
    y[t] = (C[t] h[t] + D u[t]) * silu(z[t]).
    Names, shapes, types and results are those of
    ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``, for real A.
    The state is kept in float32 (float64 for float64 input), whatever the
    type of the inputs and under autocast too.

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
        "torch" runs anywhere; "mamba_ssm" is the CUDA kernel of mamba-ssm,
        which knows no float64 and no gradient through the last state.

    Returns
    -------
    torch.Tensor
        Output (batch, channels, length), of u's type.
    torch.Tensor
        Last state (batch, channels, state); only if asked for.

    Raises
    ------
    ValueError
        For shapes that do not fit, complex A, or an unknown engine.
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
    B, C = _with_group_axis(B), _with_group_axis(C)
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    engine = _choose(engine, u, A, return_last_state)
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    if engine == "mamba_ssm":
        return mamba_ssm_engine.scan_mamba_ssm(
            *inputs, delta_softplus, return_last_state
        )
    with torch.autocast(u.device.type, enabled=False):
        y, last_state = _scan_in_full_precision(inputs, delta_softplus)
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
    reason = "the tensors are not on a CUDA GPU; move the model there"
    if torch.device(device).type == "cuda":
        reason = mamba_ssm_engine.why_not()
    return {"mamba_ssm": reason, "torch": None}


def check_engine(engine):
    """Raises a ValueError unless ``engine`` is a name of an engine.

    Arguments
    ---------
    engine : str
        "auto" or the name of an engine.

    Example
    -------
    >>> check_engine("torch")
    """
    names = ("auto", *engine_status())
    if engine not in names:
        raise ValueError(
            f"Unknown engine '{engine}' for selective_scan; "
            f"choose from {', '.join(names)}."
        )


def _choose(engine, u, A, return_last_state):
    check_engine(engine)
    if engine == "torch":
        return engine
    status = engine_status(u.device)
    status["mamba_ssm"] = status["mamba_ssm"] or mamba_ssm_engine.misfit(u, A)
    if engine != "auto":
        if status[engine]:
            raise RuntimeError(
                f"Engine '{engine}' cannot run here: {status[engine]}."
            )
        return engine
    if return_last_state and torch.is_grad_enabled():
        return "torch"  # the one that gives the last state a gradient
    choice = next(name for name, reason in status.items() if not reason)
    if (choice, u.device.type) not in _logged_choices:
        _logged_choices.add((choice, u.device.type))
        passed_over = [f"{k}: {v}" for k, v in status.items() if v]
        logger.info(
            "Selective scan on %s: engine '%s'%s",
            u.device.type,
            choice,
            f" ({'; '.join(passed_over)})" if passed_over else "",
        )
    return choice


def _scan_in_full_precision(inputs, delta_softplus):
    double = inputs[0].dtype == torch.float64
    full = torch.float64 if double else torch.float32
    u, delta, A, B, C, D, z, delta_bias = (
        x if x is None else x.to(full) for x in inputs
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
    return y, last_state


def _with_group_axis(projection):
    """(B, N, L) is one group for all channels."""
    return projection.unsqueeze(1) if projection.dim() == 3 else projection


def _check_shapes(u, delta, A, B, C, D, z, delta_bias):
    if u.dim() != 3:
        raise ValueError(
            "selective_scan: u must be (batch, channels, length), got "
            f"{tuple(u.shape)}."
        )
    if A.is_complex() or B.is_complex() or C.is_complex():
        raise ValueError("selective_scan: A, B and C must be real.")
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
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"selective_scan: {name} must be {shape}, "
                f"got {tuple(tensor.shape)}."
            )
