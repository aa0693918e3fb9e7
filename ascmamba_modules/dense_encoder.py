"""The convolutional front end of ASCMamba.

Source: ASCMamba paper, section 3.1.1.  The paper names the parts; kernel
sizes and dilations follow the dense encoder that it takes over from speech
enhancement: Y.-X. Lu et al., "MP-SENet", Interspeech 2023, section 2.2.
"""

import torch.nn.functional as F
from torch import nn

from ascmamba_modules.padding import frame_mask


class ConvNormAct(nn.Module):
    """Convolution, instance norm and PReLU that leave padding at zero.

    Statistics of the norm are those of the valid frames alone, and padded
    frames come out as zeros, so that the next convolution sees what it would
    see behind the end of an unpadded clip.

    Arguments
    ---------
    in_channels, out_channels : int
        Channels before and after.
    kernel_size : tuple
        (time, frequency).
    **conv_options
        Passed to ``torch.nn.Conv2d``, which has no bias: the norm would take
        it away again.

    Example
    -------
    >>> import torch
    >>> layer = ConvNormAct(1, 8, (3, 3), padding=(1, 1))
    >>> layer(torch.rand(2, 1, 50, 64)).shape
    torch.Size([2, 8, 50, 64])
    """

    def __init__(self, in_channels, out_channels, kernel_size, **conv_options):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, bias=False, **conv_options
        )
        self.norm = nn.InstanceNorm2d(out_channels, affine=True)
        self.act = nn.PReLU(out_channels)

    def forward(self, x, mask=None):
        """Maps (B, C, T, F); ``mask`` is (B, 1, T, 1) or None."""
        x = self.convolve(x)
        if mask is None:
            return self.act(self.norm(x))
        count = mask.sum((2, 3), keepdim=True) * x.shape[3]
        mean = (x * mask).sum((2, 3), keepdim=True) / count
        centred = (x - mean) * mask
        variance = centred.square().sum((2, 3), keepdim=True) / count
        x = centred * (variance + self.norm.eps).rsqrt()
        scale, shift = self.norm.weight, self.norm.bias
        x = x * scale[:, None, None] + shift[:, None, None]
        return self.act(x) * mask

    def convolve(self, x):
        """Maps (B, C, T, F) by the convolution alone."""
        return self.conv(x)


class DenseLayer(ConvNormAct):
    """The same for an input in pieces along the channels.

    Each piece meets its own part of the kernels, and the results are added.
    That is the convolution of the pieces side by side, which then need be
    neither copied together nor kept together for the backward pass.

    Example
    -------
    >>> import torch
    >>> layer = DenseLayer(3, 8, (3, 3), padding=(1, 1))
    >>> layer([torch.rand(2, 1, 50, 64), torch.rand(2, 2, 50, 64)]).shape
    torch.Size([2, 8, 50, 64])
    """

    def convolve(self, x):
        """Maps a list of (B, C_i, T, F), the C_i adding up to C."""
        conv = self.conv
        kernels = conv.weight.split([piece.shape[1] for piece in x], dim=1)
        first, *others = (
            F.conv2d(
                piece,
                kernel,
                stride=conv.stride,
                padding=conv.padding,
                dilation=conv.dilation,
            )
            for piece, kernel in zip(x, kernels)
        )
        return sum(others, first)


class DenseBlock(nn.Module):
    """Convolutions each of which sees the outputs of all before it.

    Source: G. Huang et al., "Densely Connected Convolutional Networks", 2017.

    Arguments
    ---------
    channels : int
        Channels of the input and of each layer's output.
    depth : int
        Number of layers; layer i has dilation 2**i along time.

    Example
    -------
    >>> import torch
    >>> DenseBlock(8, depth=4)(torch.rand(2, 8, 50, 64)).shape
    torch.Size([2, 8, 50, 64])
    """

    def __init__(self, channels, depth=4):
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(
                channels * (i + 1),
                channels,
                (3, 3),
                dilation=(2**i, 1),
                padding=(2**i, 1),
            )
            for i in range(depth)
        )

    def forward(self, x, mask=None):
        """Maps (B, C, T, F); ``mask`` is (B, 1, T, 1) or None."""
        seen = [x]
        for layer in self.layers:
            x = layer(seen, mask)
            seen.insert(0, x)  # the newest first
        return x


class DenseEncoder(nn.Module):
    """1x1 projection, dense block, and halving of the frequency axis.

    Arguments
    ---------
    in_channels : int
        Channels of the input, 1 for one log-mel spectrogram.
    channels : int
        Channels of the output.
    depth : int
        Layers of the dense block.

    Example
    -------
    >>> import torch
    >>> DenseEncoder(channels=8)(torch.rand(2, 1, 50, 64)).shape
    torch.Size([2, 8, 50, 32])
    """

    def __init__(self, in_channels=1, channels=64, depth=4):
        super().__init__()
        self.project = ConvNormAct(in_channels, channels, (1, 1))
        self.dense_block = DenseBlock(channels, depth)
        self.halve = ConvNormAct(
            channels, channels, (1, 3), stride=(1, 2), padding=(0, 1)
        )

    def forward(self, x, lengths=None, mask=None):
        """Encodes a batch of spectrograms.

        Arguments
        ---------
        x : torch.Tensor
            (batch, in_channels, time, frequency).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).
        mask : torch.Tensor, optional
            What :func:`~ascmamba_modules.padding.frame_mask` makes of the
            lengths, (batch, time); whoever has it gives it in their place.

        Returns
        -------
        torch.Tensor
            (batch, channels, time, ceil(frequency / 2)).
        """
        if mask is None:
            mask = frame_mask(lengths, x.shape[2])
        if mask is not None:
            mask = mask[:, None, :, None].to(x.dtype)
            x = x * mask
        x = self.project(x, mask)
        x = self.dense_block(x, mask)
        return self.halve(x, mask)
