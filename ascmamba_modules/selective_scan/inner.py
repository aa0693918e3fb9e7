"""All of a Mamba block between its outer projections, by any engine."""

import torch
import torch.nn.functional as F

from ascmamba_modules.selective_scan.cpu.engine import mamba_inner_cpu
from ascmamba_modules.selective_scan.interface import (
    check_shapes,
    choose_engine,
    selective_scan,
)
from ascmamba_modules.selective_scan.triton.mamba import mamba_inner_triton


def mamba_inner(
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
    engine="auto",
):
    """Convolution, selective scan and gate of a Mamba block.

    The engines "cpu" and "triton" have kernels for all of it; the others run
    the scan alone, between operations of PyTorch.

    Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with
    Selective State Spaces", 2023, section 3.4 and figure 3.

    Arguments
    ---------
    xz : torch.Tensor
        Input of the convolution and gate, side by side (batch, length, 2 E).
    conv_weight : torch.Tensor
        Depthwise convolution (E, width).
    conv_bias : torch.Tensor or None
        (E).
    x_proj_weight : torch.Tensor
        Projection to step sizes, B and C (rank + 2 N, E).
    dt_proj_weight, dt_proj_bias : torch.Tensor
        Projection of the step sizes (E, rank) and (E).
    A : torch.Tensor
        Decay rates (E, N), negative.
    D : torch.Tensor or None
        Weight of the direct path (E).
    mask : torch.Tensor, optional
        (batch, length), 1 at steps that belong to a sequence and 0 at
        padding, which the state passes at zero.
    reverse : bool
        Whether to read time backwards, from the last step to the first.
    engine : str
        As in :func:`~ascmamba_modules.selective_scan.selective_scan`.

    Returns
    -------
    torch.Tensor
        (batch, length, E), of xz's type.

    Raises
    ------
    ValueError
        For shapes that do not fit, or an unknown engine.
    RuntimeError
        If the engine asked for cannot run here, with reason and remedy.

    Example
    -------
    >>> xz, A = torch.rand(2, 50, 16), -torch.rand(8, 4)
    >>> conv_weight, conv_bias = torch.rand(8, 3), torch.rand(8)
    >>> weights = torch.rand(1 + 2 * 4, 8), torch.rand(8, 1), torch.rand(8)
    >>> mamba_inner(xz, conv_weight, conv_bias, *weights, A, None).shape
    torch.Size([2, 50, 8])
    """
    weights = (
        *(conv_weight, conv_bias, x_proj_weight, dt_proj_weight, dt_proj_bias),
        *(A, D),
    )
    _check_shapes(xz, *weights)
    if mask is not None:
        mask = mask.expand(xz.shape[:2])
    engine = choose_engine(engine, xz, A)
    if engine == "triton":
        weights = (w if w is None else w.unsqueeze(0) for w in weights)
        return mamba_inner_triton(
            xz.unsqueeze(2), *weights, mask, int(reverse)
        ).squeeze(2)
    if engine == "cpu":
        full = torch.promote_types(xz.dtype, torch.float32)
        inputs = (x if x is None else x.to(full) for x in (xz, *weights, mask))
        with torch.autocast(xz.device.type, enabled=False):
            return mamba_inner_cpu(*inputs, reverse).to(xz.dtype)
    return _mamba_inner(xz, *weights, mask, reverse, engine)


def _mamba_inner(
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
    engine,
):
    """With any engine of the scan."""
    u, z = xz.chunk(2, dim=-1)  # each (B, L, E)
    if mask is not None:
        mask = mask.unsqueeze(-1).to(u.dtype)  # (B, L, 1)
        u = u * mask
    u = F.silu(_causal_convolution(u, conv_weight, conv_bias, reverse))
    if mask is not None:
        u = u * mask
    rank, states = dt_proj_weight.shape[1], A.shape[1]
    step, B, C = F.linear(u, x_proj_weight).split(
        [rank, states, states], dim=-1
    )  # (B, L, R), (B, L, N), (B, L, N)
    # The bias goes into the scan, which adds it in full precision.
    delta = F.linear(step, dt_proj_weight)  # (B, L, E)
    y = selective_scan(
        u.transpose(1, 2),  # (B, E, L)
        delta.transpose(1, 2),
        A,
        B.transpose(1, 2),  # (B, N, L)
        C.transpose(1, 2),
        D,
        z=z.transpose(1, 2),
        delta_bias=dt_proj_bias,
        delta_softplus=True,
        engine=engine,
        reverse=reverse,
    )
    return y.transpose(1, 2)  # (B, L, E)


def _causal_convolution(u, weight, bias, reverse):
    # As an image of height 1 whose channels are last in memory: oneDNN has a
    # fast depthwise kernel for those, not for sequences.
    image = u.transpose(1, 2).unsqueeze(2)  # (B, E, 1, L)
    weight = weight[:, None, None]  # (E, 1, 1, width)
    padding = weight.shape[3] - 1
    image = F.conv2d(
        image,
        weight.flip(3) if reverse else weight,
        bias,
        padding=(0, padding),
        groups=len(weight),
    )
    # Padded at both ends; each direction keeps what lies in its past.
    first = padding if reverse else 0
    image = image[..., first : first + u.shape[1]]
    return image.squeeze(2).transpose(1, 2)  # (B, L, E)


def _check_shapes(
    xz,
    conv_weight,
    conv_bias,
    x_proj_weight,
    dt_proj_weight,
    dt_proj_bias,
    A,
    D,
):
    if xz.dim() != 3 or xz.numel() == 0 or xz.shape[2] % 2:
        raise ValueError(
            "mamba_inner: xz must be (batch, length, 2 E), batch and length "
            f"not 0, got {tuple(xz.shape)}."
        )
    channels = xz.shape[2] // 2
    width, rank, states = (
        x.shape[1] if x.dim() == 2 else 1
        for x in (conv_weight, dt_proj_weight, A)
    )
    check_shapes(
        "mamba_inner",
        conv_weight=(conv_weight, (channels, width)),
        conv_bias=(conv_bias, (channels,)),
        x_proj_weight=(x_proj_weight, (rank + 2 * states, channels)),
        dt_proj_weight=(dt_proj_weight, (channels, rank)),
        dt_proj_bias=(dt_proj_bias, (channels,)),
        A=(A, (channels, states)),
        D=(D, (channels,)),
    )
