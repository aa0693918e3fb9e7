"""Late fusion: what the classifier sees of audio, place and time."""

import pytest
import torch
from model_checks import check_classifier
from torch import nn

from ascmamba_modules.context import ContextEncoder, ContextTokenizer
from ascmamba_modules.encoders.late_fusion import LateFusion


class MeanEncoder(nn.Module):
    """The mean of the valid frames."""

    embedding_size = 9

    def forward(self, features, lengths=None):
        if lengths is None:
            return features.mean(1)
        counts = (lengths * features.shape[1]).round().int()
        return torch.stack(
            [clip[:count].mean(0) for clip, count in zip(features, counts)]
        )


@pytest.fixture
def model(randomise):
    model = LateFusion(MeanEncoder(), n_classes=4, context_size=3)
    return randomise(model).eval()


def test_logits_by_hand(model):
    features, context = torch.randn(2, 20, 9), torch.randn(2, 3)
    logits = model(features, context, torch.tensor([1.0, 0.5]))
    embedding = model.embed(features, context, torch.tensor([1.0, 0.5]))
    for row, count in enumerate((20, 10)):
        audio = features[row, :count].mean(0)
        hidden = model.fusion.weight @ torch.cat([audio, context[row]])
        hidden = (hidden + model.fusion.bias).clamp(min=0)
        torch.testing.assert_close(embedding[row], hidden)
        expected = model.classifier.weight @ hidden + model.classifier.bias
        torch.testing.assert_close(logits[row], expected)


def test_no_context_posteriors_and_dropout(model):
    check_classifier(model)


NOON = "2023-04-21 12:00:00"


@pytest.mark.parametrize(
    "one, other, same",
    [
        (("Luoyang", NOON), ("Xi'an", NOON), False),
        # Errors of the organisers' baseline: one time was all times, and any
        # city that it did not know was Xi'an.
        (("Xi'an", NOON), ("Xi'an", "2023-04-21 13:00:00"), False),
        (("Xi'an", NOON), ("Xi'an", "2023-04-22 12:00:00"), False),
        (("Xi'an", NOON), ("Xi'an", None), False),
        (("Xi'an", NOON), ("Nanchang", NOON), False),
        (("Xi'an", NOON), (None, NOON), False),
        (("", NOON), (None, NOON), True),
        (("XI’AN", NOON), ("Xi'an", NOON), True),
    ],
)
def test_place_and_time_reach_the_logits(one, other, same, model, randomise):
    tokenizer = ContextTokenizer()
    tokenizer.train(["Xi'an", "Luoyang"])
    encoder = randomise(ContextEncoder(context_size=3)).eval()
    features = torch.randn(1, 20, 9)

    def logits(place, time):
        context = encoder(
            tokenizer.encode_location(place).unsqueeze(0),
            tokenizer.encode_time(time).unsqueeze(0),
        )
        return model(features, context)

    difference = (logits(*one) - logits(*other)).abs().max()
    assert difference == 0 if same else difference > 1e-3
