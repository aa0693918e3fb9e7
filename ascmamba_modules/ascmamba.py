"""The ASCMamba network.

Source: ASCMamba paper, section 3.1.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.dense_encoder import DenseEncoder
from ascmamba_modules.dual_path import DualPathMambaBlock
from ascmamba_modules.padding import check_features, frame_mask


class ASCMamba(nn.Module):
    """DenseEncoder, dual-path Mamba blocks, pooling over time, classifier.

    The paper does not say how features are pooled.  Here each frequency bin
    is pooled over time, by mean and maximum or by mean alone, and the
    classifier sees all bins: convolutions and scans treat bins alike, so that
    a mean over them too would forget at which frequencies the energy was.

    Arguments
    ---------
    n_classes : int
        Number of scenes.
    n_mels : int
        Mel bands of the features.
    channels : int
        Width of the network.
    n_blocks : int
        Number of dual-path blocks.
    context_size : int
        Length of the context vector.
    depth : int
        Layers of the dense block.
    patch, stride : tuple
        Kernel and stride of the encoder's projection, (time, frequency).
    norm : str
        Norm of the encoder, "batch" or "instance".
    dropout : float
        Dropout rate, in the blocks and before the classifier.
    pooling : str
        "mean_max" or "mean", over time.
    embedding_size : int, optional
        Length of the vector that the classifier sees; without, it sees all
        that pooling gives.
    **block_options
        Passed to :class:`~ascmamba_modules.dual_path.DualPathMambaBlock`:
        bidirectional, and what Mamba takes (d_state, d_conv, expand, engine
        ...).

    Example
    -------
    >>> model = ASCMamba(channels=8, n_blocks=1, context_size=4)
    >>> features = torch.randn(2, 50, 64)
    >>> model(features, context=torch.randn(2, 4)).shape
    torch.Size([2, 10])
    >>> model.embed(features, lengths=torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 128])
    """

    def __init__(
        self,
        n_classes=10,
        n_mels=64,
        channels=64,
        n_blocks=4,
        context_size=64,
        depth=4,
        patch=(8, 8),
        stride=(8, 4),
        norm="batch",
        dropout=0.1,
        pooling="mean_max",
        embedding_size=None,
        **block_options,
    ):
        super().__init__()
        if pooling not in ("mean_max", "mean"):
            raise ValueError(
                f"pooling must be mean_max or mean, got '{pooling}'."
            )
        self.pooling = pooling
        self.n_mels = n_mels
        self.context_size = context_size
        self.encoder = DenseEncoder(1, channels, depth, patch, stride, norm)
        self.blocks = nn.ModuleList(
            DualPathMambaBlock(channels, context_size, dropout, **block_options)
            for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        n_bins = self.encoder.n_bins(n_mels)
        n_statistics = 2 if pooling == "mean_max" else 1
        n_pooled = n_statistics * n_bins * channels
        self.bottleneck = nn.Identity()
        if embedding_size is not None:
            self.bottleneck = nn.Sequential(
                ClipNorm(n_pooled),
                nn.Linear(n_pooled, embedding_size),
                ClipNorm(embedding_size),
                nn.GELU(),
            )
        self.embedding_size = embedding_size or n_pooled
        self.classifier = nn.Linear(self.embedding_size, n_classes)

    def forward(self, features, context=None, lengths=None):
        """Classifies a batch of clips.

        Arguments
        ---------
        features : torch.Tensor
            Log-mel features (batch, time, n_mels).
        context : torch.Tensor, optional
            Context vectors (batch, context_size).  None is the zero vector,
            for models that go without place and time.
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            Logits (batch, n_classes).
        """
        return self.classifier(
            self.dropout(self.embed(features, context, lengths))
        )

    def embed(self, features, context=None, lengths=None):
        """Pools a batch of clips into vectors, the classifier's input.

        Arguments are those of :meth:`forward`.

        Returns
        -------
        torch.Tensor
            (batch, embedding_size).
        """
        check_features(features, self.n_mels)
        if context is None:
            context = features.new_zeros(len(features), self.context_size)
        mask = frame_mask(lengths, features.shape[1])  # (B, T) or None
        x = self.encoder(features.unsqueeze(1), mask=mask)  # (B, C, T', F')
        mask = self.encoder.patch_mask(mask)  # (B, T') or None
        x = x.permute(0, 2, 3, 1).contiguous()  # (B, T', F', C)
        for block in self.blocks:
            x = block(x, context, mask)
        x = self.norm(x)
        return self.bottleneck(self._pool(x, mask).flatten(1))

    def _pool(self, x, mask):
        """Pools (B, T', F', C) over time."""
        if mask is None:
            mean = x.mean(1)
        else:
            padding = ~mask[:, :, None, None]
            count = mask.sum(1)[:, None, None]
            mean = x.masked_fill(padding, 0.0).sum(1) / count
            x = x.masked_fill(padding, -torch.inf)
        if self.pooling == "mean":
            return mean
        return torch.cat([mean, x.amax(1)], dim=-1)

    @staticmethod
    def log_posteriors(outputs):
        """Log-posteriors (batch, n_classes) from the output of a call."""
        return F.log_softmax(outputs.float(), dim=-1)


class ClipNorm(nn.BatchNorm1d):
    """Batch norm over clips (B, C); a lone clip gets the running statistics,
    as it has no deviation of its own.

    Example
    -------
    >>> ClipNorm(3)(torch.rand(1, 3)).shape
    torch.Size([1, 3])
    """

    def forward(self, x):
        """Maps (B, C)."""
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(
            *(x, self.running_mean, self.running_var),
            *(self.weight, self.bias),
            eps=self.eps,
        )
