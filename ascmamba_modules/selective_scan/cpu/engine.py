"""The selective scan, and the inside of a Mamba block, in compiled C.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.3.2 (states are recomputed in the backward pass
instead of stored) and figure 3.

Why C with GCC's and Clang's vector types: the same recurrence in plain PyTorch
(``torch_engine.py``) takes many times as long, see the README.  A forward
kernel in numba took 1.2 to 1.3 times as long (128 x 128 x 500), but each
process spent 4 s on compiling it, and numba with LLVM takes 200 MB of disk.
These kernels need no PyTorch to compile, some seconds once; the compiler keeps
the states in registers, and one source serves SSE2, AVX2 and AVX-512, and
should serve NEON, where it has not been tried.
"""

import torch
import torch.nn.functional as F

from ascmamba_modules.selective_scan.autograd import first_derivatives_only
from ascmamba_modules.selective_scan.cpu import library as cpu_library
from ascmamba_modules.selective_scan.cpu.library import ScanInputs


def scan_cpu(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse=False
):
    """Runs the scan; all tensors are float32, or all float64.

    Arguments are those of
    :func:`ascmamba_modules.selective_scan.selective_scan`, B and C with a
    group axis if they vary over time.  Layouts of memory in which channels
    lie next to each other, and the states of B and C, save a copy.

    Returns
    -------
    y : torch.Tensor
        Output (batch, channels, length).
    last_state : torch.Tensor
        State after the last step (batch, channels, state).

    Example
    -------
    >>> u, B = torch.rand(2, 4, 10), torch.rand(2, 1, 3, 10)
    >>> inputs = u, u, -torch.rand(4, 3), B, B, None, None, None, True
    >>> if cpu_library.unavailable_reason() is None:
    ...     y, last_state = scan_cpu(*inputs)
    """
    y, last_state = _Scan.apply(
        *(_channels_last(x) for x in (u, delta)),
        A,
        *(x.transpose(2, 3) if x.dim() == 4 else x for x in (B, C)),
        D,
        _channels_last(z),
        delta_bias,
        delta_softplus,
        reverse,
        torch.is_grad_enabled(),
    )
    return y.transpose(1, 2), last_state.transpose(1, 2)


def _channels_last(x):
    return None if x is None else x.transpose(1, 2)


def _last_contiguous(x):
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


class _Scan(torch.autograd.Function):
    """u, delta, z (B, L, D); A (D, N); B, C (B, G, L, N) or (D, N)."""

    @staticmethod
    def forward(
        ctx,
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        reverse,
        with_backward,
    ):
        tensors = [
            _last_contiguous(x) for x in (u, A, B, C, D, z, delta_bias, delta)
        ]
        inputs = _inputs(tensors, delta_softplus, reverse)
        y, last_state, checkpoints = cpu_library.scan_forward(
            inputs, with_backward
        )
        if with_backward:
            ctx.save_for_backward(*tensors, checkpoints)
            ctx.options = delta_softplus, reverse
        return y, last_state

    @staticmethod
    @first_derivatives_only
    def backward(ctx, grad_y, grad_last_state):
        *tensors, checkpoints = ctx.saved_tensors
        inputs = _inputs(tensors, *ctx.options)
        gradients, projections = cpu_library.scan_backward(
            inputs,
            checkpoints,
            _last_contiguous(grad_y),
            grad_last_state.contiguous(),
        )
        for name in ("B", "C"):
            x = getattr(inputs, name)
            if x.dim() == 4:
                states = x.shape[-1]
                grad, projections = (
                    projections[..., :states],
                    projections[..., states:],
                )
                # (parts, B, L, N) -> (B, G, L, N)
                grad = grad.unflatten(0, (x.shape[1], -1)).sum(1)
                gradients[name] = grad.transpose(0, 1)
        names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
        return (
            *(
                gradients[name] if getattr(inputs, name) is not None else None
                for name in names
            ),
            None,
            None,
            None,
        )


def _inputs(tensors, delta_softplus, reverse):
    u, A, B, C, D, z, delta_bias, delta = tensors
    return ScanInputs(
        u, A, B, C, D, z, delta_bias, delta_softplus, reverse, delta=delta
    )


def mamba_inner_cpu(
    xz,
    conv_weight,
    conv_bias,
    x_proj_weight,
    dt_proj_weight,
    dt_proj_bias,
    A,
    D,
    mask=None,
    reverse=False,
):
    """All of a Mamba block between its outer projections.

    One pass over memory each for the convolution with its SiLU and for the
    scan with step sizes, gate and direct path.

    Arguments
    ---------
    xz : torch.Tensor
        What goes into the convolution, and the gate (batch, length, 2 E);
        all tensors are float32, or all float64.
    conv_weight : torch.Tensor
        (E, width).
    conv_bias : torch.Tensor or None
        (E).
    x_proj_weight : torch.Tensor
        (rank + 2 N, E).
    dt_proj_weight : torch.Tensor
        (E, rank).
    dt_proj_bias : torch.Tensor
        (E).
    A : torch.Tensor
        (E, N).
    D : torch.Tensor
        (E).
    mask : torch.Tensor, optional
        (batch, length), 0 at padding, which the state passes at zero.
    reverse : bool
        Whether to read time backwards.

    Returns
    -------
    torch.Tensor
        (batch, length, E).

    Example
    -------
    >>> inputs = torch.rand(2, 7, 8), torch.rand(4, 3), torch.rand(4)
    >>> weights = torch.rand(5, 4), torch.rand(4, 1), torch.rand(4)
    >>> if cpu_library.unavailable_reason() is None:
    ...     y = mamba_inner_cpu(*inputs, *weights, -torch.rand(4, 2), None)
    """
    return _MambaInner.apply(
        xz,
        conv_weight,
        conv_bias,
        x_proj_weight,
        dt_proj_weight,
        dt_proj_bias,
        A,
        D,
        mask,
        reverse,
        torch.is_grad_enabled(),
    )


class _MambaInner(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        xz,
        conv_weight,
        conv_bias,
        x_proj_weight,
        dt_proj_weight,
        dt_proj_bias,
        A,
        D,
        mask,
        reverse,
        with_backward,
    ):
        xz = _last_contiguous(xz)
        x, z = xz.chunk(2, dim=-1)
        u = cpu_library.convolution_forward(
            x, conv_weight, conv_bias, mask, reverse
        )
        projections = F.linear(u, x_proj_weight)
        inputs = _inner_inputs(
            u, projections, z, dt_proj_weight, dt_proj_bias, A, D, reverse
        )
        y, _, checkpoints = cpu_library.scan_forward(inputs, with_backward)
        if with_backward:
            ctx.save_for_backward(
                *(xz, u, projections, checkpoints, mask),
                *(conv_weight, conv_bias, x_proj_weight),
                *(dt_proj_weight, dt_proj_bias, A, D),
            )
            ctx.reverse = reverse
        return y

    @staticmethod
    @first_derivatives_only
    def backward(ctx, grad_y):
        # Once: gradient checkpointing gives them no second time.
        xz, u, projections, checkpoints, mask, *weights = ctx.saved_tensors
        conv_weight, conv_bias, x_proj_weight, *of_scan = weights
        x, z = xz.chunk(2, dim=-1)
        inputs = _inner_inputs(u, projections, z, *of_scan, ctx.reverse)
        grad_xz = torch.empty_like(xz)
        grad_x, grad_z = grad_xz.chunk(2, dim=-1)
        gradients, grad_projections = cpu_library.scan_backward(
            inputs, checkpoints, _last_contiguous(grad_y), grad_z=grad_z
        )
        grad_projections = grad_projections.sum(0).flatten(0, 1)
        grad_u = gradients["u"].flatten(0, 1)  # (B L, E)
        grad_u.addmm_(grad_projections, x_proj_weight)
        grad_conv_weight, grad_conv_bias = cpu_library.convolution_backward(
            x,
            conv_weight,
            conv_bias,
            mask,
            ctx.reverse,
            grad_u.view_as(u),
            grad_x,
        )
        return (
            grad_xz,
            grad_conv_weight,
            None if conv_bias is None else grad_conv_bias,
            grad_projections.T @ u.flatten(0, 1),
            *(gradients[name] for name in ("weight", "delta_bias", "A")),
            None if inputs.D is None else gradients["D"],
            *(None, None, None),
        )


def _inner_inputs(
    u, projections, z, dt_proj_weight, dt_proj_bias, A, D, reverse
):
    rank, states = dt_proj_weight.shape[1], A.shape[1]
    step, B, C = projections.split([rank, states, states], dim=-1)
    return ScanInputs(
        u,
        A,
        B.unsqueeze(1),
        C.unsqueeze(1),
        D,
        z,
        dt_proj_bias,
        delta_softplus=True,
        reverse=reverse,
        step=step,
        weight=dt_proj_weight,
    )
