"""The Mamba block and its bidirectional pair.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.4 and figure 3.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.selective_scan import (
    check_engine,
    choose_engine,
    mamba_inner_cpu,
    mamba_inner_triton,
    selective_scan,
)

# What in_proj gives out at a time, in bytes, where the engine is "cpu" and no
# gradient is asked for: what is still in the cache need not be fetched again.
_BLOCK_BYTES = 2**22


class Mamba(nn.Module):
    """A selective state space model between two projections, with a gate.

    Parameters have the names and shapes of ``mamba_ssm.Mamba``, so that
    weights can be moved either way with ``load_state_dict``.

    Arguments
    ---------
    d_model : int
        Channels of input and output (D).
    d_state : int
        States per inner channel (N).
    d_conv : int
        Width of the causal convolution, in steps.
    expand : int
        Inner channels E = expand * d_model.
    dt_rank : int or "auto"
        Rank of the step size projection; "auto" is ceil(d_model / 16).
    dt_min, dt_max : float
        Range of the step sizes at the start of training.
    conv_bias, bias : bool
        Whether the convolution and the outer projections have a bias.
    engine : str
        Engine of the selective scan, see
        :func:`~ascmamba_modules.selective_scan.selective_scan`.

    Example
    -------
    >>> mamba = Mamba(d_model=16)
    >>> mamba(torch.rand(2, 50, 16)).shape
    torch.Size([2, 50, 16])
    """

    def __init__(
        self,
        d_model,
        d_state=16,
        d_conv=4,
        expand=2,
        dt_rank="auto",
        dt_min=0.001,
        dt_max=0.1,
        conv_bias=True,
        bias=False,
        engine="auto",
    ):
        super().__init__()
        check_engine(engine)
        self.d_model = d_model
        self.d_state = d_state
        self.d_conv = d_conv
        self.expand = expand
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.engine = engine

        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = nn.Conv1d(
            self.d_inner,
            self.d_inner,
            d_conv,
            groups=self.d_inner,
            padding=d_conv - 1,
            bias=conv_bias,
        )
        self.x_proj = nn.Linear(
            self.d_inner, self.dt_rank + 2 * d_state, bias=False
        )
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        # Section 3.6: real initialisation, A[d, n] = -(n + 1).
        self.A_log = nn.Parameter(
            torch.arange(1.0, d_state + 1).log().repeat(self.d_inner, 1)
        )
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)
        self._init_step_sizes(dt_min, dt_max)

    def _init_step_sizes(self, dt_min, dt_max):
        """Step sizes start log-uniform between dt_min and dt_max."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(dt_min), math.log(dt_max)
        step = torch.empty(self.d_inner).uniform_(low, high).exp()
        with torch.no_grad():  # softplus(bias) = step
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x, mask=None, reverse=False):
        """Maps a batch of sequences.

        Arguments
        ---------
        x : torch.Tensor
            Sequences (batch, length, d_model).
        mask : torch.Tensor, optional
            (batch, length), 1 at steps that belong to a sequence and 0 at
            padding.  The state passes padding at zero, so that padding may
            stand before as well as after a sequence.
        reverse : bool
            Whether to read time backwards, from the last step to the first.

        Returns
        -------
        torch.Tensor
            (batch, length, d_model).
        """
        engine = _engine_for(self, x)
        if engine == "triton":
            return _run_triton([self], x, mask, backwards=int(reverse))
        if engine == "cpu" and not torch.is_grad_enabled():
            return _in_blocks(
                lambda x, mask: self._forward(x, mask, reverse, engine),
                *(x, mask, self),
            )
        return self._forward(x, mask, reverse, engine)

    def _forward(self, x, mask, reverse, engine):
        xz = self.in_proj(x)  # (B, L, 2 E)
        A = -torch.exp(self.A_log.float())  # (E, N)
        inner = self._inner_cpu if engine == "cpu" else self._inner
        return self.out_proj(inner(xz, A, mask, reverse))  # (B, L, D)

    def _inner_cpu(self, xz, A, mask, reverse):
        """All between the outer projections, fused."""
        full = torch.promote_types(xz.dtype, torch.float32)
        inputs = (
            xz,
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            A,
            self.D,
            mask,
        )
        with torch.autocast(xz.device.type, enabled=False):
            inputs = (x if x is None else x.to(full) for x in inputs)
            return mamba_inner_cpu(*inputs, reverse=reverse)  # (B, L, E)

    def _inner(self, xz, A, mask, reverse):
        """All between the outer projections, with any engine."""
        u, z = xz.chunk(2, dim=-1)  # each (B, L, E)
        if mask is not None:
            mask = mask.unsqueeze(-1).to(u.dtype)  # (B, L, 1)
            u = u * mask
        u = F.silu(self._causal_convolution(u, reverse))  # (B, L, E)
        if mask is not None:
            u = u * mask
        step, B, C = self.x_proj(u).split(
            [self.dt_rank, self.d_state, self.d_state], dim=-1
        )  # (B, L, R), (B, L, N), (B, L, N)
        # The bias goes into the scan, which adds it in full precision.
        delta = F.linear(step, self.dt_proj.weight)  # (B, L, E)
        y = selective_scan(
            u.transpose(1, 2),  # (B, E, L)
            delta.transpose(1, 2),
            A,
            B.transpose(1, 2),  # (B, N, L)
            C.transpose(1, 2),
            self.D.float(),
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
            engine=self.engine,
            reverse=reverse,
        )
        return y.transpose(1, 2)  # (B, L, E)

    def _causal_convolution(self, u, reverse):
        # As an image of height 1 whose channels are last in memory: oneDNN
        # has a fast depthwise kernel for those, not for sequences.
        image = u.transpose(1, 2).unsqueeze(2)  # (B, E, 1, L)
        weight = self.conv1d.weight.unsqueeze(2)  # (E, 1, 1, d_conv)
        image = F.conv2d(
            image,
            weight.flip(3) if reverse else weight,
            self.conv1d.bias,
            padding=(0, self.d_conv - 1),
            groups=self.d_inner,
        )
        # Padded at both ends; each direction keeps what lies in its past.
        first = self.d_conv - 1 if reverse else 0
        image = image[..., first : first + u.shape[1]]
        return image.squeeze(2).transpose(1, 2)  # (B, L, E)


class BidirectionalMamba(nn.Module):
    """Two Mamba blocks, one reading each way; their outputs are summed.

    Each block ends in its own projection, so that the sum can do all that a
    linear layer over both outputs could.

    Source: L. Zhu et al., "Vision Mamba: Efficient Visual Representation
    Learning with Bidirectional State Space Model", 2024.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    **mamba_options
        Passed to both :class:`Mamba` blocks.

    Example
    -------
    >>> mamba = BidirectionalMamba(d_model=16, d_state=8)
    >>> mamba(torch.rand(2, 50, 16)).shape
    torch.Size([2, 50, 16])
    """

    def __init__(self, d_model, **mamba_options):
        super().__init__()
        self.forwards = Mamba(d_model, **mamba_options)
        self.backwards = Mamba(d_model, **mamba_options)

    def forward(self, x, mask=None):
        """Maps a batch of sequences.

        Arguments
        ---------
        x : torch.Tensor
            Sequences (batch, length, d_model).
        mask : torch.Tensor, optional
            (batch, length), 1 at steps that belong to a sequence, 0 at
            padding; without it all steps belong.

        Returns
        -------
        torch.Tensor
            (batch, length, d_model).
        """
        engine = _engine_for(self.forwards, x)
        if engine == "triton":
            blocks = [self.forwards, self.backwards]
            return _run_triton(blocks, x, mask, backwards=0b10)
        if engine == "cpu" and not torch.is_grad_enabled():
            return _in_blocks(self._forward, x, mask, self.forwards)
        return self._forward(x, mask)

    def _forward(self, x, mask):
        return self.forwards(x, mask) + self.backwards(x, mask, reverse=True)


def _engine_for(mamba, x):
    if x.dim() != 3 or x.numel() == 0:
        raise ValueError(
            "Mamba takes (batch, length, d_model), batch and length not "
            f"0, got {tuple(x.shape)}."
        )
    return choose_engine(mamba.engine, x, mamba.A_log)


def _in_blocks(function, x, mask, mamba):
    """Calls function(x, mask) on a few sequences at a time."""
    bytes_each = 2 * mamba.d_inner * x.shape[1] * x.element_size()
    rows = max(1, _BLOCK_BYTES // bytes_each)
    if rows >= len(x):
        return function(x, mask)
    masks = itertools.repeat(None)
    if mask is not None:
        masks = mask.expand(x.shape[:2]).split(rows)
    return torch.cat([function(*block) for block in zip(x.split(rows), masks)])


def _run_triton(blocks, x, mask, backwards):
    """The sum of Mamba blocks over the same sequences, in one launch each of
    all matrix products and kernels; bit k of ``backwards`` is set if block k
    reads time backwards."""

    def stacked(name):
        tensors = [block.get_parameter(name) for block in blocks]
        return torch.stack(tensors)  # (K, ...)

    has_conv_bias = blocks[0].conv1d.bias is not None
    has_bias = blocks[0].in_proj.bias is not None
    xz = F.linear(
        x,
        stacked("in_proj.weight").flatten(0, 1),  # (K 2 E, D)
        stacked("in_proj.bias").flatten() if has_bias else None,
    )
    y = mamba_inner_triton(
        xz.unflatten(2, (len(blocks), -1)),  # (B, L, K, 2 E)
        stacked("conv1d.weight").squeeze(2),  # (K, E, d_conv)
        stacked("conv1d.bias") if has_conv_bias else None,
        stacked("x_proj.weight"),
        stacked("dt_proj.weight"),
        stacked("dt_proj.bias"),
        -torch.exp(stacked("A_log").float()),  # (K, E, N)
        stacked("D"),
        mask,
        backwards,
    )  # (B, L, K, E)
    out_weight = torch.cat([block.out_proj.weight for block in blocks], dim=1)
    return F.linear(
        y.flatten(2),
        out_weight,  # (D, K E)
        stacked("out_proj.bias").sum(0) if has_bias else None,
    )
