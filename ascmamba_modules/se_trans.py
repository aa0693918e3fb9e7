"""Improved SE-Trans, the second annotator.

Source: ASCMamba paper, section 3.2, on the SE-Trans of J. Bai et al., "A
Squeeze-and-Excitation and Transformer-based Cross-task Model for Environmental
Sound Recognition", 2022.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.dense_encoder import BatchNorm, Projection
from ascmamba_modules.padding import check_features, frame_counts, frame_mask

# Bus, Airport, Metro, Restaurant, Shopping mall: indoor (0); Public square,
# Urban park, Traffic street, Construction site: outdoor (1); Bar: indoor.
CAS_SUPERSET = (0, 0, 0, 0, 0, 1, 1, 1, 1, 0)


def superset_indices(superset, classes):
    """Turns a map from scene to superset into indices.

    Arguments
    ---------
    superset : dict
        Name of the superset (such as "indoor") of each scene.
    classes : list
        Scenes in the order of the classifier.

    Returns
    -------
    list
        Index of each scene's superset; supersets count in order of their
        names.

    Raises
    ------
    ValueError
        If a scene has no superset.

    Example
    -------
    >>> superset_indices({"bus": "indoor", "park": "outdoor"}, ["park", "bus"])
    [1, 0]
    """
    missing = [scene for scene in classes if scene not in superset]
    if missing:
        raise ValueError(
            f"No superset is given for: {', '.join(missing)}. Add them to "
            "the map 'superset', as indoor or outdoor."
        )
    names = sorted({superset[scene] for scene in classes})
    return [names.index(superset[scene]) for scene in classes]


class MultiScaleSE(nn.Module):
    """Squeeze-and-excitation from 1x1, 2x2 and 3x3 average pooling.

    Pools over the valid part of each clip only, so that padding does not
    change the gates.

    Arguments
    ---------
    channels : int
        Channels of the feature map.
    reduction : int
        Channels are squeezed by this factor.
    scales : tuple
        Each scale s pools into s x s bins over time and frequency.

    Example
    -------
    >>> MultiScaleSE(32)(torch.rand(2, 32, 50, 16)).shape
    torch.Size([2, 32, 50, 16])
    """

    def __init__(self, channels, reduction=16, scales=(1, 2, 3)):
        super().__init__()
        self.scales = tuple(scales)
        n_bins = sum(scale**2 for scale in self.scales)
        squeezed = max(1, channels // reduction)
        self.squeeze = nn.Linear(n_bins * channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x, counts=None):
        """Weighs the channels of a batch of feature maps.

        Arguments
        ---------
        x : torch.Tensor
            (batch, channels, time, frequency).
        counts : torch.Tensor, optional
            Valid frames of each map (batch).

        Returns
        -------
        torch.Tensor
            Of the shape of x.
        """
        if counts is None:
            pooled = [F.adaptive_avg_pool2d(x, scale) for scale in self.scales]
        else:
            pooled = [_pool_valid(x, counts, scale) for scale in self.scales]
        pooled = torch.cat([p.flatten(1) for p in pooled], dim=1)
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))
        return x * gates[:, :, None, None]


def _pool_valid(x, counts, scale):
    """adaptive_avg_pool2d of the first ``counts`` frames of each map."""
    x = F.adaptive_avg_pool2d(x, (x.shape[2], scale))  # (B, C, T, s)
    frames = torch.arange(x.shape[2], device=x.device)
    bins = torch.arange(scale, device=x.device).unsqueeze(1)
    counts = counts[:, None, None]
    first = bins * counts // scale  # (B, s, 1)
    end = ((bins + 1) * counts + scale - 1) // scale
    inside = ((frames >= first) & (frames < end)).to(x.dtype)  # (B, s, T)
    weights = inside / (end - first)
    return torch.einsum("bst,bctf->bcsf", weights, x)


class SEBlock(nn.Module):
    """Two convolutions, multi-scale SE, and 2x2 average pooling.

    Arguments
    ---------
    in_channels, out_channels : int
        Channels before and after.
    scales : tuple
        Pooling scales of the SE layer.

    Example
    -------
    >>> x, counts = SEBlock(1, 32)(torch.rand(2, 1, 50, 64))
    >>> x.shape
    torch.Size([2, 32, 25, 32])
    """

    def __init__(self, in_channels, out_channels, scales=(1, 2, 3)):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(c, out_channels, 3, padding=1, bias=False)
            for c in (in_channels, out_channels)
        )
        self.norms = nn.ModuleList(BatchNorm(out_channels) for _ in "ab")
        self.se = MultiScaleSE(out_channels, scales=scales)

    def forward(self, x, counts=None):
        """Maps (B, C, T, F) and its valid frames (B) to half their size."""
        mask = None
        if counts is not None:
            frames = torch.arange(x.shape[2], device=x.device)
            mask = (frames < counts.unsqueeze(1))[:, None, :, None]
        for conv, norm in zip(self.convs, self.norms):
            if mask is not None:  # what a convolution sees behind the end
                x = x * mask
            x = F.relu(norm(conv(x), mask))
        x = self.se(x, counts)
        # At least one frame stays, however short the clip.
        window = (min(2, x.shape[2]), 2)
        if counts is not None:
            x = x * mask
            single = (counts == 1)[:, None, None, None]
            # The mean of a lone frame and padding is half of that frame.
            x = torch.where(single, window[0] * x, x)
            counts = (counts // 2).clamp(min=1)
        return F.avg_pool2d(x, window), counts


class SETrans(nn.Module):
    """Convolutions with multi-scale SE, Transformer, and two classifiers.

    One classifier tells the scenes apart, the other their supersets (indoor
    and outdoor); :meth:`fuse` joins their scores.

    Arguments
    ---------
    n_classes : int
        Number of scenes.
    n_coarse : int
        Number of supersets.
    superset : list, optional
        Index of the superset of each scene; by default the ten scenes of
        CAS in the organisers' order, with the airport indoors.
    n_mels : int
        Mel bands of the features.
    channels : tuple
        Channels of the two SE blocks; the last is the Transformer's width.
    scales : tuple
        Pooling scales of the SE layers.
    n_heads, d_ffn, n_layers : int
        Heads, inner width and layers of the Transformer encoder.
    dropout : float
        Dropout rate.
    patch, stride : tuple
        Kernel and stride of a projection in front of the SE blocks, as
        ASCMamba's encoder has; a patch of (1, 1), as in the paper, is none.
    patch_channels : int
        Channels of that projection.

    Example
    -------
    >>> model = SETrans(channels=(16, 32), n_heads=4)
    >>> fine, coarse = model(torch.randn(2, 50, 64))
    >>> fine.shape, coarse.shape, model.fuse(fine, coarse).shape
    (torch.Size([2, 10]), torch.Size([2, 2]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        n_classes=10,
        n_coarse=2,
        superset=None,
        n_mels=64,
        channels=(64, 128),
        scales=(1, 2, 3),
        n_heads=8,
        d_ffn=512,
        n_layers=1,
        dropout=0.1,
        patch=(1, 1),
        stride=(1, 1),
        patch_channels=16,
    ):
        super().__init__()
        if superset is None:
            superset = CAS_SUPERSET
        if len(superset) != n_classes or not all(
            0 <= index < n_coarse for index in superset
        ):
            raise ValueError(
                f"'superset' must hold {n_classes} indices under {n_coarse}, "
                f"one a scene, got {list(superset)}."
            )
        self.n_mels = n_mels
        self.register_buffer(
            "superset", torch.tensor(list(superset)), persistent=False
        )
        self.project = None
        if tuple(patch) != (1, 1):
            self.project = Projection(1, patch_channels, patch, stride)
        first = 1 if self.project is None else patch_channels
        self.blocks = nn.ModuleList(
            SEBlock(before, after, scales)
            for before, after in zip((first, *channels), channels)
        )
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            channels[-1], n_heads, d_ffn, dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(
            layer, n_layers, enable_nested_tensor=False
        )
        self.embedding_size = channels[-1]
        self.classifier = nn.Linear(channels[-1], n_classes)
        self.coarse_classifier = nn.Linear(channels[-1], n_coarse)

    def forward(self, features, context=None, lengths=None):
        """Classifies a batch of clips.

        Arguments
        ---------
        features : torch.Tensor
            Log-mel features (batch, time, n_mels).
        context : torch.Tensor, optional
            Taken so that models can stand in for each other; not used.
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        fine : torch.Tensor
            Logits of the scenes (batch, n_classes).
        coarse : torch.Tensor
            Logits of the supersets (batch, n_coarse).
        """
        x = self.dropout(self.embed(features, context, lengths))
        return self.classifier(x), self.coarse_classifier(x)

    def embed(self, features, context=None, lengths=None):
        """Pools a batch of clips into vectors, the classifiers' input.

        Arguments are those of :meth:`forward`.

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
        if self.project is not None:
            mask = frame_mask(lengths, features.shape[1])
            if mask is not None:
                mask = mask[:, None, :, None].to(x.dtype)
            x, _ = self.project(x, mask)  # (B, C, T', F')
            if counts is not None:
                counts = -(-counts // self.project.conv.stride[0])
        for block in self.blocks:
            x, counts = block(x, counts)
            x = self.dropout(x)
        x = x.mean(3).transpose(1, 2)  # (B, T' / 4, C)
        padding = None
        if counts is not None:
            frames = torch.arange(x.shape[1], device=x.device)
            padding = frames >= counts.unsqueeze(1)  # (B, T' / 4)
        x = self.transformer(x, src_key_padding_mask=padding)
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), -torch.inf)
        return x.amax(1)

    def fuse(self, fine, coarse):
        """Joins the scores of both classifiers, equation 2 of the paper.

        Source: H. Hu et al., "A Two-Stage Approach to Device-Robust Acoustic
        Scene Classification", 2021.

        Arguments
        ---------
        fine, coarse : torch.Tensor
            Logits (batch, n_classes) and (batch, n_coarse).

        Returns
        -------
        torch.Tensor
            P(scene) times P(superset of the scene) (batch, n_classes).  Rows
            do not sum to 1; :meth:`log_posteriors` normalises them.
        """
        fine = F.softmax(fine.float(), dim=-1)
        coarse = F.softmax(coarse.float(), dim=-1)
        return fine * coarse[:, self.superset]

    def log_posteriors(self, outputs):
        """Log-posteriors (batch, n_classes) from the output of a call."""
        fine, coarse = outputs
        fine = F.log_softmax(fine.float(), dim=-1)
        coarse = F.log_softmax(coarse.float(), dim=-1)
        return F.log_softmax(fine + coarse[:, self.superset], dim=-1)
