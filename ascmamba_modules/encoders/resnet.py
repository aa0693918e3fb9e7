"""A ResNet with squeeze-and-excitation and attention, as audio encoder.

Source: the challenge's third-placed team took an attention-based ResNet
(ASCMamba paper, section 5).  The network here is SpeechBrain's, by M. Rouvier,
which was made for speakers.
"""

import torch
from speechbrain.lobes.models.ResNet import ResNet, SEBasicBlock

from ascmamba_modules.ascmamba import ClipNorm
from ascmamba_modules.padding import check_features, frame_mask


class ResNetEncoder(ResNet):
    """SpeechBrain's ResNet, blind to padding.

    ``speechbrain.lobes.models.ResNet.ResNet`` takes lengths and ignores them.
    Here a clip has the same embedding with and without padding (in training
    but for the batch norms, whose statistics count padded frames), and it can
    train on a batch of one clip, such as an epoch may end with.  Names and
    shapes of the weights are SpeechBrain's.

    Arguments
    ---------
    n_mels : int
        Mel bands of the features.
    channels, block_sizes, strides : list
        Channels, number of blocks and stride of each of the four stages.
    embedding_size : int
        Length of the embedding.

    Example
    -------
    >>> encoder = ResNetEncoder(64, [4, 4, 8, 8], [1, 1, 1, 1])
    >>> encoder(torch.randn(2, 50, 64), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 128])
    """

    def __init__(
        self,
        n_mels=64,
        channels=(32, 32, 64, 64),
        block_sizes=(3, 4, 6, 3),
        strides=(1, 2, 2, 2),
        embedding_size=128,
    ):
        super().__init__(
            input_size=n_mels,
            channels=channels,
            block_sizes=block_sizes,
            strides=strides,
            lin_neurons=embedding_size,
        )
        self.n_mels = n_mels
        self.embedding_size = embedding_size
        self.norm_stats = ClipNorm(self.norm_stats.num_features)
        self.norm_embed = ClipNorm(embedding_size)

    def forward(self, x, lengths=None):
        """Encodes a batch of clips.

        Arguments
        ---------
        x : torch.Tensor
            Log-mel features (batch, time, n_mels).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            (batch, embedding_size).
        """
        check_features(x, self.n_mels)
        mask = frame_mask(lengths, x.shape[1])
        if mask is None:
            return super().forward(x)
        mask = mask[:, None, :, None].to(x.dtype)  # (B, 1, T, 1)
        x = self.conv1(x.unsqueeze(1) * mask)  # (B, C, T, F)
        x = self.activation1(self.bn1(x))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x, mask = _masked_block(block, x, mask)
        x = x.transpose(2, 3).flatten(1, 2)  # (B, C F', T')
        return self._masked_pooling(x, mask[:, :, :, 0])

    def _masked_pooling(self, x, mask):
        """Weighted mean and deviation of the valid frames, and embedding."""
        *scores, softmax = self.attention
        weights = x
        for layer in scores:
            weights = layer(weights)
        weights = softmax(weights.masked_fill(mask == 0, -torch.inf))
        mean = (x * weights).sum(2)
        variance = (x.square() * weights).sum(2) - mean.square()
        deviation = variance.clamp(min=1e-5).sqrt()
        x = self.norm_stats(torch.cat([mean, deviation], dim=1))
        return self.norm_embed(self.fc_embed(x))


def _masked_block(block, x, mask):
    """A block of SpeechBrain's whose 3x3 convolutions see zeros as padding.

    Takes and returns (B, C, T, F) and a mask (B, 1, T, 1) of ones and zeros.
    """
    out = block.conv1(block.activation(block.bn1(x)) * mask)
    # A strided convolution is centred on each second frame, from the first.
    mask = mask[:, :, :: block.stride]
    out = block.conv2(block.activation(block.bn2(out)) * mask)
    out = block.conv3(block.activation(block.bn3(out)))
    if isinstance(block, SEBasicBlock):
        n_values = mask.sum((2, 3)) * out.shape[3]
        squeezed = (out * mask).sum((2, 3)) / n_values  # (B, C)
        out = out * block.se.fc(squeezed)[:, :, None, None]
    if block.downsample is not None:
        x = block.downsample(x)
    return out + x, mask
