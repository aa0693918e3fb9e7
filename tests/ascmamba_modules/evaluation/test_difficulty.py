"""Similarity to the evaluation set: by hand, and on real recordings."""

import numpy as np
import pytest
from hypothesis import (
    given,
    strategies as st,
)
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine
from scipy.stats import zscore
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.evaluation.difficulty import clip_statistics, similarity
from ascmamba_modules.features import LogMel


def test_statistics_are_over_time():
    features = np.random.default_rng(0).normal(size=(50, 4))
    statistics = clip_statistics(features)
    for band in range(4):
        assert statistics[band] == pytest.approx(np.mean(features[:, band]))
        assert statistics[4 + band] == pytest.approx(np.var(features[:, band]))


def test_both_kinds_by_hand():
    rng = np.random.default_rng(0)
    clips, evaluation = rng.normal(size=(3, 6)), rng.normal(size=(5, 6)) + 2
    for clip, found in zip(clips, similarity(clips, evaluation, "mean")):
        assert found == pytest.approx(1 - cosine(clip, evaluation.mean(0)))
    mean, deviation = evaluation.mean(0), evaluation.std(0)
    for clip, found in zip(clips, similarity(clips, evaluation)):
        others = [
            1 - cosine((clip - mean) / deviation, other)
            for other in zscore(evaluation)
        ]
        assert found == pytest.approx(max(others))


def test_a_clip_is_not_compared_with_itself():
    evaluation = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(similarity(evaluation, evaluation), 1)
    same = np.eye(4, dtype=bool)
    for number, found in enumerate(
        similarity(evaluation, evaluation, same=same)
    ):
        others = np.delete(zscore(evaluation), number, 0)
        own = zscore(evaluation)[number]
        expected = max(1 - cosine(own, other) for other in others)
        assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="no other clip than the one"):
        similarity(evaluation[:1], evaluation[:1], same=[[True]])


@pytest.mark.parametrize("kind", ["nearest", "mean"])
@given(
    clips=arrays(float, (3, 4), elements=st.sampled_from([-100.0, -40, 0, 9])),
    evaluation=arrays(
        float, (2, 4), elements=st.sampled_from([-100.0, -40, 0, 9])
    ),
)
def test_never_nan(kind, clips, evaluation):
    found = similarity(clips, evaluation, kind)
    assert ((found >= -1) & (found <= 1)).all()


def test_constant_features():
    silence = np.stack([clip_statistics(np.full((50, 8), -100.0))] * 3)
    other = np.stack([clip_statistics(np.full((50, 8), -20.0))])
    for kind in ("nearest", "mean"):
        np.testing.assert_allclose(similarity(silence, silence, kind), 1)
    assert similarity(other, silence)[0] == 0
    assert similarity(other, silence, "mean")[0] == pytest.approx(1)


def test_what_the_scaling_does_to_real_recordings(shared_data):
    paths = sorted((shared_data / "esc10/audio").glob("*.ogg"))[::5]
    if not paths:
        pytest.skip("no ESC-10")
    features, normalizer = LogMel(), AudioNormalizer(44100)
    statistics = np.stack(
        [
            clip_statistics(features(load_audio(p, normalizer)[None])[0])
            for p in map(str, paths)
        ]
    )
    clips, evaluation = statistics[::2], statistics[1::2]
    # Ten kinds of sound, and their dB means are nearly all alike.
    means = similarity(clips[:, :64], evaluation[:, :64], "mean")
    assert np.median(means) > 0.9

    gain = np.repeat([-20.0, 0.0], 64)  # dB; variances do not change
    quieter = clips + gain, evaluation + gain
    nearest = similarity(clips, evaluation)
    np.testing.assert_allclose(similarity(*quieter), nearest, atol=1e-6)
    raw = similarity(clips, evaluation, "mean")
    assert not np.allclose(similarity(*quieter, "mean"), raw, atol=0.05)


def test_unknown_kind():
    with pytest.raises(ValueError, match="no similarity 'far'; choose from"):
        similarity(np.ones((1, 2)), np.ones((1, 2)), "far")
