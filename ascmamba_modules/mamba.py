"""The Mamba block and its bidirectional pair.

Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces", 2023, section 3.4 and figure 3.
"""

import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.selective_scan import (
    check_engine,
    choose_engine,
    mamba_inner,
)
from ascmamba_modules.selective_scan.triton.mamba import mamba_inner_triton

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
        engine = _choose_engine(self, x)
        forward = functools.partial(
            self.with_engine, reverse=reverse, engine=engine
        )
        return _in_blocks(forward, x, mask, self.d_inner, engine)

    def with_engine(self, x, mask, reverse, engine):
        """:meth:`forward` by an engine that runs here."""
        xz = self.in_proj(x)  # (B, L, 2 E)
        y = mamba_inner(xz, *self.inner_weights(), mask, reverse, engine)
        return self.out_proj(y)  # (B, L, D)

    def inner_weights(self):
        """The arguments conv_weight to D of ``mamba_inner``."""
        return (
            self.conv1d.weight.squeeze(1),  # (E, d_conv)
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            -torch.exp(self.A_log.float()),  # (E, N)
            self.D,
        )


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
        self.forward_mamba = Mamba(d_model, **mamba_options)
        self.backward_mamba = Mamba(d_model, **mamba_options)

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
        engine = _choose_engine(self.forward_mamba, x)
        if engine == "triton":
            return self._in_one_launch(x, mask)
        forward = functools.partial(self._one_by_one, engine=engine)
        d_inner = self.forward_mamba.d_inner
        return _in_blocks(forward, x, mask, d_inner, engine)

    def _one_by_one(self, x, mask, engine):
        y = self.forward_mamba.with_engine(x, mask, False, engine)
        return y + self.backward_mamba.with_engine(x, mask, True, engine)

    def _in_one_launch(self, x, mask):
        """Each matrix product and kernel runs once, for both directions."""
        pair = self.forward_mamba, self.backward_mamba

        def joined(name, dim=0):
            tensors = [mamba.get_parameter(name) for mamba in pair]
            return torch.cat(tensors, dim)

        has_bias = pair[0].in_proj.bias is not None
        weights = (
            None if w[0] is None else torch.stack(w)
            for w in zip(*(mamba.inner_weights() for mamba in pair))
        )
        xz = F.linear(
            x,
            joined("in_proj.weight"),  # (2 * 2 E, D)
            joined("in_proj.bias") if has_bias else None,
        )
        y = mamba_inner_triton(
            xz.unflatten(2, (2, -1)),  # (B, L, 2, 2 E)
            *weights,
            mask,
            reverse_mask=0b10,
        )  # (B, L, 2, E)
        bias = None
        if has_bias:
            bias = pair[0].out_proj.bias + pair[1].out_proj.bias
        return F.linear(y.flatten(2), joined("out_proj.weight", 1), bias)


def _choose_engine(mamba, x):
    if x.dim() != 3 or x.numel() == 0:
        raise ValueError(
            "Mamba takes (batch, length, d_model), batch and length not "
            f"0, got {tuple(x.shape)}."
        )
    return choose_engine(mamba.engine, x, mamba.A_log)


def _in_blocks(forward, x, mask, d_inner, engine):
    """Calls forward(x, mask), on a few sequences at a time if that pays."""
    rows = len(x)
    if engine == "cpu" and not torch.is_grad_enabled():
        bytes_each = 2 * d_inner * x.shape[1] * x.element_size()
        rows = max(1, _BLOCK_BYTES // bytes_each)
    if rows >= len(x):
        return forward(x, mask)
    masks = itertools.repeat(None)
    if mask is not None:
        masks = mask.expand(x.shape[:2]).split(rows)
    return torch.cat([forward(*block) for block in zip(x.split(rows), masks)])
