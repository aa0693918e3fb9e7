"""A model under the names of SpeechBrain's ``EncoderClassifier``.

That interface passes on waveforms alone: place and time are unknown to it.
"""

import torch
from torch import nn


class EmbeddingModel(nn.Module):
    """Embeddings of features whose place and time are unknown.

    Arguments
    ---------
    model : torch.nn.Module
        Has the method ``embed``.
    context_encoder : torch.nn.Module, optional
        Of models that take place and time.

    Example
    -------
    >>> from ascmamba_modules.ascmamba import ASCMamba
    >>> model = EmbeddingModel(ASCMamba(channels=8, n_blocks=1))
    >>> model(torch.randn(2, 50, 64)).shape
    torch.Size([2, 128])
    """

    def __init__(self, model, context_encoder=None):
        super().__init__()
        self.model = model
        self.context_encoder = context_encoder

    def forward(self, features, lengths=None):
        """Maps (batch, time, n_mels) to (batch, embedding_size)."""
        context = None
        if self.context_encoder is not None:
            unknown = torch.zeros(
                len(features), 1, dtype=torch.long, device=features.device
            )
            context = self.context_encoder(unknown, unknown)
        return self.model.embed(features, context, lengths)


class Classifier(nn.Module):
    """Log-posteriors of embeddings.

    Arguments
    ---------
    model : torch.nn.Module
        Has the module ``classifier`` and the method ``log_posteriors``.

    Example
    -------
    >>> from ascmamba_modules.ascmamba import ASCMamba
    >>> classifier = Classifier(ASCMamba(channels=8, n_blocks=1))
    >>> classifier(torch.randn(2, 128)).shape
    torch.Size([2, 10])
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, embeddings):
        """Maps (batch, embedding_size) to (batch, n_classes)."""
        outputs = self.model.classifier(embeddings)
        if hasattr(self.model, "coarse_classifier"):  # SETrans has two
            outputs = outputs, self.model.coarse_classifier(embeddings)
        return self.model.log_posteriors(outputs)
