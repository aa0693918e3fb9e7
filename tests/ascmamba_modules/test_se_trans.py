"""SE-Trans: multi-scale gates, fusion (equation 2), blindness to padding."""

import pytest
import torch
import torch.nn.functional as F
from model_checks import (
    check_bfloat16,
    check_gradients,
    check_padding,
    check_padding_of_waveforms,
    check_shapes_refused,
)

from ascmamba_modules.se_trans import (
    CAS_SUPERSET,
    MultiScaleSE,
    SETrans,
    superset_indices,
)


def small(n_mels=9, **options):
    return SETrans(
        **{
            "n_classes": 4,
            "superset": [0, 1, 1, 0],
            "n_mels": n_mels,
            "channels": (6, 8),
            "n_heads": 2,
            "d_ffn": 16,
            **options,
        }
    )


PATCHES = {"patch": (7, 4), "stride": (3, 2), "patch_channels": 5}


@pytest.fixture(params=[{}, PATCHES], ids=["every frame", "patches"])
def model(request, randomise):
    return randomise(small(**request.param)).eval()


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 37])
@pytest.mark.parametrize("n_mels", [4, 31, 64])
@pytest.mark.parametrize("options", [{}, PATCHES], ids=["frames", "patches"])
def test_shapes(n_mels, frames, options):
    if n_mels == 4 and options:
        pytest.skip("two halvings of two bins leave none")
    model = small(n_mels, **options)
    features = torch.randn(2, frames, n_mels)
    fine, coarse = model(features)
    assert fine.shape == (2, 4) and coarse.shape == (2, 2)
    assert model.embedding_size == 8
    assert model.embed(features).shape == (2, 8)


@pytest.mark.parametrize("scales", [(1,), (1, 2, 3), (4, 2)], ids=str)
@pytest.mark.parametrize("frames, bands", [(12, 6), (13, 7), (2, 2)])
def test_gates_come_from_average_pooling_of_the_valid_frames(
    frames, bands, scales, randomise
):
    layer = randomise(MultiScaleSE(5, reduction=2, scales=scales))
    x = torch.randn(4, 5, frames, bands)
    counts = [frames, frames - 1, (frames + 1) // 2, 1]

    def by_hand(clip):  # (channels, time, frequency)
        pooled = torch.cat(
            [F.adaptive_avg_pool2d(clip, scale).flatten() for scale in scales]
        )
        hidden = layer.squeeze.weight @ pooled + layer.squeeze.bias
        gates = layer.excite.weight @ hidden.clamp(min=0) + layer.excite.bias
        return clip / (1 + torch.exp(-gates))[:, None, None]

    gated, gated_all = layer(x, torch.tensor(counts)), layer(x)
    for row, count in enumerate(counts):
        torch.testing.assert_close(
            gated[row, :, :count], by_hand(x[row, :, :count])
        )
        torch.testing.assert_close(gated_all[row], by_hand(x[row]))


def both(model):
    """The logits of both levels, side by side."""
    return lambda *inputs, **options: torch.cat(model(*inputs, **options), 1)


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_does_not_change_the_logits(garbage, model):
    counts = [41, 40, 23, 9, 7, 6, 5, 4, 3, 2, 1]
    check_padding(both(model), counts, 9, garbage)


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_batches_of_very_short_clips_are_like_single_ones(longest, model):
    counts = list(range(1, longest + 1))
    features = torch.randn(longest, longest, 9)
    fine, _ = model(features, lengths=torch.tensor(counts) / longest)
    for row, count in enumerate(counts):
        alone, _ = model(features[row : row + 1, :count])
        torch.testing.assert_close(
            fine[row : row + 1], alone, rtol=1e-3, atol=1e-3
        )


def test_padding_of_waveforms_does_not_change_the_logits(model):
    check_padding_of_waveforms(
        lambda *inputs, **options: model(*inputs, **options)[0]
    )


def test_fusion_weighs_each_scene_by_its_superset(model):
    fine, coarse = 2 * torch.randn(5, 4), 2 * torch.randn(5, 2)
    fused = model.fuse(fine, coarse)
    for row in range(5):
        p_fine = fine[row].exp() / fine[row].exp().sum()
        p_coarse = coarse[row].exp() / coarse[row].exp().sum()
        for scene, superset in enumerate([0, 1, 1, 0]):
            torch.testing.assert_close(
                fused[row, scene], p_fine[scene] * p_coarse[superset]
            )


def test_log_posteriors_are_the_normalised_fusion(model):
    outputs = 2 * torch.randn(50, 4), 3 * torch.randn(50, 2)
    posteriors = model.log_posteriors(outputs).exp()
    fused = model.fuse(*outputs)
    torch.testing.assert_close(posteriors.sum(1), torch.ones(50))
    torch.testing.assert_close(posteriors, fused / fused.sum(1, keepdim=True))
    assert torch.equal(posteriors.argmax(1), fused.argmax(1))
    # The second classifier turns some decisions, or it would be of no use.
    assert not torch.equal(posteriors.argmax(1), outputs[0].argmax(1))


def test_log_posteriors_of_sure_outputs_stay_finite(model):
    fine = torch.tensor([[500.0, 0.0, 0.0, -500.0]])
    coarse = torch.tensor([[-500.0, 500.0]])
    assert model.log_posteriors((fine, coarse)).isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"superset": [0, 1, 1]},
        {"superset": [0, 1, 1, 0, 1]},
        {"superset": [0, 1, 2, 0]},
        {"superset": [0, 1, -1, 0]},
        {"superset": None},  # the default is for ten scenes
    ],
    ids=str,
)
def test_superset_that_does_not_fit_is_refused(options):
    with pytest.raises(ValueError, match="superset"):
        small(**options)


def test_superset_indices_follow_the_order_of_the_classes():
    superset = {"park": "outdoor", "bus": "indoor", "attic": "above"}
    assert superset_indices(superset, ["park", "bus", "attic"]) == [2, 1, 0]
    # Only the supersets of these classes count.
    assert superset_indices(superset, ["bus", "park"]) == [0, 1]


def test_scene_without_superset_is_named():
    with pytest.raises(ValueError, match="metro, tram"):
        superset_indices({"bus": "indoor"}, ["metro", "bus", "tram"])


def test_default_superset_is_that_of_the_paper():
    # The organisers' order; indoors as in section 3.2 of the paper, and the
    # airport.
    scenes = (
        "Bus, Airport, Metro, Restaurant, Shopping mall, Public square, "
        "Urban park, Traffic street, Construction site, Bar"
    ).split(", ")
    indoor = {"Bus", "Metro", "Restaurant", "Shopping mall", "Bar", "Airport"}
    expected = [0 if scene in indoor else 1 for scene in scenes]
    assert list(CAS_SUPERSET) == expected
    assert SETrans(channels=(8,)).superset.tolist() == expected


def test_superset_of_another_model_does_not_come_with_the_weights():
    model = small(superset=[1, 1, 0, 0])
    model.load_state_dict(small().state_dict())
    assert model.superset.tolist() == [1, 1, 0, 0]


def test_every_parameter_gets_a_gradient():
    model = small()
    check_gradients(model, *model(torch.randn(3, 40, 9)))


def test_context_is_not_used(model):
    features = torch.randn(2, 40, 9)
    with_context = model(features, torch.randn(2, 3))
    for actual, expected in zip(with_context, model(features)):
        assert torch.equal(actual, expected)


def test_bfloat16_autocast_stays_close_to_full_precision():
    check_bfloat16(small().eval().embed)


def test_features_of_a_wrong_shape_are_refused(model):
    check_shapes_refused(model)


def test_padding_does_not_change_the_statistics_of_training(randomise):
    """Clips of one length, alone or filled up."""
    clips, lengths = torch.randn(3, 20, 16), torch.full((3,), 0.5)
    padded = torch.cat([clips, 100 * torch.randn(3, 20, 16)], dim=1)
    alone, filled = (randomise(small(16, dropout=0.0)).train() for _ in "ab")
    filled.load_state_dict(alone.state_dict())
    alone(clips)
    filled(padded, lengths=lengths)
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(buffer, filled.get_buffer(name))
