"""Layer normalisation whose scale and shift depend on a context vector.

Source: ASCMamba paper, equation 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class ConditionalLayerNorm(nn.Module):
    """gamma(c) * norm(x) + beta(c), with linear gamma and beta.

    Starts as plain normalisation, whatever the context: gamma is 1 and beta 0
    until training moves them.

    Arguments
    ---------
    normalized_shape : int or tuple
        Last dimensions of x, over which it is normalised.
    context_size : int
        Length of the context vector c.
    eps : float
        Added to the variance.

    Example
    -------
    >>> norm = ConditionalLayerNorm(8, context_size=3)
    >>> norm(torch.rand(2, 50, 8), torch.rand(2, 3)).shape
    torch.Size([2, 50, 8])
    """

    def __init__(self, normalized_shape, context_size, eps=1e-5):
        super().__init__()
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.normalized_shape = tuple(normalized_shape)
        self.eps = eps
        size = math.prod(self.normalized_shape)
        self.gamma = nn.Linear(context_size, size)
        self.beta = nn.Linear(context_size, size)
        for linear, start in ((self.gamma, 1.0), (self.beta, 0.0)):
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, start)

    def forward(self, x, c):
        """Normalises a batch under its contexts.

        Arguments
        ---------
        x : torch.Tensor
            (batch, ..., *normalized_shape).
        c : torch.Tensor
            Context vectors (batch, context_size).

        Returns
        -------
        torch.Tensor
            Of the shape of x.
        """
        between = x.dim() - 1 - len(self.normalized_shape)
        shape = (-1, *([1] * between), *self.normalized_shape)
        gamma = self.gamma(c).view(shape)
        beta = self.beta(c).view(shape)
        x = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        return torch.addcmul(beta, gamma, x)
