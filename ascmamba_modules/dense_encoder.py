"""The convolutional front end of ASCMamba.

Source: ASCMamba paper, section 3.1.1.  The paper names the parts; kernel
sizes and dilations follow the dense encoder that it takes over from speech
enhancement: Y.-X. Lu et al., "MP-SENet", Interspeech 2023, section 2.2.
"""

import torch
import torch.nn.functional as F
from torch import distributed, nn

from ascmamba_modules.padding import frame_mask

if distributed.is_available():
    # Imported when there is a process group, it would keep that, and Gloo's
    # threads, as a default argument until the interpreter's end.
    from torch.distributed.nn.functional import all_reduce


class BatchNorm(nn.Module):
    """Batch norm over the valid frames of all processes.

    Padding does not change the statistics, and two processes train as one
    would on both their batches.  Weights have the names and shapes of those
    of ``torch.nn.BatchNorm2d``.

    Arguments
    ---------
    channels : int
        Channels of the input.
    eps : float
        Added to the variance.
    momentum : float
        Weight of the batch in the running mean and variance.

    Example
    -------
    >>> mask = torch.ones(2, 1, 50, 1)
    >>> BatchNorm(8)(torch.rand(2, 8, 50, 64), mask).shape
    torch.Size([2, 8, 50, 64])
    """

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x, mask=None):
        """Maps (B, C, T, F); ``mask`` is (B, 1, T, 1) or None."""
        in_processes = distributed.is_available() and (
            distributed.is_initialized()
        )
        if not self.training or (mask is None and not in_processes):
            statistics = self.running_mean, self.running_var
            parameters = self.weight, self.bias
            return F.batch_norm(
                x,
                *(*statistics, *parameters, self.training),
                *(self.momentum, self.eps),
            )
        mean, variance = self._batch_statistics(x, mask, in_processes)
        scale, shift = self._affine(mean, variance)
        return x * scale[:, None, None] + shift[:, None, None]

    def affine(self):
        """Scale and shift (channels), all that the norm is after training."""
        return self._affine(self.running_mean, self.running_var)

    def _affine(self, mean, variance):
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale

    def _batch_statistics(self, x, mask, in_processes):
        """Mean and variance (channels), which the running ones follow."""
        x = x.float()
        if mask is None:
            count = x.new_tensor([x.numel() / x.shape[1]])
        else:
            x = x * mask
            count = mask.float().sum().view(1) * x.shape[3]
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count])
        if in_processes:
            sums = all_reduce(sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            unbiased = variance * sums[-1] / (sums[-1] - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return mean, variance


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm over the valid frames of each clip.

    Arguments
    ---------
    channels : int
        Channels of the input.

    Example
    -------
    >>> mask = torch.ones(2, 1, 50, 1)
    >>> InstanceNorm(8)(torch.rand(2, 8, 50, 64), mask).shape
    torch.Size([2, 8, 50, 64])
    """

    def __init__(self, channels):
        super().__init__(channels, affine=True)

    def forward(self, x, mask=None):
        """Maps (B, C, T, F); ``mask`` is (B, 1, T, 1) or None."""
        if mask is None:
            return super().forward(x)
        count = mask.sum((2, 3), keepdim=True) * x.shape[3]
        mean = (x * mask).sum((2, 3), keepdim=True) / count
        centred = (x - mean) * mask
        variance = centred.square().sum((2, 3), keepdim=True) / count
        x = centred * (variance + self.eps).rsqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


NORMS = {"batch": BatchNorm, "instance": InstanceNorm}


class ConvNormAct(nn.Module):
    """Convolution, norm and PReLU that leave padding at zero.

    Statistics of the norm are those of the valid frames alone, and padded
    frames come out as zeros, so that the next convolution sees what it would
    see behind the end of an unpadded clip.  After training, batch norm is
    part of the convolution.

    Arguments
    ---------
    in_channels, out_channels : int
        Channels before and after.
    kernel_size : tuple
        (time, frequency).
    norm : str
        "batch" or "instance".
    **conv_options
        Passed to ``torch.nn.Conv2d``, which has no bias: the norm would take
        it away again.

    Raises
    ------
    ValueError
        If there is no such norm.

    Example
    -------
    >>> layer = ConvNormAct(1, 8, (3, 3), padding=(1, 1))
    >>> layer(torch.rand(2, 1, 50, 64)).shape
    torch.Size([2, 8, 50, 64])
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        norm="batch",
        **conv_options,
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be batch or instance, got '{norm}'.")
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, bias=False, **conv_options
        )
        self.norm = NORMS[norm](out_channels)
        self.act = nn.PReLU(out_channels)

    def forward(self, x, mask=None):
        """Maps (B, C, T, F); ``mask`` is (B, 1, T', 1) at the output's
        frames, or None."""
        if isinstance(self.norm, BatchNorm) and not self.training:
            scale, shift = self.norm.affine()
            kernel = self.conv.weight * scale[:, None, None, None]
            x = self.act(self.convolve(x, kernel, shift))
        else:
            x = self.convolve(x, self.conv.weight)
            x = self.act(self.norm(x, mask))
        return x if mask is None else x * mask

    def convolve(self, x, kernel, bias=None):
        """Maps (B, C, T, F) by the convolution alone, with this kernel."""
        conv = self.conv
        return F.conv2d(
            x, kernel, bias, conv.stride, conv.padding, conv.dilation
        )


class DenseLayer(ConvNormAct):
    """The same for an input in pieces along the channels.

    Each piece meets its own part of the kernels, and the results are added.
    That is the convolution of the pieces side by side, which then need be
    neither copied together nor kept together for the backward pass.

    Example
    -------
    >>> layer = DenseLayer(3, 8, (3, 3), padding=(1, 1))
    >>> layer([torch.rand(2, 1, 50, 64), torch.rand(2, 2, 50, 64)]).shape
    torch.Size([2, 8, 50, 64])
    """

    def convolve(self, x, kernel, bias=None):
        """Maps a list of (B, C_i, T, F), the C_i adding up to C."""
        first, *others = kernel.split([piece.shape[1] for piece in x], dim=1)
        return sum(
            (
                super(DenseLayer, self).convolve(piece, part)
                for piece, part in zip(x[1:], others)
            ),
            super().convolve(x[0], first, bias),
        )


class DenseBlock(nn.Module):
    """Convolutions each of which sees the outputs of all before it.

    Source: G. Huang et al., "Densely Connected Convolutional Networks", 2017.

    Arguments
    ---------
    channels : int
        Channels of the input and of each layer's output.
    depth : int
        Number of layers; layer i has dilation 2**i along time.
    norm : str
        "batch" or "instance".

    Example
    -------
    >>> DenseBlock(8, depth=4)(torch.rand(2, 8, 50, 64)).shape
    torch.Size([2, 8, 50, 64])
    """

    def __init__(self, channels, depth=4, norm="batch"):
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(
                channels * (i + 1),
                channels,
                (3, 3),
                norm,
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


class Projection(ConvNormAct):
    """Patches of a spectrogram as vectors of channels.

    Patch k is centred on step k of the stride; ceil(T / stride) of them cover
    T frames, and likewise the frequency axis.

    Arguments
    ---------
    in_channels, out_channels : int
        Channels before and after.
    patch : tuple
        Frames and mel bands of a patch, the kernel of the convolution.
    stride : tuple
        Shift between patches along time and frequency, at most the patch.
    norm : str
        "batch" or "instance".

    Raises
    ------
    ValueError
        If patches would leave frames or bands out.

    Example
    -------
    >>> project = Projection(1, 8, patch=(8, 8), stride=(8, 4))
    >>> x, mask = project(torch.rand(2, 1, 50, 64))
    >>> x.shape
    torch.Size([2, 8, 7, 16])
    """

    def __init__(self, in_channels, out_channels, patch, stride, norm="batch"):
        patch, stride = tuple(patch), tuple(stride)
        if not all(1 <= s <= p for s, p in zip(stride, patch, strict=True)):
            raise ValueError(
                f"stride {stride} must be at least 1 and at most the patch, "
                f"{patch}, along time and frequency."
            )
        super().__init__(in_channels, out_channels, patch, norm, stride=stride)

    def forward(self, x, mask=None):
        """Maps (B, C, T, F) and its mask (B, 1, T, 1) or None; returns both,
        at the patches."""
        padding = []
        for axis in (1, 0):  # F.pad begins with the last axis
            size = x.shape[2 + axis]
            patch = self.conv.kernel_size[axis]
            stride = self.conv.stride[axis]
            before = (patch - stride) // 2
            # Up to the end of the last patch, which may be only half filled.
            # (ONNX rounds the division of a negative number towards zero.)
            last = (size + stride - 1) // stride - 1
            after = last * stride + patch - before - size
            padding += [before, after]
        if mask is not None:
            x = x * mask
            mask = mask[:, :, :: self.conv.stride[0]]
        if any(padding):
            x = F.pad(x, padding)
        return super().forward(x, mask), mask


class DenseEncoder(nn.Module):
    """Projection, dense block, and halving of the frequency axis.

    The paper leaves the projection's kernel and stride and the norm open.
    The defaults are what scored best on real recordings, at a twelfth of the
    cost of every frame and band: patch=(1, 1), stride=(1, 1) and
    norm="instance" are the encoder that the paper's reference describes.

    Arguments
    ---------
    in_channels : int
        Channels of the input, 1 for one log-mel spectrogram.
    channels : int
        Channels of the output.
    depth : int
        Layers of the dense block.
    patch : tuple
        Kernel of the projection, (time, frequency).
    stride : tuple
        Stride of the projection, (time, frequency), at most the patch.
    norm : str
        "batch" or "instance".

    Example
    -------
    >>> DenseEncoder(channels=8)(torch.rand(2, 1, 48, 64)).shape
    torch.Size([2, 8, 6, 8])
    >>> paper = DenseEncoder(1, 8, patch=(1, 1), stride=(1, 1))
    >>> paper(torch.rand(2, 1, 48, 64)).shape
    torch.Size([2, 8, 48, 32])
    """

    def __init__(
        self,
        in_channels=1,
        channels=64,
        depth=4,
        patch=(8, 8),
        stride=(8, 4),
        norm="batch",
    ):
        super().__init__()
        self.project = Projection(in_channels, channels, patch, stride, norm)
        self.dense_block = DenseBlock(channels, depth, norm)
        self.halve = ConvNormAct(
            channels, channels, (1, 3), norm, stride=(1, 2), padding=(0, 1)
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
            lengths, (batch, time), given in their place where it is known.

        Returns
        -------
        torch.Tensor
            (batch, channels, ceil(time / stride), bins), where there are
            :meth:`n_bins` bins.
        """
        if mask is None:
            mask = frame_mask(lengths, x.shape[2])
        if mask is not None:
            mask = mask[:, None, :, None].to(x.dtype)
        x, mask = self.project(x, mask)
        x = self.dense_block(x, mask)
        return self.halve(x, mask)

    def n_bins(self, n_mels):
        """Frequency bins of the output for this many mel bands."""
        return -(-n_mels // (2 * self.project.conv.stride[1]))

    def patch_mask(self, mask):
        """The mask (batch, time) at the frames of the output, or None."""
        return None if mask is None else mask[:, :: self.project.conv.stride[0]]
