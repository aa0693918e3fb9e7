"""ASCMamba: shapes, blindness to padding, context, and gradients."""

import pytest
import torch
from model_checks import (
    check_bfloat16,
    check_classifier,
    check_gradients,
    check_padding,
    check_padding_of_waveforms,
    check_shapes_refused,
)

from ascmamba_modules import ascmamba, dense_encoder
from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.padding import frame_mask


def small(n_mels=9, **options):
    return ASCMamba(
        **{
            "n_classes": 4,
            "n_mels": n_mels,
            "channels": 6,
            "n_blocks": 2,
            "context_size": 3,
            "d_state": 4,
            **options,
        }
    )


@pytest.fixture(
    params=[{}, {"patch": (1, 1), "stride": (1, 1), "norm": "instance"}],
    ids=["defaults", "every frame"],
)
def model(request, randomise):
    return randomise(small(**request.param)).eval()


@pytest.mark.parametrize("n_mels, frames", [(3, 1), (31, 17), (64, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (4, 4)])
def test_shapes(n_mels, frames, stride):
    model = small(n_mels, patch=(4, 4), stride=stride)
    features = torch.randn(2, frames, n_mels)
    assert model(features, torch.randn(2, 3)).shape == (2, 4)
    size = 2 * 6 * -(-n_mels // (2 * stride[1]))
    assert model.embedding_size == size
    assert model.embed(features).shape == (2, size)


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_does_not_change_the_logits(garbage, model):
    counts = [41, 40, 23, 7, 2, 1]
    check_padding(model, counts, 9, garbage, torch.randn(6, 3), least=0.1)


def test_padding_is_looked_for_once(model, monkeypatch):
    asked = []

    def mask(*args):
        asked.append(args)
        return frame_mask(*args)

    for module in (ascmamba, dense_encoder):
        monkeypatch.setattr(module, "frame_mask", mask)
    model(torch.randn(2, 20, 9), lengths=torch.tensor([1.0, 0.5]))
    assert len([lengths for lengths, _ in asked if lengths is not None]) == 1


def test_padding_of_waveforms_does_not_change_the_logits(model):
    check_padding_of_waveforms(model)


def test_clips_of_a_batch_do_not_mix(model):
    features, context = torch.randn(3, 20, 9), torch.randn(3, 3)
    together = model(features, context)
    for row in (slice(0, 1), slice(1, 2), slice(2, 3)):
        torch.testing.assert_close(
            together[row],
            model(features[row], context[row]),
            rtol=1e-3,
            atol=1e-3,
        )


def test_each_band_is_pooled_by_mean_and_maximum_over_time(model):
    normed = []
    model.norm.register_forward_hook(lambda *call: normed.append(call[2]))
    embedding = model.embed(
        torch.randn(2, 20, 9), lengths=torch.tensor([1.0, 0.5])
    )
    stride = model.encoder.project.conv.stride[0]
    for row, count in enumerate((20, 10)):
        x = normed[0][row, : -(-count // stride)]  # (frames, bins, channels)
        expected = torch.cat([x.mean(0), x.max(0).values], dim=1)
        torch.testing.assert_close(embedding[row], expected.flatten())


def test_classifier_reads_the_embedding(model):
    features = torch.randn(2, 20, 9)
    torch.testing.assert_close(
        model(features),
        model.embed(features) @ model.classifier.weight.T
        + model.classifier.bias,
    )


@pytest.mark.parametrize("with_context", [True, False])
def test_every_parameter_gets_a_gradient(with_context):
    model = small()
    context = torch.randn(2, 3) if with_context else None
    # Weights on a context of zeros do not act.
    silent = () if with_context else ("gamma.weight", "beta.weight")
    check_gradients(model, model(torch.randn(2, 20, 9), context), silent=silent)


def test_context_acts_only_after_training_moved_the_norms():
    model = small(dropout=0.0)
    features = torch.randn(2, 20, 9)
    here, there = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(model(features, here), model(features, there))

    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    loss = torch.nn.functional.cross_entropy(
        model(features, here), torch.tensor([0, 1])
    )
    loss.backward()
    optimizer.step()
    difference = model(features, here) - model(features, there)
    assert difference.abs().max() > 1e-3


def test_no_context_posteriors_and_dropout(model):
    check_classifier(model)


def test_bfloat16_autocast_stays_close_to_full_precision():
    check_bfloat16(small().eval().embed)


def test_features_of_a_wrong_shape_are_refused(model):
    check_shapes_refused(model)


def test_engine_that_can_never_run_is_refused_when_the_model_is_built():
    with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run here"):
        small(engine="mamba_ssm")
