"""The ResNet encoder against SpeechBrain's own, and with padding."""

import pytest
import torch
from model_checks import (
    check_bfloat16,
    check_gradients,
    check_padding,
    check_shapes_refused,
)
from speechbrain.lobes.models.ResNet import ResNet

from ascmamba_modules.encoders.resnet import ResNetEncoder

CHANNELS, BLOCKS = (4, 6, 6, 8), (2, 1, 2, 1)


def small(n_mels=9, strides=(1, 2, 2, 2)):
    return ResNetEncoder(n_mels, CHANNELS, BLOCKS, strides, embedding_size=5)


@pytest.fixture
def encoder(randomise):
    return randomise(small()).eval()


@pytest.mark.parametrize("frames", [1, 2, 37])
@pytest.mark.parametrize("n_mels", [4, 31, 64])
def test_shapes(n_mels, frames):
    encoder = small(n_mels).eval()
    assert encoder(torch.randn(2, frames, n_mels)).shape == (2, 5)


def test_weights_and_results_are_those_of_speechbrain(encoder):
    reference = ResNet(
        input_size=9,
        channels=CHANNELS,
        block_sizes=BLOCKS,
        strides=(1, 2, 2, 2),
        lin_neurons=5,
    ).eval()
    reference.load_state_dict(encoder.state_dict(), strict=True)
    features = torch.randn(2, 41, 9)
    assert torch.equal(encoder(features), reference(features))
    assert torch.equal(
        encoder(features, torch.ones(2)), reference(features, torch.ones(2))
    )


@pytest.mark.parametrize("garbage", [0.0, 100.0])
@pytest.mark.parametrize("strides", [(1, 2, 2, 2), (2, 1, 3, 1)], ids=str)
def test_padding_does_not_change_the_embedding(garbage, strides, randomise):
    # float64, because a deviation over few frames is a small difference of
    # large numbers.
    encoder = randomise(small(strides=strides)).double().eval()
    counts = [41, 40, 33, 32, 23, 17, 16, 9, 8, 7, 5, 4, 3, 2, 1]
    close = {"dtype": torch.float64, "rtol": 1e-6, "atol": 1e-6}
    check_padding(encoder, counts, 9, garbage, **close)


@pytest.mark.parametrize("lengths", [None, torch.tensor([1.0, 0.7, 0.5])])
def test_every_parameter_gets_a_gradient(lengths):
    # Not in training, where batch norms take away the biases before them.
    encoder = small().eval()
    embedding = encoder(torch.randn(3, 40, 9), lengths)
    # The softmax takes away what is added to all frames.
    silent = ("attention.2.bias", "attention.3.bias")
    check_gradients(encoder, embedding, silent=silent, least=1e-5)


@pytest.mark.parametrize(
    "lengths", [None, torch.tensor([1.0, 0.3, 0.1]), torch.ones(1)]
)
def test_training_gives_finite_gradients(lengths):
    encoder = small()
    features = torch.randn(3 if lengths is None else len(lengths), 40, 9)
    encoder(features, lengths).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_lone_clip_is_normed_by_the_running_statistics():
    encoder = small()
    encoder(torch.randn(4, 40, 9))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    lone = encoder(torch.randn(1, 40, 9))
    assert lone.abs().max() > 0.01
    after = encoder.state_dict()
    for name in ("norm_stats.running_mean", "norm_embed.running_var"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(
        before["bn1.running_mean"], after["bn1.running_mean"]
    )


def test_bfloat16_autocast_stays_close_to_full_precision():
    check_bfloat16(small().eval())


def test_features_of_a_wrong_shape_are_refused(encoder):
    check_shapes_refused(encoder)
