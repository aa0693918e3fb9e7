"""The selective scan in plain PyTorch, on any device.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3 (the recurrence) and section 3.3.2 (states are
recomputed in the backward pass instead of stored).

The recurrence runs over one short chunk of time steps after another.  Inside
a chunk everything but the recurrence itself is one tensor operation over all
its steps; the recurrence is one fused multiply-add a step.  Only the states
at the start of each chunk are kept for the backward pass, so memory grows with
length / chunk rather than with length.
"""

from math import lcm

import torch

from ascmamba_modules.selective_scan.autograd import first_derivatives_only

# Chunk buffers of this many elements stay in the second-level cache on CPUs.
# On a GPU launching costs more than memory, so that chunks are larger there.
_CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**25}
_MIN_CHUNK, _MAX_CHUNK = 4, 64  # steps


def scan_torch(u, delta, A, B, C):
    """Runs h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t], y = C[t] h[t].

    Arguments
    ---------
    u : torch.Tensor
        Input (batch, channels, length), float32 or float64.
    delta : torch.Tensor
        Positive step sizes (batch, channels, length).
    A : torch.Tensor
        State decay rates (channels, state).
    B, C : torch.Tensor
        Input and output projections, (batch, groups, state, length) or,
        when constant over time, (channels, state).

    Returns
    -------
    y : torch.Tensor
        Output (batch, channels, length).
    last_state : torch.Tensor
        State after the last step (batch, channels, state).

    Example
    -------
    >>> u = torch.rand(2, 4, 10)
    >>> B = torch.rand(2, 1, 3, 10)
    >>> y, last_state = scan_torch(u, u, -torch.rand(4, 3), B, B)
    >>> y.shape, last_state.shape
    (torch.Size([2, 4, 10]), torch.Size([2, 4, 3]))
    """
    # Many sequences go block by block, so that a chunk holds several steps.
    size = max(1, _chunk_elements(u.device) // (_MIN_CHUNK * A.numel()))
    blocks = [slice(i, i + size) for i in range(0, len(u), size)]
    results = [
        _scan_block(u[rows], delta[rows], A, _rows(B, rows), _rows(C, rows))
        for rows in blocks
    ]
    if len(results) == 1:
        return results[0]
    y, last_state = zip(*results)
    return torch.cat(y), torch.cat(last_state)


def _rows(projection, rows):
    return projection[rows] if projection.dim() == 4 else projection


def _scan_block(u, delta, A, B, C):
    batch, channels, _ = u.shape
    groups = lcm(*(m.shape[1] if m.dim() == 4 else 1 for m in (B, C)))

    # The channel axis is innermost: every other operand broadcasts along it.
    def steps_first(x):  # (batch, channels, length) -> (L, B, G, D/G)
        return x.unflatten(1, (groups, -1)).permute(3, 0, 1, 2).contiguous()

    def states_first(x):  # (channels, state) -> (G, N, D/G)
        return x.unflatten(0, (groups, -1)).transpose(1, 2).contiguous()

    def projection(x):
        if x.dim() == 2:
            return states_first(x)
        x = x.repeat_interleave(groups // x.shape[1], dim=1)
        return x.permute(3, 0, 1, 2).contiguous()  # (L, B, G, N)

    y, last_state = _Scan.apply(
        steps_first(u),
        steps_first(delta),
        states_first(A),
        projection(B),
        projection(C),
    )
    y = y.permute(1, 2, 3, 0).reshape(batch, channels, -1)
    last_state = last_state.transpose(2, 3).reshape(batch, channels, -1)
    return y, last_state


def _chunk_elements(device):
    return _CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "cuda"]


def _chunk_length(state, length):
    """Steps of a chunk whose states fit into a buffer."""
    budget = _chunk_elements(state.device) // max(1, state.numel())
    return max(1, min(_MAX_CHUNK, budget, length))


def _states(state, decay, driven):
    """Turns ``driven`` (K, ...) into the K states that follow ``state``."""
    for decay_k, driven_k in zip(decay, driven):
        state = driven_k.addcmul_(decay_k, state)
    return driven


def _chunk_states(state, u, delta, A, B, chunk, decays, drives):
    """States of one chunk, and their decays, in the buffers given for them."""
    decay, driven = decays[: len(u)], drives[: len(u)]
    torch.mul(delta.unsqueeze(-2), A, out=decay).exp_()
    torch.mul((delta * u).unsqueeze(-2), _expand(B, chunk), out=driven)
    return _states(state, decay, driven)


def _expand(projection, chunk):
    """Steps of a projection, ready to broadcast over channels (G, N, D/G)."""
    if projection.dim() == 3:
        return projection
    return projection[chunk].unsqueeze(-1)


def _over_states(projection, chunk, x):
    """Sums ``projection`` times x (K, B, G, N, D/G) over the states."""
    if projection.dim() == 3:
        return (projection * x).sum(-2)
    return (projection[chunk].unsqueeze(-2) @ x).squeeze(-2)


def _add_projection_grad(grad, projection, chunk, x, weight):
    """Gradient of a projection: sums x times weight (K, B, G, D/G)."""
    if projection.dim() == 3:
        grad += (x * weight.unsqueeze(-2)).sum((0, 1))
    else:
        grad[chunk] = (x @ weight.unsqueeze(-1)).squeeze(-1)


class _Scan(torch.autograd.Function):
    """u, delta (L, B, G, D); A (G, N, D); B, C (L, B, G, N) or (G, N, D)."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C):
        length, batch = u.shape[:2]
        state = u.new_zeros(batch, *A.shape)
        size = _chunk_length(state, length)
        # Chunks share their buffers: fresh memory costs more than the sums.
        decays, drives = state.new_empty(2, size, *state.shape)
        y = torch.empty_like(u)
        checkpoints = []
        for start in range(0, length, size):
            chunk = slice(start, start + size)
            checkpoints.append(state)
            states = _chunk_states(
                state, u[chunk], delta[chunk], A, B, chunk, decays, drives
            )
            state = states[-1].clone()
            y[chunk] = _over_states(C, chunk, states)
        ctx.save_for_backward(u, delta, A, B, C, *checkpoints)
        ctx.size = size
        return y, state

    @staticmethod
    @first_derivatives_only
    def backward(ctx, grad_y, grad_last_state):
        # Matrix products would lose precision in a backward under autocast.
        with torch.autocast(grad_y.device.type, enabled=False):
            return _Scan._backward(ctx, grad_y, grad_last_state)

    @staticmethod
    def _backward(ctx, grad_y, grad_last_state):
        u, delta, A, B, C, *checkpoints = ctx.saved_tensors
        grad_u = torch.empty_like(u)
        grad_delta = torch.empty_like(delta)
        grad_A = torch.zeros_like(A)
        grad_B = torch.zeros_like(B)
        grad_C = torch.zeros_like(C)
        buffers = u.new_empty(3, ctx.size, *checkpoints[0].shape)
        # What the steps after this chunk add to its last state's gradient.
        carried = grad_last_state
        for index in reversed(range(len(checkpoints))):
            start = index * ctx.size
            chunk = slice(start, start + ctx.size)
            u_c, delta_c, grad_y_c = u[chunk], delta[chunk], grad_y[chunk]
            states = _chunk_states(
                checkpoints[index], u_c, delta_c, A, B, chunk, *buffers[:2]
            )
            decay, grad_state = buffers[0, : len(u_c)], buffers[2, : len(u_c)]
            _add_projection_grad(grad_C, C, chunk, states, grad_y_c)

            torch.mul(grad_y_c.unsqueeze(-2), _expand(C, chunk), out=grad_state)
            grad_state[-1] += carried
            for k in reversed(range(len(grad_state) - 1)):
                grad_state[k].addcmul_(decay[k + 1], grad_state[k + 1])
            carried = decay[0] * grad_state[0]

            grad_scaled_u = _over_states(B, chunk, grad_state)
            _add_projection_grad(grad_B, B, chunk, grad_state, delta_c * u_c)
            # Gradient of delta A, through decay = exp(delta A).
            grad_exponent = decay.mul_(grad_state)
            grad_exponent[1:] *= states[:-1]
            grad_exponent[0] *= checkpoints[index]
            product = torch.mul(
                grad_exponent, delta_c.unsqueeze(-2), out=grad_state
            )
            grad_A += product.sum((0, 1))
            grad_delta[chunk] = grad_exponent.mul_(A).sum(-2)
            grad_delta[chunk] += grad_scaled_u * u_c
            grad_u[chunk] = grad_scaled_u * delta_c
        return grad_u, grad_delta, grad_A, grad_B, grad_C
