"""First derivatives alone, and an error where second ones are asked for."""

import functools

import torch


def first_derivatives_only(backward):
    """Decorates the ``backward`` of a ``torch.autograd.Function``.

    PyTorch's ``once_differentiable`` stops ``backward()`` alone:
    ``torch.autograd.grad`` takes such gradients for constants and leaves what
    depends on them out of the second derivative without a word.

    Arguments
    ---------
    backward : callable
        Computes gradients outside of what PyTorch differentiates.

    Returns
    -------
    callable
        The same, which refuses to be part of a graph (``create_graph=True``).

    Example
    -------
    >>> class Double(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return 2 * x
    ...
    ...     @staticmethod
    ...     @first_derivatives_only
    ...     def backward(ctx, grad):
    ...         return 2 * grad
    >>> x = torch.ones(1, requires_grad=True)
    >>> torch.autograd.grad(Double.apply(x), x)
    (tensor([2.]),)
    """

    @functools.wraps(backward)
    def wrapper(ctx, *gradients):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The selective scan has no second derivatives: call backward "
                "or torch.autograd.grad without create_graph=True."
            )
        return backward(ctx, *gradients)

    return wrapper
