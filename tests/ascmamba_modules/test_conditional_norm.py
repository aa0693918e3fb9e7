"""ConditionalLayerNorm is equation 1 of the paper."""

import itertools

import pytest
import torch

from ascmamba_modules.conditional_norm import ConditionalLayerNorm

SHAPES = [8, (8,), (5, 4), (3, 5, 2)]
BETWEEN = [(), (6,), (6, 3)]


def batch_of(between, normalized_shape):
    last = normalized_shape
    last = (last,) if isinstance(last, int) else last
    return 3 * torch.randn(4, *between, *last) + 1


@pytest.mark.parametrize("between", BETWEEN, ids=str)
@pytest.mark.parametrize("normalized_shape", SHAPES, ids=str)
def test_scale_and_shift_are_linear_in_the_context(
    normalized_shape, between, randomise
):
    norm = randomise(ConditionalLayerNorm(normalized_shape, context_size=3))
    x = batch_of(between, normalized_shape)
    contexts = torch.randn(4, 3)
    y = norm(x, contexts)
    assert y.shape == x.shape
    for clip, context, actual in zip(x, contexts, y):
        gamma = (norm.gamma.weight * context).sum(1) + norm.gamma.bias
        beta = (norm.beta.weight * context).sum(1) + norm.beta.bias
        for place in itertools.product(*map(range, between)):
            values = clip[place].flatten()
            mean = values.mean()
            variance = (values - mean).square().mean()
            expected = gamma * (values - mean) / (variance + 1e-5).sqrt() + beta
            torch.testing.assert_close(
                actual[place].flatten(), expected, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("normalized_shape", SHAPES, ids=str)
def test_starts_as_layer_norm_whatever_the_context(normalized_shape, eps):
    norm = ConditionalLayerNorm(normalized_shape, context_size=3, eps=eps)
    plain = torch.nn.LayerNorm(normalized_shape, eps=eps)
    x = batch_of((6,), normalized_shape)
    for context in (torch.zeros(4, 3), 100 * torch.randn(4, 3)):
        torch.testing.assert_close(norm(x, context), plain(x))


def test_context_and_every_parameter_get_a_gradient(randomise):
    norm = randomise(ConditionalLayerNorm(8, context_size=3))
    context = torch.randn(4, 3, requires_grad=True)
    norm(torch.randn(4, 6, 8), context).square().sum().backward()
    for tensor in (context, *norm.parameters()):
        assert tensor.grad.abs().min() > 0
