"""Causal depthwise convolution with SiLU in Triton, forward and backward.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.4 and figure 3 (the convolution before the scan).

y[t] = silu(bias + sum over i of weight[width - 1 - i] x[t - i]), x and y times
a mask if there is one.  A program is one warp and goes through a run of tiles
(step, channel); what a tile needs of its neighbours is read again, from the
cache.  The grid is (runs, blocks of channels, directions).

This file imports Triton, and is imported where the kernels are asked for.
"""

import math

import torch
import triton
import triton.language as tl

from ascmamba_modules.selective_scan.triton.engine import device_of
from ascmamba_modules.selective_scan.triton.kernels import (
    read,
    reading,
    sigmoid,
)

# A tile: with what it needs of its neighbours it fits into registers.
_STEPS, _BLOCK = 8, 32
# Enough programs for any GPU, and the same for all, as the order of sums over
# time depends on it.
_MAX_PROGRAMS = 8192
_UNSPECIALISED = ["batch", "length", "tiles", "backwards", "mask_strides"]


@triton.jit
def _tile_of(x, x_strides, mask, mask_t, t, first, sign, length, c, in_block):
    """x times the mask at steps t, 0 where there are none: (step, channel)."""
    inside = (t >= 0) & (t < length)
    at = (first + sign * t).to(tl.int64)
    tile = read(
        x + (at * x_strides[2])[:, None] + (c * x_strides[3])[None, :],
        inside[:, None] & in_block[None, :],
    )
    if mask is not None:
        tile *= read(mask + at * mask_t, inside)[:, None]
    return tile


@triton.jit
def _weights_of(weight, bias, channel, in_block, WIDTH: tl.constexpr):
    """The taps, oldest step first, and the bias, each (1, channel)."""
    weights = ()
    for i in tl.static_range(WIDTH):
        tap = read(weight + channel * WIDTH + i, in_block)
        weights = weights + (tap[None, :],)
    if bias is None:
        offset = tl.zeros(channel.shape, tl.float32)
    else:
        offset = read(bias + channel, in_block)
    return weights, offset[None, :]


@triton.jit(do_not_specialize=_UNSPECIALISED)
def _forward(
    x,
    weight,
    bias,
    mask,
    y,
    x_strides,
    mask_strides,
    batch,
    length,
    channels,
    tiles,
    backwards,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y lies contiguous as (batch, step, direction, channel)."""
    directions = tl.num_programs(2)
    first, sign = reading(tl.program_id(2), length, backwards)
    k = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_block = c < channels
    weights, offset = _weights_of(
        weight, bias, k * channels + c, in_block, WIDTH
    )
    tiles_each = tl.cdiv(length, STEPS)
    first_tile = tl.program_id(0).to(tl.int64) * tiles
    for i_tile in tl.range(tl.minimum(tiles, batch * tiles_each - first_tile)):
        b = (first_tile + i_tile) // tiles_each
        start = (first_tile + i_tile) % tiles_each * STEPS
        t = start + tl.arange(0, STEPS)
        x_b = x + k * x_strides[0] + b * x_strides[1]
        mask_b, mask_t = mask, mask_strides[1]
        if mask is not None:
            mask_b = mask + b * mask_strides[0]
        total = tl.zeros([STEPS, BLOCK], tl.float32) + offset
        for i in tl.static_range(WIDTH):
            total += weights[i] * _tile_of(
                x_b,
                x_strides,
                mask_b,
                mask_t,
                t + (i - WIDTH + 1),
                first,
                sign,
                length,
                c,
                in_block,
            )
        out = total * sigmoid(total)
        at = (first + sign * t).to(tl.int64)
        if mask is not None:
            out *= read(mask_b + at * mask_t, t < length)[:, None]
        row = (b * length + at) * directions + k
        tl.store(
            y + (row * channels)[:, None] + c[None, :],
            out.to(y.dtype.element_ty),
            mask=(t < length)[:, None] & in_block[None, :],
        )


@triton.jit(do_not_specialize=_UNSPECIALISED)
def _backward(
    x,
    weight,
    bias,
    mask,
    grad_y,
    grad_x,
    grad_weight,
    grad_bias,
    x_strides,
    grad_y_strides,
    grad_x_strides,
    mask_strides,
    batch,
    length,
    channels,
    tiles,
    backwards,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_weight (direction, run, tap, channel) is to be summed over runs."""
    first, sign = reading(tl.program_id(2), length, backwards)
    k = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_block = c < channels
    weights, offset = _weights_of(
        weight, bias, k * channels + c, in_block, WIDTH
    )
    sums = ()
    for _ in tl.static_range(WIDTH + 1):
        sums = sums + (tl.zeros([STEPS, BLOCK], tl.float32),)
    tiles_each = tl.cdiv(length, STEPS)
    first_tile = tl.program_id(0).to(tl.int64) * tiles
    for i_tile in tl.range(tl.minimum(tiles, batch * tiles_each - first_tile)):
        b = (first_tile + i_tile) // tiles_each
        start = (first_tile + i_tile) % tiles_each * STEPS
        t = start + tl.arange(0, STEPS)
        x_b = x + k * x_strides[0] + b * x_strides[1]
        grad_y_b = grad_y + k * grad_y_strides[0] + b * grad_y_strides[1]
        grad_x_b = grad_x + k * grad_x_strides[0] + b * grad_x_strides[1]
        mask_b, mask_t = mask, mask_strides[1]
        if mask is not None:
            mask_b = mask + b * mask_strides[0]
        # All that the outputs see which see this tile.
        inputs = ()
        for i in tl.static_range(2 * WIDTH - 1):
            tile = _tile_of(
                x_b,
                x_strides,
                mask_b,
                mask_t,
                t + (i - WIDTH + 1),
                first,
                sign,
                length,
                c,
                in_block,
            )
            inputs = inputs + (tile,)
        total = tl.zeros([STEPS, BLOCK], tl.float32)
        for later in tl.static_range(WIDTH):
            # Gradient of the convolution, `later` steps after the tile.
            output = tl.zeros([STEPS, BLOCK], tl.float32) + offset
            for i in tl.static_range(WIDTH):
                output += weights[i] * inputs[later + i]
            gate = sigmoid(output)
            grad = _tile_of(
                grad_y_b,
                grad_y_strides,
                mask_b,
                mask_t,
                t + later,
                first,
                sign,
                length,
                c,
                in_block,
            )
            grad *= gate * (1.0 + output * (1.0 - gate))
            total += weights[WIDTH - 1 - later] * grad
            if later == 0:
                new_sums = ()
                for i in tl.static_range(WIDTH):
                    new_sums = new_sums + (sums[i] + grad * inputs[i],)
                sums = new_sums + (sums[WIDTH] + grad,)
        at = (first + sign * t).to(tl.int64)
        if mask is not None:
            total *= read(mask_b + at * mask_t, t < length)[:, None]
        to = grad_x_b + (at * grad_x_strides[2])[:, None]
        tl.store(
            to + (c * grad_x_strides[3])[None, :],
            total.to(grad_x.dtype.element_ty),
            mask=(t < length)[:, None] & in_block[None, :],
        )
    slot = k * tl.num_programs(0) + tl.program_id(0)
    for i in tl.static_range(WIDTH):
        to = grad_weight + (slot * WIDTH + i) * channels + c
        tl.store(to, tl.sum(sums[i], 0), mask=in_block)
    if grad_bias is not None:
        to = grad_bias + slot * channels + c
        tl.store(to, tl.sum(sums[WIDTH], 0), mask=in_block)


def convolution_forward(x, weight, bias, mask, backwards):
    """SiLU of a causal depthwise convolution, of several directions at once.

    Arguments
    ---------
    x : torch.Tensor
        (directions, batch, length, channels), of any strides.
    weight : torch.Tensor
        (directions, channels, width).
    bias : torch.Tensor or None
        (directions, channels).
    mask : torch.Tensor or None
        (batch, length); x and the result are multiplied by it.
    backwards : int
        Bit k is set if direction k reads time backwards.

    Returns
    -------
    torch.Tensor
        (directions, batch, length, channels) of x's type, which lies in
        memory as (batch, length, directions, channels).

    Example
    -------
    >>> x, weight = torch.rand(2, 3, 50, 8), torch.rand(2, 8, 4)
    >>> if torch.cuda.is_available():
    ...     y = convolution_forward(x.cuda(), weight.cuda(), None, None, 0b10)
    """
    directions, batch, length, channels = x.shape
    y = x.new_empty(batch, length, directions, channels)
    tiles, grid, options = _geometry(x, weight)
    with device_of(x):
        _forward[grid](
            x,
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            mask,
            y,
            x.stride(),
            (0, 0) if mask is None else mask.stride(),
            *(batch, length, channels, tiles, backwards),
            **options,
        )
    return y.permute(2, 0, 1, 3)


def convolution_backward(x, weight, bias, mask, backwards, grad_y, grad_x):
    """The backward pass of :func:`convolution_forward`.

    Arguments
    ---------
    x, weight, bias, mask, backwards
        As in :func:`convolution_forward`.
    grad_y : torch.Tensor
        (directions, batch, length, channels), of any strides.
    grad_x : torch.Tensor
        Where to put the gradient of x, of any strides.

    Returns
    -------
    grad_weight : torch.Tensor
        (directions, channels, width), of weight's type.
    grad_bias : torch.Tensor or None
        (directions, channels), of bias's type.

    Example
    -------
    >>> x, weight = torch.rand(2, 3, 50, 8), torch.rand(2, 8, 4)
    >>> if torch.cuda.is_available():
    ...     x, weight, grad_x = x.cuda(), weight.cuda(), torch.empty_like(x)
    ...     grad_weight, _ = convolution_backward(
    ...         x, weight, None, None, 0, torch.ones_like(x), grad_x.cuda()
    ...     )
    """
    directions, batch, length, channels = x.shape
    tiles, grid, options = _geometry(x, weight)
    width = weight.shape[-1]
    shape = (directions, grid[0], width, channels)
    grad_weight = x.new_empty(shape, dtype=torch.float32)
    grad_bias = None if bias is None else torch.empty_like(grad_weight[:, :, 0])
    with device_of(x):
        _backward[grid](
            x,
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            mask,
            *(grad_y, grad_x, grad_weight, grad_bias),
            *(x.stride(), grad_y.stride(), grad_x.stride()),
            (0, 0) if mask is None else mask.stride(),
            *(batch, length, channels, tiles, backwards),
            **options,
        )
    grad_weight = grad_weight.sum(1).transpose(1, 2).to(weight.dtype)
    if bias is not None:
        grad_bias = grad_bias.sum(1).to(bias.dtype)
    return grad_weight, grad_bias


def _geometry(x, weight):
    """Tiles of a program, the grid, and constants for the kernels."""
    directions, batch, length, channels = x.shape
    splits = math.ceil(channels / _BLOCK)
    all_tiles = batch * math.ceil(length / _STEPS)
    tiles = math.ceil(all_tiles * splits * directions / _MAX_PROGRAMS)
    grid = (math.ceil(all_tiles / tiles), splits, directions)
    options = {
        "WIDTH": weight.shape[-1],
        "STEPS": _STEPS,
        "BLOCK": _BLOCK,
        "num_warps": 1,
    }
    return tiles, grid, options
