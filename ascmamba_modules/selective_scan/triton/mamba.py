"""The inside of Mamba blocks by kernels in Triton, both directions at once.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.4 and figure 3.
"""

import torch

from ascmamba_modules.selective_scan.autograd import first_derivatives_only
from ascmamba_modules.selective_scan.triton import engine as triton_engine
from ascmamba_modules.selective_scan.triton.engine import ScanInputs


def mamba_inner_triton(
    xz,
    conv_weight,
    conv_bias,
    x_proj_weight,
    dt_proj_weight,
    dt_proj_bias,
    A,
    D,
    mask=None,
    reverse_mask=0b10,
):
    """All of a Mamba block between its outer projections.

    One launch each for the convolution with its SiLU and for the scan with
    step sizes, gate and direct path, whether there are one or two directions;
    batched matrix products between them, in the type of autocast or of xz.
    For the backward pass it keeps xz, step sizes before their projection, B
    and C, and every 32nd state; it computes the rest again.

    Arguments
    ---------
    xz : torch.Tensor
        What goes into the convolution, and the gate (batch, length,
        directions, 2 E), in float32, bfloat16 or float16.
    conv_weight : torch.Tensor
        (directions, E, width).
    conv_bias : torch.Tensor or None
        (directions, E).
    x_proj_weight : torch.Tensor
        (directions, rank + 2 N, E).
    dt_proj_weight : torch.Tensor
        (directions, E, rank).
    dt_proj_bias : torch.Tensor
        (directions, E).
    A : torch.Tensor
        (directions, E, N).
    D : torch.Tensor or None
        (directions, E).
    mask : torch.Tensor, optional
        (batch, length), 0 at padding, which the state passes at zero.
    reverse_mask : int
        Bit k is set if direction k reads time in reverse: 0b10 is a
        bidirectional pair, or one direction forwards; 1 is one in reverse.

    Returns
    -------
    torch.Tensor
        (batch, length, directions, E), of xz's type.

    Raises
    ------
    ValueError
        If batch or length are 0, or the type of xz is float64.

    Example
    -------
    >>> xz, weight = torch.rand(2, 7, 1, 8), torch.rand(1, 4, 3)
    >>> weights = torch.rand(1, 5, 4), torch.rand(1, 4, 1), torch.rand(1, 4)
    >>> inputs = xz, weight, None, *weights, -torch.rand(1, 4, 2), None
    >>> if torch.cuda.is_available():
    ...     inputs = (x if x is None else x.cuda() for x in inputs)
    ...     y = mamba_inner_triton(*inputs)
    """
    if xz.numel() == 0:
        raise ValueError(
            f"Mamba: batch and length must not be 0, got {tuple(xz.shape[:2])}."
        )
    problem = triton_engine.unsupported_reason(xz)
    if problem:
        raise ValueError(f"Mamba: engine 'triton' does not fit: {problem}.")
    if mask is not None:
        mask = mask.expand(xz.shape[:2])
        # Kernels read numbers.
        mask = mask.to(xz.dtype) if mask.dtype == torch.bool else mask
    kind = xz.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else xz.dtype
    with torch.autocast(kind, enabled=False):
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
            reverse_mask,
            dtype,
            torch.is_grad_enabled(),
        )


class _MambaInner(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        *tensors, reverse_mask, dtype, with_backward = arguments
        xz, conv_weight, conv_bias, x_proj_weight = tensors[:4]
        mask = tensors[8]
        u = _convolution().convolution_forward(
            _sequences(xz)[0], conv_weight, conv_bias, mask, reverse_mask
        )
        # (K, B L, E) @ (K, E, R + 2 N) -> (K, B L, R + 2 N)
        projections = torch.bmm(
            _rows(u).to(dtype), _turned(x_proj_weight, dtype)
        )
        inputs = _scan_inputs(xz, u, projections, *tensors[4:8], reverse_mask)
        y, _, checkpoints = triton_engine.scan_forward(inputs, with_backward)
        if with_backward:
            ctx.save_for_backward(*tensors, projections, checkpoints)
            ctx.reverse_mask = reverse_mask
        return y.permute(1, 2, 0, 3)  # (B, L, K, E)

    @staticmethod
    @first_derivatives_only
    def backward(ctx, grad_y):
        with torch.autocast(grad_y.device.type, enabled=False):
            return (*_backward(ctx, grad_y), *(None, None, None))


def _backward(ctx, grad_y):
    *tensors, projections, checkpoints = ctx.saved_tensors
    xz, conv_weight, conv_bias, x_proj_weight, dt_proj_weight = tensors[:5]
    mask, dtype = tensors[8], projections.dtype
    convolution = _convolution()
    x, _ = _sequences(xz)
    of_convolution = x, conv_weight, conv_bias, mask, ctx.reverse_mask
    u = convolution.convolution_forward(*of_convolution)
    inputs = _scan_inputs(xz, u, projections, *tensors[4:8], ctx.reverse_mask)

    grad_xz = torch.empty(xz.shape, dtype=xz.dtype, device=xz.device)
    grad_x, _ = _sequences(grad_xz)
    gradients, grad_BC = triton_engine.scan_backward(
        inputs,
        checkpoints,
        grad_y.permute(2, 0, 1, 3),
        grad_z=grad_xz.chunk(2, dim=-1)[1],
    )
    rank = dt_proj_weight.shape[2]
    grad_delta = _rows(gradients["delta"])  # (K, B L, E)
    grad_projections = torch.empty_like(projections)
    grad_projections[..., :rank] = torch.bmm(
        grad_delta, dt_proj_weight.to(dtype)
    )
    # (parts, B, L, K, 2 N) -> (K, B L, 2 N)
    grad_projections[..., rank:] = _rows(grad_BC.sum(0).permute(2, 0, 1, 3))
    grad_dt_proj_weight = torch.bmm(
        grad_delta.transpose(1, 2), projections[..., :rank]
    )
    grad_x_proj_weight = torch.bmm(
        grad_projections.transpose(1, 2), _rows(u).to(dtype)
    )
    grad_u = _rows(gradients["u"]).to(dtype)
    grad_u = torch.baddbmm(grad_u, grad_projections, x_proj_weight.to(dtype))
    grad_conv_weight, grad_conv_bias = convolution.convolution_backward(
        *of_convolution, grad_u.unflatten(1, xz.shape[:2]), grad_x
    )
    return (
        grad_xz,
        grad_conv_weight,
        grad_conv_bias,
        grad_x_proj_weight.to(x_proj_weight.dtype),
        grad_dt_proj_weight.to(dt_proj_weight.dtype),
        *(gradients.get(name) for name in ("delta_bias", "A", "D")),
        None,
    )


def _convolution():
    triton_engine.kernels()  # which prepares Triton
    from ascmamba_modules.selective_scan.triton import (
        convolution as triton_convolution,
    )

    return triton_convolution


def _sequences(xz):
    """Both halves of (batch, length, directions, 2 E), directions first."""
    return xz.permute(2, 0, 1, 3).chunk(2, dim=-1)


def _rows(x):
    """(directions, batch, length, n) -> (directions, batch * length, n)"""
    return x.flatten(1, 2)


def _turned(weight, dtype):
    """A weight as the right factor of a batched matrix product."""
    return weight.to(dtype).transpose(1, 2)


def _scan_inputs(
    xz, u, projections, dt_proj_weight, dt_proj_bias, A, D, reverse_mask
):
    rank, states = dt_proj_weight.shape[2], A.shape[2]
    step, B, C = projections.split([rank, states, states], dim=-1)
    delta = torch.bmm(step, _turned(dt_proj_weight, projections.dtype))
    return ScanInputs(
        u,
        delta.unflatten(1, u.shape[1:3]),
        A,
        *(x.unflatten(1, u.shape[1:3]).unsqueeze(2) for x in (B, C)),
        D,
        _sequences(xz)[1],
        dt_proj_bias,
        delta_softplus=True,
        reverse_mask=reverse_mask,
    )
