"""Kernels of the selective scan in Triton, forward and backward.

Sources: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.3.2 (states are recomputed in the backward pass
instead of stored); P. Tillet et al., "Triton: An Intermediate Language and
Compiler for Tiled Neural Network Computations", 2019.

One program is one warp.  It walks along time with the states of a block of
channels of one sequence in one direction; these states are a tile (state,
channel) in registers.  Programs share nothing that they write, so that
results are bitwise the same in every run.

What a kernel reads of a sequence has any strides, given as a tuple: direction,
batch, step, channel for u, delta and z; direction, batch, group, step, state
for B and C.  What it writes lies contiguous as (batch, step, direction,
channel), states as (direction, batch, ..., state, channel), parameters are
(direction, channel) and (direction, channel, state).  Bit k of ``backwards``
says that direction k reads time from its end: then the step t below counts
from there.
"""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)

_UNSPECIALISED = [
    *("batch", "length", "channels", "group_width", "splits", "columns"),
    *("groups_per_B", "groups_per_C", "backwards", "grad_z_row", "ranks"),
    *("u_strides", "delta_strides", "z_strides", "grad_y_strides"),
    *("B_strides", "C_strides"),
]


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return 1.0 / (1.0 + tl.exp2(-_LOG2_E * x))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) and its slope, of full relative precision."""
    e = tl.exp2(-_LOG2_E * tl.abs(x))
    # log(1 + e) = 2 artanh(s), whose series suits small values, too.
    s = e / (2.0 + e)  # at most 1 / 3
    q = s * s
    series = 1.0 / 13 + q * (1.0 / 15)
    series = 1.0 / 11 + q * series
    series = 1.0 / 9 + q * series
    series = 1.0 / 7 + q * series
    series = 1.0 / 5 + q * series
    series = 1.0 / 3 + q * series
    log = 2.0 * (s + s * (q * series))
    return tl.maximum(x, 0.0) + log, tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def read(pointers, mask):
    """Values as float32, 0 where the mask is."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step_size(pointers, bias, mask, inside, SOFTPLUS: tl.constexpr):
    """Step sizes (channel) and their slope, both 0 before the first step.

    A step of size 0 leaves the state as it is.
    """
    x = read(pointers, mask) + bias
    slope = tl.full(x.shape, 1.0, tl.float32)
    if SOFTPLUS:
        x, slope = _softplus(x)
    return tl.where(inside, x, 0.0), tl.where(inside, slope, 0.0)


@triton.jit
def _projection(pointers, constant, t, stride, mask, CONSTANT: tl.constexpr):
    """B or C at step t: (state, 1), or (state, channel) if constant."""
    if CONSTANT:
        return constant
    return read(pointers + t * stride, mask)[:, None]


@triton.jit
def reading(k, length, backwards):
    """The step that direction k reads first, and which way it goes (int64).

    Offsets of large tensors do not fit into 32 bits.
    """
    reverse = (backwards >> k) & 1
    return reverse * (length - 1), 1 - 2 * reverse


@triton.jit
def of_sequence(pointer, strides, k, b, first, c):
    """Pointers (channel) to the first step of a sequence."""
    start = k * strides[0] + b * strides[1] + first * strides[2]
    return pointer + start + c * strides[3]


@triton.jit
def _of_projection(pointer, strides, k, b, group, first, n):
    """Pointers (state) to the first step of a sequence."""
    start = k * strides[0] + b * strides[1]
    start += group * strides[2] + first * strides[3]
    return pointer + start + n * strides[4]


@triton.jit(do_not_specialize=_UNSPECIALISED)
def scan_forward(
    u,
    delta,
    z,
    A,
    B,
    C,
    D,
    bias,
    y,
    borders,
    last_state,
    u_strides,
    delta_strides,
    z_strides,
    B_strides,
    C_strides,
    batch,
    length,
    channels,
    group_width,
    splits,
    groups_per_B,
    groups_per_C,
    backwards,
    STATES: tl.constexpr,
    PADDED_STATES: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CONSTANT_B: tl.constexpr,
    CONSTANT_C: tl.constexpr,
):
    """y and the last state; keeps the state before every chunk but the first.

    The grid is (directions * batch * groups * splits): ``splits`` blocks of
    channels make a group.
    """
    parts = channels // group_width * splits
    part = tl.program_id(0) % parts
    row = (tl.program_id(0) // parts).to(tl.int64)
    k, b = row // batch, row % batch
    first, sign = reading(k, length, backwards)
    group = part // splits
    c = group * group_width + part % splits * BLOCK + tl.arange(0, BLOCK)
    in_block = c < (group + 1) * group_width
    n = tl.arange(0, PADDED_STATES)
    in_state = n < STATES
    in_tile = in_state[:, None] & in_block[None, :]
    state_offsets = n[:, None] * channels + c[None, :]

    u = of_sequence(u, u_strides, k, b, first, c)
    delta = of_sequence(delta, delta_strides, k, b, first, c)
    if z is not None:
        z = of_sequence(z, z_strides, k, b, first, c)
    if not CONSTANT_B:
        B = _of_projection(B, B_strides, k, b, group // groups_per_B, first, n)
    if not CONSTANT_C:
        C = _of_projection(C, C_strides, k, b, group // groups_per_C, first, n)
    directions = tl.num_programs(0) // (parts * batch)
    y_t = sign * directions * channels
    y += ((b * length + first) * directions + k) * channels + c

    parameter = k * channels + c
    rates = parameter[None, :] * STATES + n[:, None]
    A = read(A + rates, in_tile) * _LOG2_E
    if CONSTANT_B:
        B = read(B + rates, in_tile)
    if CONSTANT_C:
        C = read(C + rates, in_tile)
    direct = tl.zeros([BLOCK], tl.float32)
    if D is not None:
        direct = read(D + parameter, in_block)
    offset = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        offset = read(bias + parameter, in_block)

    # Unrolled steps may begin before the first one; there the state is 0.
    blocks = tl.cdiv(length, STEPS)
    before = blocks * STEPS - length
    n_borders = (length - 1) // CHUNK
    state = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
    for block in tl.range(blocks):
        if borders is not None:
            if (block > 0) & (block % (CHUNK // STEPS) == 0):
                border = row * n_borders + block // (CHUNK // STEPS) - 1
                to = borders + border * STATES * channels
                tl.store(to + state_offsets, state, mask=in_tile)
        for i in tl.static_range(STEPS):
            t = block * STEPS + i - before
            inside = t >= 0
            mask = in_block & inside
            u_t = read(u + t * (sign * u_strides[2]), mask)
            d, _ = _step_size(
                delta + t * (sign * delta_strides[2]),
                offset,
                mask,
                inside,
                SOFTPLUS,
            )
            B_t = _projection(
                B, B, t, sign * B_strides[3], in_state & inside, CONSTANT_B
            )
            C_t = _projection(
                C, C, t, sign * C_strides[3], in_state & inside, CONSTANT_C
            )
            state = tl.exp2(d[None, :] * A) * state + (d * u_t)[None, :] * B_t
            out = tl.sum(state * C_t, 0) + direct * u_t
            if z is not None:
                z_t = read(z + t * (sign * z_strides[2]), mask)
                out *= z_t * sigmoid(z_t)
            tl.store(y + t * y_t, out.to(y.dtype.element_ty), mask=mask)
    to = last_state + row * STATES * channels
    tl.store(to + state_offsets, state, mask=in_tile)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def scan_backward(
    u,
    delta,
    z,
    A,
    B,
    C,
    D,
    bias,
    borders,
    scratch,
    grad_y,
    grad_last_state,
    grad_u,
    grad_delta,
    grad_z,
    grad_A,
    grad_B,
    grad_C,
    grad_D,
    grad_bias,
    u_strides,
    delta_strides,
    z_strides,
    B_strides,
    C_strides,
    grad_y_strides,
    grad_z_row,
    columns,
    rows,
    batch,
    length,
    channels,
    group_width,
    splits,
    groups_per_B,
    groups_per_C,
    backwards,
    STATES: tl.constexpr,
    PADDED_STATES: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CONSTANT_B: tl.constexpr,
    CONSTANT_C: tl.constexpr,
):
    """Gradients of all that :func:`scan_forward` reads.

    The grid is (directions * runs * groups * splits): a program takes a run
    of ``rows`` sequences, so that their number does not make ``scratch``
    large, which has room for the states before every STEPS steps of a chunk.
    Gradients of B and C, where they vary over time, are sums over the
    channels of a program: grad_B and grad_C (part, batch, step, direction,
    ``columns``) are still to be summed over parts.  So are those of what is
    constant over time, (direction, run, ..., channel), over the runs.
    """
    parts = channels // group_width * splits
    part = tl.program_id(0) % parts
    slot = tl.program_id(0) // parts  # direction and run of sequences
    runs = tl.cdiv(batch, rows)
    k = (slot // runs).to(tl.int64)
    first_row = (slot % runs).to(tl.int64) * rows
    group = part // splits
    c = group * group_width + part % splits * BLOCK + tl.arange(0, BLOCK)
    in_block = c < (group + 1) * group_width
    n = tl.arange(0, PADDED_STATES)
    in_state = n < STATES
    in_tile = in_state[:, None] & in_block[None, :]
    state_offsets = n[:, None] * channels + c[None, :]
    tile = n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    scratch += tl.program_id(0).to(tl.int64) * (
        CHUNK // STEPS * PADDED_STATES * BLOCK
    )
    directions = tl.num_programs(0) // (parts * runs)

    first, sign = reading(k, length, backwards)
    step = sign * directions
    parameter = k * channels + c
    rates = parameter[None, :] * STATES + n[:, None]
    A = read(A + rates, in_tile) * _LOG2_E
    if CONSTANT_B:
        B = read(B + rates, in_tile)
    if CONSTANT_C:
        C = read(C + rates, in_tile)
    direct = tl.zeros([BLOCK], tl.float32)
    if D is not None:
        direct = read(D + parameter, in_block)
    offset = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        offset = read(bias + parameter, in_block)

    sum_A = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
    sum_B = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
    sum_C = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
    sum_D = tl.zeros([BLOCK], tl.float32)
    sum_bias = tl.zeros([BLOCK], tl.float32)
    for i_row in tl.range(tl.minimum(rows, batch - first_row)):
        b = first_row + i_row
        row = k * batch + b
        u_b = of_sequence(u, u_strides, k, b, first, c)
        delta_b = of_sequence(delta, delta_strides, k, b, first, c)
        if z is not None:
            z_b = of_sequence(z, z_strides, k, b, first, c)
        grad_y_b = of_sequence(grad_y, grad_y_strides, k, b, first, c)
        B_b, C_b = B, C
        if not CONSTANT_B:
            B_b = _of_projection(
                B, B_strides, k, b, group // groups_per_B, first, n
            )
        if not CONSTANT_C:
            C_b = _of_projection(
                C, C_strides, k, b, group // groups_per_C, first, n
            )
        written = (b * length + first) * directions + k
        grad_u_b = grad_u + written * channels + c
        grad_delta_b = grad_delta + written * channels + c
        if grad_z is not None:
            grad_z_b = grad_z + written * grad_z_row + c
        written += part.to(tl.int64) * batch * length * directions
        if not CONSTANT_B:
            grad_B_b = grad_B + written * columns + n
        if not CONSTANT_C:
            grad_C_b = grad_C + written * columns + n

        # Gradient of the state, from all that comes later.
        grad = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
        if grad_last_state is not None:
            at = grad_last_state + row * STATES * channels
            grad = read(at + state_offsets, in_tile)

        n_borders = (length - 1) // CHUNK
        all_blocks = tl.cdiv(length, STEPS)
        for chunk_from_end in tl.range(n_borders + 1):
            chunk = n_borders - chunk_from_end
            start = chunk * CHUNK - (all_blocks * STEPS - length)
            border = row * n_borders + chunk - 1
            state = read(
                borders + border * STATES * channels + state_offsets,
                in_tile & (chunk > 0),
            )
            blocks = tl.minimum(
                CHUNK // STEPS, all_blocks - chunk * (CHUNK // STEPS)
            )
            # Forwards, to have the state before every block of steps.
            for block in tl.range(blocks):
                tl.store(
                    scratch + block * (PADDED_STATES * BLOCK) + tile, state
                )
                if block + 1 < blocks:
                    for i in tl.static_range(STEPS):
                        t = start + block * STEPS + i
                        inside = t >= 0
                        mask = in_block & inside
                        u_t = read(u_b + t * (sign * u_strides[2]), mask)
                        d, _ = _step_size(
                            delta_b + t * (sign * delta_strides[2]),
                            offset,
                            mask,
                            inside,
                            SOFTPLUS,
                        )
                        B_t = _projection(
                            B_b,
                            B,
                            t,
                            sign * B_strides[3],
                            in_state & inside,
                            CONSTANT_B,
                        )
                        state = (
                            tl.exp2(d[None, :] * A) * state
                            + (d * u_t)[None, :] * B_t
                        )
            tl.debug_barrier()
            for block_from_end in tl.range(blocks):
                block = blocks - 1 - block_from_end
                state = tl.load(
                    scratch + block * (PADDED_STATES * BLOCK) + tile
                )
                # What goes through the steps of the block, in registers.
                inputs, sizes, slopes, decays, states = (), (), (), (), ()
                for i in tl.static_range(STEPS):
                    t = start + block * STEPS + i
                    inside = t >= 0
                    mask = in_block & inside
                    u_t = read(u_b + t * (sign * u_strides[2]), mask)
                    d, slope = _step_size(
                        delta_b + t * (sign * delta_strides[2]),
                        offset,
                        mask,
                        inside,
                        SOFTPLUS,
                    )
                    B_t = _projection(
                        B_b,
                        B,
                        t,
                        sign * B_strides[3],
                        in_state & inside,
                        CONSTANT_B,
                    )
                    decay = tl.exp2(d[None, :] * A)
                    state = decay * state + (d * u_t)[None, :] * B_t
                    inputs, sizes = inputs + (u_t,), sizes + (d,)
                    slopes = slopes + (slope,)
                    decays, states = decays + (decay,), states + (state,)
                for i in tl.static_range(STEPS - 1, -1, -1):
                    t = start + block * STEPS + i
                    inside = t >= 0
                    mask = in_block & inside
                    u_t, d, state = inputs[i], sizes[i], states[i]
                    B_t = _projection(
                        B_b,
                        B,
                        t,
                        sign * B_strides[3],
                        in_state & inside,
                        CONSTANT_B,
                    )
                    C_t = _projection(
                        C_b,
                        C,
                        t,
                        sign * C_strides[3],
                        in_state & inside,
                        CONSTANT_C,
                    )
                    g_t = read(grad_y_b + t * (sign * grad_y_strides[2]), mask)
                    if z is not None:
                        z_t = read(z_b + t * (sign * z_strides[2]), mask)
                        gate = sigmoid(z_t)
                        out = tl.sum(state * C_t, 0) + direct * u_t
                        tl.store(
                            grad_z_b + t * (step * grad_z_row),
                            (g_t * out * gate * (1.0 + z_t * (1.0 - gate))).to(
                                grad_z.dtype.element_ty
                            ),
                            mask=mask,
                        )
                        g_t *= z_t * gate
                    grad += g_t[None, :] * C_t
                    of_C = g_t[None, :] * state
                    driven = (d * u_t)[None, :]
                    of_B = grad * driven
                    if CONSTANT_B:
                        sum_B += of_B
                    else:
                        tl.store(
                            grad_B_b + t * (step * columns),
                            tl.sum(of_B, 1),
                            mask=in_state & inside,
                        )
                    if CONSTANT_C:
                        sum_C += of_C
                    else:
                        tl.store(
                            grad_C_b + t * (step * columns),
                            tl.sum(of_C, 1),
                            mask=in_state & inside,
                        )
                    # Of d A: decay * previous state is what B did not bring.
                    of_exponent = grad * (state - driven * B_t)
                    sum_A += of_exponent * d[None, :]
                    of_driven = tl.sum(grad * B_t, 0)
                    of_delta = of_driven * u_t + _LN_2 * tl.sum(
                        of_exponent * A, 0
                    )
                    of_delta = tl.where(inside, of_delta * slopes[i], 0.0)
                    grad *= decays[i]
                    sum_bias += of_delta
                    sum_D += g_t * u_t
                    tl.store(
                        grad_u_b + t * (step * channels),
                        (of_driven * d + g_t * direct).to(
                            grad_u.dtype.element_ty
                        ),
                        mask=mask,
                    )
                    tl.store(
                        grad_delta_b + t * (step * channels),
                        of_delta.to(grad_delta.dtype.element_ty),
                        mask=mask,
                    )
            tl.debug_barrier()

    slot = slot.to(tl.int64)
    states_of_slot = slot * STATES * channels + state_offsets
    tl.store(grad_A + states_of_slot, sum_A, mask=in_tile)
    if CONSTANT_B:
        tl.store(grad_B + states_of_slot, sum_B, mask=in_tile)
    if CONSTANT_C:
        tl.store(grad_C + states_of_slot, sum_C, mask=in_tile)
    if grad_D is not None:
        tl.store(grad_D + slot * channels + c, sum_D, mask=in_block)
    if grad_bias is not None:
        tl.store(grad_bias + slot * channels + c, sum_bias, mask=in_block)
