"""The audio encoder of the challenge's baseline, SE-Trans.

Source: J. Bai et al., "A Squeeze-and-Excitation and Transformer-based
Cross-task Model for Environmental Sound Recognition", 2022, with the sizes of
the baseline of the APSIPA ASC 2025 Grand Challenge.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.padding import check_features, frame_counts
from ascmamba_modules.se_trans import SEBlock


class SETransEncoder(nn.Module):
    """Convolutions with single-scale SE, and a Transformer over segments.

    Each clip is averaged into the same number of segments, however long it
    is.  The gates of the SE act once a block, as in
    :class:`~ascmamba_modules.se_trans.SETrans`, so that scale alone tells
    the two apart; the organisers' code has them behind each convolution.

    Arguments
    ---------
    n_mels : int
        Mel bands of the features.
    channels : tuple
        Channels of the two SE blocks; the last is the Transformer's width.
    n_segments : int
        Segments of time that the Transformer sees.
    n_heads, d_ffn, n_layers : int
        Heads, inner width and layers of the Transformer encoder.
    dropout : float
        Dropout rate of the Transformer encoder.

    Example
    -------
    >>> encoder = SETransEncoder(channels=(8, 16))
    >>> encoder(torch.randn(2, 50, 64), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        n_mels=64,
        channels=(64, 128),
        n_segments=16,
        n_heads=8,
        d_ffn=32,
        n_layers=1,
        dropout=0.1,
    ):
        super().__init__()
        self.n_mels = n_mels
        self.n_segments = n_segments
        self.blocks = nn.ModuleList(
            SEBlock(before, after, scales=(1,))
            for before, after in zip((1, *channels), channels)
        )
        layer = nn.TransformerEncoderLayer(
            channels[-1], n_heads, d_ffn, dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, n_layers, enable_nested_tensor=False
        )
        self.embedding_size = channels[-1]

    def forward(self, features, lengths=None):
        """Encodes a batch of clips.

        Arguments
        ---------
        features : torch.Tensor
            Log-mel features (batch, time, n_mels).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            (batch, embedding_size).
        """
        check_features(features, self.n_mels)
        counts = None
        if lengths is not None:
            counts = frame_counts(lengths, features.shape[1])
        x = features.unsqueeze(1)  # (B, 1, T, F)
        for block in self.blocks:
            x, counts = block(x, counts)
        x = self._segments(x.mean(3), counts).transpose(1, 2)  # (B, S, C)
        return self.transformer(x).amax(1)

    def _segments(self, x, counts):
        """Averages the valid frames of (B, C, T) into (B, C, segments)."""
        if counts is None:
            return F.adaptive_avg_pool1d(x, self.n_segments)
        return torch.stack(
            [
                F.adaptive_avg_pool1d(clip[:, :count], self.n_segments)
                for clip, count in zip(x, counts.tolist())
            ]
        )
