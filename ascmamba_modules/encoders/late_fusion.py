"""Place and time concatenated to an audio embedding.

Source: J. Bai et al., baseline of the APSIPA ASC 2025 Grand Challenge.
"""

import torch
import torch.nn.functional as F
from torch import nn


class LateFusion(nn.Module):
    """Audio encoder, concatenation with the context vector, classifier.

    Unlike in :class:`~ascmamba_modules.ascmamba.ASCMamba`, place and time do
    not change how the audio is encoded.  The organisers concatenate one vector
    for the place and one for the time, here they come added up from
    :class:`~ascmamba_modules.context.ContextEncoder`.

    Arguments
    ---------
    audio_encoder : torch.nn.Module
        Maps features (batch, time, n_mels) and relative lengths (batch, or
        None) to (batch, embedding_size), and has the attribute
        ``embedding_size``.
    n_classes : int
        Number of scenes.
    context_size : int
        Length of the context vector.
    dropout : float
        Dropout rate before the classifier.

    Example
    -------
    >>> from ascmamba_modules.encoders.baseline import SETransEncoder
    >>> model = LateFusion(SETransEncoder(channels=(8, 16)), context_size=4)
    >>> features = torch.randn(2, 50, 64)
    >>> model(features, context=torch.randn(2, 4)).shape
    torch.Size([2, 10])
    >>> model.embed(features, lengths=torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 16])
    """

    def __init__(
        self, audio_encoder, n_classes=10, context_size=32, dropout=0.1
    ):
        super().__init__()
        self.context_size = context_size
        self.audio_encoder = audio_encoder
        self.embedding_size = audio_encoder.embedding_size
        self.fusion = nn.Linear(
            self.embedding_size + context_size, self.embedding_size
        )
        self.dropout = nn.Dropout(dropout)
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
        """Turns a batch of clips into vectors, the classifier's input.

        Arguments are those of :meth:`forward`.

        Returns
        -------
        torch.Tensor
            (batch, embedding_size).
        """
        audio = self.audio_encoder(features, lengths)
        if context is None:
            context = audio.new_zeros(len(audio), self.context_size)
        return F.relu(self.fusion(torch.cat([audio, context], dim=1)))

    @staticmethod
    def log_posteriors(outputs):
        """Log-posteriors (batch, n_classes) from the output of a call."""
        return F.log_softmax(outputs.float(), dim=-1)
