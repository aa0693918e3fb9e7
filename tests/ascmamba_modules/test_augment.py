"""Mixup: what is mixed, with which weights, and padding."""

import pytest
import torch

from ascmamba_modules.augment import (
    Mixup,
    RandomBandPass,
    RandomEqualizer,
    RandomRoll,
    blend,
)


def test_each_clip_is_mixed_with_its_partner():
    features = torch.randn(64, 7, 3)
    original = features.clone()
    mixed, lengths, partner, weight = Mixup(0.4)(features, torch.ones(64))
    assert torch.equal(features, original)
    assert sorted(partner.tolist()) == list(range(64))
    assert partner.tolist() != list(range(64))
    for row in range(64):
        w = weight[row].item()
        expected = w * original[row] + (1 - w) * original[partner[row]]
        torch.testing.assert_close(mixed[row], expected)
    assert torch.equal(lengths, torch.ones(64))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_weights_follow_the_beta_distribution(alpha):
    *_, weight = Mixup(alpha)(torch.zeros(20_000, 1, 1), torch.ones(20_000))
    assert weight.min() >= 0 and weight.max() <= 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.015)
    # Variance of Beta(alpha, alpha).
    variance = 1 / (4 * (2 * alpha + 1))
    assert weight.var().item() == pytest.approx(variance, rel=0.05)


def test_padding_is_mixed_as_silence_up_to_the_longer_clip():
    counts = torch.tensor([10, 3, 6, 1] * 4)
    features = torch.randn(16, 10, 2)
    padding = torch.arange(10) >= counts.unsqueeze(1)
    garbage = features.masked_fill(padding.unsqueeze(-1), 1e6)
    clean = features.masked_fill(padding.unsqueeze(-1), 0.0)
    mixed, lengths, partner, weight = Mixup(1.0)(garbage, counts / 10)
    for row in range(16):
        other, w = partner[row], weight[row]
        torch.testing.assert_close(
            mixed[row], w * clean[row] + (1 - w) * clean[other]
        )
        longer = max(counts[row].item(), counts[other].item())
        assert lengths[row].item() == pytest.approx(longer / 10)


def test_alpha_zero_changes_nothing():
    features, lengths = torch.randn(4, 7, 3), torch.tensor([1.0, 0.5, 0.2, 1])
    mixed, new_lengths, partner, weight = Mixup(0)(features, lengths)
    assert torch.equal(mixed, features)
    assert torch.equal(new_lengths, lengths)
    targets = torch.eye(4)
    assert torch.equal(blend(targets, partner, weight), targets)


def test_negative_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha"):
        Mixup(-0.1)


@pytest.mark.parametrize("shape", [(), (5,), (5, 3, 2)])
def test_blend_mixes_rows_of_any_shape(shape):
    x = torch.randn(3, *shape)
    partner, weight = torch.tensor([1, 2, 0]), torch.tensor([0.0, 0.25, 1.0])
    y = blend(x, partner, weight)
    assert y.shape == x.shape
    torch.testing.assert_close(y[0], x[1])
    torch.testing.assert_close(y[1], 0.25 * x[1] + 0.75 * x[2])
    torch.testing.assert_close(y[2], x[2])


def test_equalizer_adds_a_smooth_curve_that_is_constant_over_time():
    features = torch.randn(200, 3, 64)
    added = RandomEqualizer(std=0.5, n_points=4)(features) - features
    torch.testing.assert_close(added[:, 0], added[:, 2], atol=1e-5, rtol=0)
    curve = added[:, 0]
    # Gains are drawn at bands 0, 21, 42 and 63; lines run between them.
    drawn = curve[:, ::21]
    assert abs(drawn.std().item() - 0.5) < 0.05
    assert abs(drawn.mean().item()) < 0.1
    middle = curve[:, 7]
    torch.testing.assert_close(
        middle, drawn[:, 0] * 2 / 3 + drawn[:, 1] / 3, atol=1e-5, rtol=0
    )
    assert curve[0].std() > 0 and not torch.allclose(curve[0], curve[1])


def test_band_pass_takes_away_bands_at_both_ends():
    x = RandomBandPass(prob=0.5, low=0.2, high=0.4)(torch.ones(1000, 3, 50))
    assert torch.equal(x, x[:, :1].expand_as(x))
    bands = x[:, 0].bool()
    first, count = bands.int().argmax(1), bands.sum(1)
    # What is left is in one piece.
    edges = bands[:, 1:] != bands[:, :-1]
    assert edges.sum(1).max() == 2
    whole = count == 50
    assert 450 < whole.sum() < 550
    assert first[~whole].max() == 9 and first[~whole].min() == 0
    last = (first + count)[~whole]
    assert 20 <= last.min() <= 21 and 30 < last.float().mean() < 40
    x = torch.randn(4, 3, 50)
    assert torch.equal(RandomBandPass(prob=0.0)(x), x)


def test_roll_turns_each_clip_within_its_own_frames():
    counts = [10, 4, 1]
    frames = torch.arange(10.0).view(1, 10, 1).expand(3, 10, 2)
    starts = set()
    for _ in range(100):
        rolled = RandomRoll()(frames, torch.tensor(counts) / 10)
        for clip, count in zip(rolled, counts):
            first = int(clip[0, 0])
            expected = (first + torch.arange(count)) % count
            assert clip[:count, 0].equal(expected.float())
            assert clip[:count].equal(clip[:count, :1].expand(count, 2))
            assert clip[count:].equal(frames[0, count:])
            starts.add((count, first))
    assert starts == {(n, i) for n in counts for i in range(n)}
