"""Mamba along time, then along frequency.

Source: ASCMamba paper, section 3.1.2 and Table 2.
"""

from torch import nn

from ascmamba_modules.conditional_norm import ConditionalLayerNorm
from ascmamba_modules.mamba import BidirectionalMamba, Mamba


class DualPathMambaBlock(nn.Module):
    """Each frequency bin as a sequence over time, then each frame as a
    sequence over frequency; both paths residual, both behind a conditional
    layer norm.

    Arguments
    ---------
    channels : int
        Channels of input and output.
    context_size : int
        Length of the context vector.
    dropout : float
        Dropout rate of each path's output.
    bidirectional : bool
        Whether Mamba reads both ways, or forwards only.
    **mamba_options
        Passed to :class:`~ascmamba_modules.mamba.Mamba`.

    Example
    -------
    >>> import torch
    >>> block = DualPathMambaBlock(channels=8, context_size=3)
    >>> block(torch.rand(2, 50, 32, 8), torch.rand(2, 3)).shape
    torch.Size([2, 50, 32, 8])
    """

    def __init__(
        self,
        channels,
        context_size,
        dropout=0.1,
        bidirectional=True,
        **mamba_options,
    ):
        super().__init__()
        mamba = BidirectionalMamba if bidirectional else Mamba
        self.time_norm = ConditionalLayerNorm(channels, context_size)
        self.time_mamba = mamba(channels, **mamba_options)
        self.frequency_norm = ConditionalLayerNorm(channels, context_size)
        self.frequency_mamba = mamba(channels, **mamba_options)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, context, mask=None):
        """Maps a batch of encoded spectrograms.

        Arguments
        ---------
        x : torch.Tensor
            (batch, time, frequency, channels).
        context : torch.Tensor
            Context vectors (batch, context_size).
        mask : torch.Tensor, optional
            (batch, time), 1 at frames of the clip and 0 at padding.

        Returns
        -------
        torch.Tensor
            (batch, time, frequency, channels).
        """
        batch, time, frequency, channels = x.shape
        if mask is not None:
            mask = mask.repeat_interleave(frequency, 0)  # (B F, T)

        path = self.time_norm(x, context).transpose(1, 2)  # (B, F, T, C)
        path = path.reshape(batch * frequency, time, channels)
        path = self.time_mamba(path, mask)
        path = path.view(batch, frequency, time, channels).transpose(1, 2)
        x = x + self.dropout(path)

        path = self.frequency_norm(x, context)  # (B, T, F, C)
        path = path.reshape(batch * time, frequency, channels)
        path = self.frequency_mamba(path).view_as(x)
        return x + self.dropout(path)
