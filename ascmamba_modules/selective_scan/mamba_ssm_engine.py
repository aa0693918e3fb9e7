"""The selective scan by the CUDA kernel of the mamba-ssm package.

Source: https://github.com/state-spaces/mamba (Apache-2.0), installed by the
``cuda`` extra.  mamba-ssm can be present without a kernel that works, so what
counts is whether the kernel runs, not whether the import does.
"""

import functools
from math import lcm

import torch

_MAX_STATE = 256


@functools.lru_cache(maxsize=1)
def unavailable_reason():
    """Says why the kernel cannot run here.

    Returns
    -------
    str or None
        The reason with its remedy, None if the kernel runs.

    Example
    -------
    >>> reason = unavailable_reason()
    >>> reason is None or "GPU" in reason or "mamba-ssm" in reason
    True
    """
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to PyTorch; use engine='torch'"
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        x = torch.ones(1, 2, 4, device="cuda")
        selective_scan_fn(x, x, -x[0, :, :2], x[:, :2], x[:, :2])
        torch.cuda.synchronize()
    # A broken build fails in many ways (linker, missing symbol, wrong
    # architecture); each means the same here and is reported.
    except Exception as error:
        return (
            f"mamba-ssm's kernel does not run ({error!r}); install it with "
            "pip install 'ascmamba[cuda]' --no-build-isolation"
        )
    return None


def unsupported_reason(u, A):
    """Says why the kernel cannot take inputs, wherever they are.

    Arguments
    ---------
    u : torch.Tensor
        Input (batch, channels, length).
    A : torch.Tensor
        Decay rates (channels, state).

    Returns
    -------
    str or None
        The reason with its remedy, None if it takes them.

    Example
    -------
    >>> unsupported_reason(torch.rand(1, 4, 7), torch.rand(4, 3)) is None
    True
    """
    if u.dtype == torch.float64:
        return "its kernel knows no float64; use engine='torch'"
    if A.shape[1] > _MAX_STATE:
        return (
            f"its kernel takes up to {_MAX_STATE} states, not {A.shape[1]}; "
            "use engine='torch'"
        )
    return None


def scan_mamba_ssm(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
):
    """Calls ``mamba_ssm.ops.selective_scan_interface.selective_scan_fn``.

    Arguments and results are those of
    :func:`ascmamba_modules.selective_scan.selective_scan`, without ``engine``.
    The kernel gives the last state no gradient.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(
        *fit_to_kernel(u, delta, A, B, C, D, z, delta_bias),
        delta_softplus,
        return_last_state,
    )


def fit_to_kernel(u, delta, A, B, C, D, z, delta_bias):
    """Brings inputs into the form that the kernel demands.

    Parameters become contiguous float32, delta and z take u's type, and B
    and C, where they vary over time, the same number of groups.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias : torch.Tensor
        As in :func:`ascmamba_modules.selective_scan.selective_scan`, B and C
        with a group axis if they vary over time.

    Returns
    -------
    tuple
        The same eight in the same order.

    Example
    -------
    >>> x, A = torch.rand(1, 4, 7), -torch.rand(4, 3)
    >>> B, C = torch.rand(1, 2, 3, 7), torch.rand(1, 1, 3, 7)
    >>> inputs = fit_to_kernel(x, x, A, B, C, None, None, None)
    >>> inputs[4].shape
    torch.Size([1, 2, 3, 7])
    """
    A, D, delta_bias = (
        x if x is None else x.float().contiguous() for x in (A, D, delta_bias)
    )
    delta, z = (x if x is None else x.to(u.dtype) for x in (delta, z))
    B, C = _with_same_groups(B, C, u)
    B, C = (x.to(u.dtype) if x.dim() == 4 else x.float() for x in (B, C))
    return u, delta, A, B, C, D, z, delta_bias


def _with_same_groups(B, C, u):
    groups = {x.shape[1] for x in (B, C) if x.dim() == 4}
    if len(groups | {1}) == 1 or (len(groups) == 1 and B.dim() == C.dim()):
        return B, C
    if B.dim() == C.dim():
        common = lcm(*groups)
    else:  # a constant projection differs between channels: a group each
        common = u.shape[1]
    return tuple(
        x.repeat_interleave(common // x.shape[1], 1)
        if x.dim() == 4
        else x[None, :, :, None].expand(len(u), -1, -1, u.shape[2])
        for x in (B, C)
    )
