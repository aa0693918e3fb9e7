"""Augmentations on features that SpeechBrain does not have."""

import torch
import torch.nn.functional as F
from torch import nn

from ascmamba_modules.padding import frame_counts, valid_frames


class Mixup(nn.Module):
    """Mixes the features of pairs of clips.

    Source: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.

    Arguments
    ---------
    alpha : float
        Weights are drawn from Beta(alpha, alpha); 0 disables mixing.

    Example
    -------
    >>> mixup = Mixup(alpha=0.3)
    >>> features, lengths = torch.rand(4, 50, 64), torch.ones(4)
    >>> features, lengths, partner, weight = mixup(features, lengths)
    >>> features.shape, partner.shape, weight.shape
    (torch.Size([4, 50, 64]), torch.Size([4]), torch.Size([4]))
    """

    def __init__(self, alpha=0.0):
        super().__init__()
        if alpha < 0:
            raise ValueError(f"Mixup: alpha must be at least 0, got {alpha}.")
        self.alpha = alpha

    def forward(self, features, lengths):
        """Mixes a batch.

        Arguments
        ---------
        features : torch.Tensor
            (batch, time, n_mels).
        lengths : torch.Tensor
            Relative lengths (batch).

        Returns
        -------
        features : torch.Tensor
            weight * clip + (1 - weight) * partner (batch, time, n_mels).
        lengths : torch.Tensor
            Of the longer clip of each pair (batch).
        partner : torch.Tensor
            Index of each clip's partner (batch).
        weight : torch.Tensor
            Weight of the clip itself (batch).
        """
        batch = len(features)
        device = features.device
        partner = torch.arange(batch, device=device)
        weight = torch.ones(batch, device=device)
        if self.alpha == 0:
            return features, lengths, partner, weight
        partner = torch.randperm(batch, device=device)
        # On the device and without validation, so that the host need not wait.
        alpha = torch.full((), float(self.alpha), device=device)
        beta = torch.distributions.Beta(alpha, alpha, validate_args=False)
        weight = beta.sample((batch,))
        mask = valid_frames(lengths, features.shape[1])
        features = blend(features * mask.unsqueeze(-1), partner, weight)
        return (
            features,
            torch.maximum(lengths, lengths[partner]),
            partner,
            weight,
        )


def blend(x, partner, weight):
    """Mixes the rows of a tensor as :class:`Mixup` mixes features.

    Arguments
    ---------
    x : torch.Tensor
        (batch, ...).
    partner, weight : torch.Tensor
        As returned by :class:`Mixup` (batch).

    Returns
    -------
    torch.Tensor
        Of the shape of x.

    Example
    -------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> blend(x, torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))
    tensor([[0.2500],
            [1.0000]])
    """
    weight = weight.view(-1, *([1] * (x.dim() - 1)))
    return weight * x + (1 - weight) * x[partner]


class RandomEqualizer(nn.Module):
    """Adds a random smooth gain over frequency to log-mel spectrograms.

    It imitates another microphone: gains at evenly spaced bands are drawn
    from a normal distribution and interpolated linearly between them.

    Source: H. Nam et al., "FilterAugment: An Acoustic Environmental Data
    Augmentation Method", 2022 (its linear type).

    Arguments
    ---------
    std : float
        Standard deviation of the gains, in the unit of the features.
    n_points : int
        Number of bands at which gains are drawn.

    Example
    -------
    >>> equalizer = RandomEqualizer(std=0.3)
    >>> equalizer(torch.zeros(2, 50, 64)).shape
    torch.Size([2, 50, 64])
    """

    def __init__(self, std=0.3, n_points=6):
        super().__init__()
        self.std = std
        self.n_points = n_points

    def forward(self, features):
        """Returns equalised features (batch, time, n_mels)."""
        batch, _, n_mels = features.shape
        gains = torch.randn(batch, 1, self.n_points, device=features.device)
        curve = F.interpolate(
            self.std * gains, n_mels, mode="linear", align_corners=True
        )  # (B, 1, n_mels)
        return features + curve


class RandomBandPass(nn.Module):
    """Takes away the bands outside of two random edges, as a telephone does.

    They become 0, the mean of normalised features.

    Arguments
    ---------
    prob : float
        Share of clips.
    low : float
        Highest lower edge, as a share of the bands.
    high : float
        Lowest upper edge, likewise.

    Example
    -------
    >>> band_pass = RandomBandPass(prob=1.0, low=0.0, high=0.5)
    >>> x = band_pass(torch.ones(2, 50, 64))
    >>> x[:, :, :32].mean(), x.shape
    (tensor(1.), torch.Size([2, 50, 64]))
    """

    def __init__(self, prob=0.5, low=0.12, high=0.35):
        super().__init__()
        self.prob = prob
        self.low = low
        self.high = high

    def forward(self, features):
        """Returns limited features (batch, time, n_mels)."""
        if self.prob == 0:
            return features
        batch, _, n_mels = features.shape
        draws = torch.rand(3, batch, 1, 1, device=features.device)
        low = self.low * draws[0] * n_mels
        high = (self.high + (1 - self.high) * draws[1]) * n_mels
        band = torch.arange(n_mels, device=features.device)  # (F)
        kept = (low < band + 1) & (band < high) | (draws[2] >= self.prob)
        return features * kept  # (B, 1, F)


class RandomRoll(nn.Module):
    """Starts each clip at a random frame and goes on from its end to there.

    ``speechbrain.augment.freq_domain.RandomShift`` rolls padding into clips
    and shifts their lengths.

    Example
    -------
    >>> roll = RandomRoll()
    >>> roll(torch.rand(2, 50, 64), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 50, 64])
    """

    def forward(self, features, lengths):
        """Rolls (batch, time, n_mels) within its relative lengths (batch)."""
        n_frames = features.shape[1]
        counts = frame_counts(lengths, n_frames).unsqueeze(1)  # (B, 1)
        shift = (torch.rand_like(lengths) * counts[:, 0]).long().unsqueeze(1)
        frames = torch.arange(n_frames, device=features.device)  # (T)
        rolled = (frames + shift) % counts  # (B, T)
        rows = torch.where(frames < counts, rolled, frames).unsqueeze(2)
        return features.gather(1, rows.expand_as(features))
