"""Kernels of the selective scan in Triton, forward and backward.

Sources: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.3.2 (states are recomputed in the backward pass
instead of stored); P. Tillet et al., "Triton: An Intermediate Language and
Compiler for Tiled Neural Network Computations", 2019.

One program is one warp.  It walks along time with the states of a block of
channels of one sequence in one direction; these states are a tile (state,
channel) in registers.  Programs share nothing that they write, so that results
do not depend on their order.

What a kernel reads of a sequence has any strides: ``_outer`` is a tuple of
those of direction, batch and, for B and C, group; ``_inner`` of step and
channel, or step and state.  What it writes lies contiguous as (batch, step,
direction, channel), states as (direction, batch, ..., state, channel);
parameters are (direction, channel) and (direction, state, channel).  Bit k of
``backwards`` says that direction k reads time from its end: then step t below
counts from there.
"""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)

# So that few lengths and batch sizes compile anew; Triton still tells strides
# in tuples that are multiples of 16 from others.
_UNSPECIALISED = [
    *("batch", "length", "splits"),
    *("groups_per_B", "groups_per_C", "backwards", "rows"),
    *("u_outer", "delta_outer", "z_outer", "B_outer", "C_outer"),
    "grad_y_outer",
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
def _step_size(x, bias, inside, SOFTPLUS: tl.constexpr):
    """Step sizes (channel) and their slope, both 0 before the first step.

    A step of size 0 leaves the state as it is.
    """
    x += bias
    slope = tl.full(x.shape, 1.0, tl.float32)
    if SOFTPLUS:
        x, slope = _softplus(x)
    return tl.where(inside, x, 0.0), tl.where(inside, slope, 0.0)


@triton.jit
def reading(k, length, backwards):
    """The step that direction k reads first, and which way it goes."""
    reverse = (backwards >> k) & 1
    return reverse * (length - 1), 1 - 2 * reverse


@triton.jit
def _next(state, d, u, A, B, in_state, STATES: tl.constexpr):
    """The state (state, channel) after one more step."""
    drive = (d * u)[None, :] * B
    if STATES < state.shape[0]:  # infinite times 0 is no state
        drive = tl.where(in_state[:, None], drive, 0.0)
    return tl.exp2(d[None, :] * A) * state + drive


@triton.jit
def _halved(x):
    """Sums neighbours along the last axis of three."""
    shape: tl.constexpr = x.shape
    x = tl.reshape(x, [shape[0], shape[1], shape[2] // 2, 2])
    even, odd = tl.split(x)
    return even + odd


@triton.jit
def _sums_over_channels(x, y):
    """Sums two tiles (state, channel) over channels.

    A plain sum adds across lanes value by value.  Splitting makes the
    compiler bring what is to be added to one lane first, for both at once.
    """
    shape: tl.constexpr = x.shape
    split: tl.constexpr = [shape[0], shape[1] // 4, 4]
    # Four neighbours are in one lane already.
    x, y = tl.sum(tl.reshape(x, split), 2), tl.sum(tl.reshape(y, split), 2)
    both = tl.permute(tl.join(x, y), (0, 2, 1))  # (state, 2, channel / 4)
    a, b = tl.split(_halved(_halved(both)))
    return tl.split(a + b)


@triton.jit
def _sums_over_states(x, y):
    """Sums two tiles (state, channel) over states, as above."""
    shape: tl.constexpr = x.shape
    split: tl.constexpr = [shape[0] // 4, 4, shape[1]]
    # Every fourth state is in the same lane.
    x, y = tl.sum(tl.reshape(x, split), 0), tl.sum(tl.reshape(y, split), 0)
    both = tl.permute(tl.join(x, y), (1, 2, 0))  # (channel, 2, 4)
    a, b = tl.split(_halved(both))
    return tl.split(a + b)


@triton.jit
def _states(pointer, index, n, c, channels, STATES: tl.constexpr):
    """Pointers (state, channel) into one of many contiguous states.

    The index comes first so that no offsets are kept in registers where it
    changes in a loop.
    """
    return pointer + ((index * STATES + n)[:, None] * channels + c[None, :])


@triton.jit
def _read_projection(
    pointer, inner, at, constant, n, mask, CONSTANT: tl.constexpr
):
    """B or C at one step: (state, 1), or (state, channel) if constant."""
    if CONSTANT:
        return constant
    else:  # or Triton compiles both
        return read(pointer + at * inner[0] + n * inner[1], mask)[:, None]


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
    u_outer,
    u_inner,
    delta_outer,
    delta_inner,
    z_outer,
    z_inner,
    B_outer,
    B_inner,
    C_outer,
    C_inner,
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
    row = tl.program_id(0) // parts
    first, sign = reading(row // batch, length, backwards)
    # Offsets of a sequence do not fit into 32 bits, those within one do.
    k, b = (row // batch).to(tl.int64), (row % batch).to(tl.int64)
    row = row.to(tl.int64)
    group = part // splits
    c = group * group_width + part % splits * BLOCK + tl.arange(0, BLOCK)
    in_block = c < (group + 1) * group_width
    n = tl.arange(0, PADDED_STATES)
    in_state = n < STATES
    in_tile = in_state[:, None] & in_block[None, :]

    u += k * u_outer[0] + b * u_outer[1]
    delta += k * delta_outer[0] + b * delta_outer[1]
    if z is not None:
        z += k * z_outer[0] + b * z_outer[1]
    if not CONSTANT_B:
        B += k * B_outer[0] + b * B_outer[1]
        B += group // groups_per_B * B_outer[2]
    if not CONSTANT_C:
        C += k * C_outer[0] + b * C_outer[1]
        C += group // groups_per_C * C_outer[2]
    directions = tl.num_programs(0) // (parts * batch)
    y += (b * length * directions + k) * channels

    parameter = k * channels + c
    A = read(_states(A, k, n, c, channels, STATES), in_tile) * _LOG2_E
    if STATES < PADDED_STATES:  # decays of 0 even for infinite steps
        A = tl.where(in_state[:, None], A, -1.0)
    if CONSTANT_B:
        B = read(_states(B, k, n, c, channels, STATES), in_tile)
    if CONSTANT_C:
        C = read(_states(C, k, n, c, channels, STATES), in_tile)
    direct = tl.zeros([BLOCK], tl.float32)
    if D is not None:
        direct = read(D + parameter, in_block)
    offset = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        offset = read(bias + parameter, in_block)

    # Blocks of steps, and chunks, end with the last step.  The first block may
    # begin before the first step, where the state is 0.
    n_borders = (length - 1) // CHUNK
    blocks = tl.cdiv(length, STEPS)
    state = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
    for block in tl.range(blocks):
        if borders is not None:
            left = (blocks - block) * STEPS
            if (left < length) & (left % CHUNK == 0):
                border = row * n_borders + n_borders - left // CHUNK
                to = _states(borders, border, n, c, channels, STATES)
                tl.store(to, state, mask=in_tile)
        # All loads come first, or each would wait for the stores before it.
        us, deltas, zs, Bs, Cs = (), (), (), (), ()
        for i in tl.static_range(STEPS):
            t = length - (blocks - block) * STEPS + i
            at = first + sign * t
            mask = in_block & (t >= 0)
            state_mask = in_state & (t >= 0)
            u_t = read(u + (at * u_inner[0] + c * u_inner[1]), mask)
            delta_t = read(
                delta + (at * delta_inner[0] + c * delta_inner[1]), mask
            )
            us, deltas = us + (u_t,), deltas + (delta_t,)
            if z is not None:
                z_t = read(z + (at * z_inner[0] + c * z_inner[1]), mask)
                zs = zs + (z_t,)
            B_t = _read_projection(B, B_inner, at, B, n, state_mask, CONSTANT_B)
            C_t = _read_projection(C, C_inner, at, C, n, state_mask, CONSTANT_C)
            Bs, Cs = Bs + (B_t,), Cs + (C_t,)
        for i in tl.static_range(STEPS):
            t = length - (blocks - block) * STEPS + i
            at = first + sign * t
            mask = in_block & (t >= 0)
            u_t = us[i]
            d, _ = _step_size(deltas[i], offset, t >= 0, SOFTPLUS)
            state = _next(state, d, u_t, A, Bs[i], in_state, STATES)
            out = tl.sum(state * Cs[i], 0) + direct * u_t
            if z is not None:
                out *= zs[i] * sigmoid(zs[i])
            tl.store(
                y + (at * directions * channels + c),
                out.to(y.dtype.element_ty),
                mask=mask,
            )
    to = _states(last_state, row, n, c, channels, STATES)
    tl.store(to, state, mask=in_tile)


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
    grad_projections,
    u_outer,
    u_inner,
    delta_outer,
    delta_inner,
    z_outer,
    z_inner,
    B_outer,
    B_inner,
    C_outer,
    C_inner,
    grad_y_outer,
    grad_y_inner,
    grad_z_row,
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
    channels of a program, side by side in grad_projections (part, batch, step,
    direction, states of B and C), still to be summed over parts.  So are those
    of what is constant over time, (direction, run, ..., channel), over runs.
    """
    parts = channels // group_width * splits
    part = tl.program_id(0) % parts
    slot = tl.program_id(0) // parts  # direction and run of sequences
    runs = tl.cdiv(batch, rows)
    k_32 = slot // runs
    first, sign = reading(k_32, length, backwards)
    first_b = slot % runs * rows
    k = k_32.to(tl.int64)
    group = part // splits
    c = group * group_width + part % splits * BLOCK + tl.arange(0, BLOCK)
    in_block = c < (group + 1) * group_width
    n = tl.arange(0, PADDED_STATES)
    in_state = n < STATES
    in_tile = in_state[:, None] & in_block[None, :]
    lane = tl.arange(0, BLOCK)
    scratch += tl.program_id(0).to(tl.int64) * (
        CHUNK // STEPS * PADDED_STATES * BLOCK
    )
    directions = tl.num_programs(0) // (parts * runs)
    columns: tl.constexpr = STATES * (2 - CONSTANT_B - CONSTANT_C)

    parameter = k * channels + c
    A = read(_states(A, k, n, c, channels, STATES), in_tile) * _LOG2_E
    if STATES < PADDED_STATES:  # decays of 0 even for infinite steps
        A = tl.where(in_state[:, None], A, -1.0)
    if CONSTANT_B:
        B = read(_states(B, k, n, c, channels, STATES), in_tile)
    if CONSTANT_C:
        C = read(_states(C, k, n, c, channels, STATES), in_tile)
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
    for i_row in tl.range(tl.minimum(rows, batch - first_b)):
        row_32 = k_32 * batch + first_b + i_row
        # Here the direction, which has not changed, depends on the row: what
        # follows from it need not be kept in registers from row to row.
        k, b = (row_32 // batch).to(tl.int64), (row_32 % batch).to(tl.int64)
        row = row_32.to(tl.int64)
        u_b = u + (k * u_outer[0] + b * u_outer[1])
        delta_b = delta + (k * delta_outer[0] + b * delta_outer[1])
        grad_y_b = grad_y + (k * grad_y_outer[0] + b * grad_y_outer[1])
        B_b, C_b = B, C
        if not CONSTANT_B:
            B_b += k * B_outer[0] + b * B_outer[1]
            B_b += group // groups_per_B * B_outer[2]
        if not CONSTANT_C:
            C_b += k * C_outer[0] + b * C_outer[1]
            C_b += group // groups_per_C * C_outer[2]
        written = b * length * directions + k
        grad_u_b = grad_u + written * channels
        grad_delta_b = grad_delta + written * channels
        if z is not None:
            z_b = z + (k * z_outer[0] + b * z_outer[1])
            grad_z_b = grad_z + written * grad_z_row
        written += part.to(tl.int64) * batch * length * directions
        projections_b = grad_projections
        if columns > 0:
            projections_b += written * columns

        # Gradient of the state, from all that comes later.
        grad = tl.zeros([PADDED_STATES, BLOCK], tl.float32)
        if grad_last_state is not None:
            from_last = _states(grad_last_state, row, n, c, channels, STATES)
            grad = read(from_last, in_tile)

        n_borders = (length - 1) // CHUNK
        for chunk_from_end in tl.range(n_borders + 1):
            start = length - (chunk_from_end + 1) * CHUNK
            border = row * n_borders + n_borders - 1 - chunk_from_end
            state = read(
                _states(borders, border, n, c, channels, STATES),
                in_tile & (start > 0),
            )
            # Blocks that lie before the first step are left out.
            first_block = tl.maximum(-start, 0) // STEPS
            # Forwards, to have the state before every block of steps.
            for block in tl.range(first_block, CHUNK // STEPS):
                tl.store(
                    _states(scratch, block, n, lane, BLOCK, PADDED_STATES),
                    state,
                )
                if block + 1 < CHUNK // STEPS:
                    for i in tl.static_range(STEPS):
                        t = start + block * STEPS + i
                        at = first + sign * t
                        mask = in_block & (t >= 0)
                        u_t = read(
                            u_b + (at * u_inner[0] + c * u_inner[1]), mask
                        )
                        x = read(
                            delta_b
                            + (at * delta_inner[0] + c * delta_inner[1]),
                            mask,
                        )
                        d, _ = _step_size(x, offset, t >= 0, SOFTPLUS)
                        B_t = _read_projection(
                            B_b,
                            B_inner,
                            at,
                            B,
                            n,
                            in_state & (t >= 0),
                            CONSTANT_B,
                        )
                        state = _next(state, d, u_t, A, B_t, in_state, STATES)
            tl.debug_barrier()
            for block_from_end in tl.range(CHUNK // STEPS - first_block):
                block = CHUNK // STEPS - 1 - block_from_end
                state = tl.load(
                    _states(scratch, block, n, lane, BLOCK, PADDED_STATES)
                )
                # What goes through the steps of the block, in registers.
                us, sizes, slopes, states = (), (), (), (state,)
                grad_ys, zs, Bs, Cs = (), (), (), ()
                for i in tl.static_range(STEPS):
                    t = start + block * STEPS + i
                    at = first + sign * t
                    mask = in_block & (t >= 0)
                    state_mask = in_state & (t >= 0)
                    u_t = read(u_b + (at * u_inner[0] + c * u_inner[1]), mask)
                    x = read(
                        delta_b + (at * delta_inner[0] + c * delta_inner[1]),
                        mask,
                    )
                    B_t = _read_projection(
                        B_b, B_inner, at, B, n, state_mask, CONSTANT_B
                    )
                    C_t = _read_projection(
                        C_b, C_inner, at, C, n, state_mask, CONSTANT_C
                    )
                    g_t = read(
                        grad_y_b + (at * grad_y_inner[0] + c * grad_y_inner[1]),
                        mask,
                    )
                    if z is not None:
                        z_t = read(
                            z_b + (at * z_inner[0] + c * z_inner[1]), mask
                        )
                        zs = zs + (z_t,)
                    d, slope = _step_size(x, offset, t >= 0, SOFTPLUS)
                    state = _next(state, d, u_t, A, B_t, in_state, STATES)
                    us, sizes = us + (u_t,), sizes + (d,)
                    slopes, states = slopes + (slope,), states + (state,)
                    grad_ys, Bs, Cs = grad_ys + (g_t,), Bs + (B_t,), Cs + (C_t,)
                for i in tl.static_range(STEPS - 1, -1, -1):
                    t = start + block * STEPS + i
                    at = first + sign * t
                    mask = in_block & (t >= 0)
                    state_mask = in_state & (t >= 0)
                    u_t, d, state = us[i], sizes[i], states[i + 1]
                    g_t, B_t, C_t = grad_ys[i], Bs[i], Cs[i]
                    if z is not None:
                        z_t = zs[i]
                        gate = sigmoid(z_t)
                        out = tl.sum(state * C_t, 0) + direct * u_t
                        of_z = g_t * out * gate * (1.0 + z_t * (1.0 - gate))
                        tl.store(
                            grad_z_b + (at * directions * grad_z_row + c),
                            of_z.to(grad_z.dtype.element_ty),
                            mask=mask,
                        )
                        g_t *= z_t * gate
                    grad += g_t[None, :] * C_t
                    of_C = g_t[None, :] * state
                    driven = (d * u_t)[None, :]
                    of_B = grad * driven
                    if CONSTANT_B:
                        sum_B += of_B
                    if CONSTANT_C:
                        sum_C += of_C
                    if not (CONSTANT_B and CONSTANT_C):
                        of_B, of_C = _sums_over_channels(of_B, of_C)
                        to = projections_b + (at * directions * columns + n)
                        if not CONSTANT_B:
                            tl.store(to, of_B, mask=state_mask)
                            to += STATES
                        if not CONSTANT_C:
                            tl.store(to, of_C, mask=state_mask)
                    of_driven = grad * B_t
                    # Exponentials cost less than registers for those of all
                    # steps, which the compiler would take for equal terms.
                    d_again = tl.where(in_block, d, 0.0)
                    grad *= tl.exp2(d_again[None, :] * A)
                    of_exponent = grad * states[i]
                    sum_A += of_exponent * d[None, :]
                    of_driven, of_delta = _sums_over_states(
                        of_driven, of_exponent * A
                    )
                    of_delta = _LN_2 * of_delta + of_driven * u_t
                    of_delta *= slopes[i]
                    of_delta = tl.where(t >= 0, of_delta, 0.0)
                    of_u = of_driven * d + g_t * direct
                    sum_bias += of_delta
                    sum_D += g_t * u_t
                    tl.store(
                        grad_u_b + (at * directions * channels + c),
                        of_u.to(grad_u.dtype.element_ty),
                        mask=mask,
                    )
                    tl.store(
                        grad_delta_b + (at * directions * channels + c),
                        of_delta.to(grad_delta.dtype.element_ty),
                        mask=mask,
                    )
        tl.debug_barrier()

    slot = slot.to(tl.int64)
    to = _states(grad_A, slot, n, c, channels, STATES)
    tl.store(to, sum_A, mask=in_tile)
    if CONSTANT_B:
        to = _states(grad_B, slot, n, c, channels, STATES)
        tl.store(to, sum_B, mask=in_tile)
    if CONSTANT_C:
        to = _states(grad_C, slot, n, c, channels, STATES)
        tl.store(to, sum_C, mask=in_tile)
    if grad_D is not None:
        tl.store(grad_D + slot * channels + c, sum_D, mask=in_block)
    if grad_bias is not None:
        tl.store(grad_bias + slot * channels + c, sum_bias, mask=in_block)
