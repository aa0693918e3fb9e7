"""The traceable modules against those that they stand in for."""

import pytest
import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from ascmamba_modules.export.traceable import (
    TraceableClassifier,
    TraceableLogMel,
    TraceableMamba,
)
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.mamba import Mamba


@settings(max_examples=20)
@given(
    length=st.integers(1, 40),
    d_state=st.integers(1, 5),
    dt_rank=st.integers(1, 3),
    conv_bias=st.booleans(),
    bias=st.booleans(),
    reverse=st.booleans(),
)
def test_mamba(length, d_state, dt_rank, conv_bias, bias, reverse):
    mamba = Mamba(
        *(6, d_state),
        dt_rank=dt_rank,
        conv_bias=conv_bias,
        bias=bias,
    ).double()
    for parameter in mamba.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, length, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            TraceableMamba(mamba)(x, reverse=reverse),
            mamba(x, reverse=reverse),
        )


@pytest.mark.parametrize("n_samples", [882, 883, 1764, 10_000, 44_100])
@pytest.mark.parametrize(
    "settings",
    [
        {"f_min": 50, "f_max": 8000},
        {"top_db": None, "remove_offset": True},
        {"frequency_centering": True},
    ],
)
def test_log_mel(n_samples, settings):
    features = LogMel(**settings)
    wavs = 0.1 * torch.randn(3, n_samples)
    torch.testing.assert_close(
        TraceableLogMel(features)(wavs), features(wavs), atol=1e-3, rtol=0
    )


def test_features_of_silence_are_the_floor():
    features = TraceableLogMel(LogMel())
    assert (features(torch.zeros(1, 44100)) == -100).all()


def test_copy_leaves_the_classifier_as_it_is(model_folder):
    classifier = SceneClassifier.from_hparams(model_folder)
    before = {name for name, _ in classifier.named_modules()}
    TraceableClassifier(classifier)
    assert {name for name, _ in classifier.named_modules()} == before
    assert any(isinstance(x, Mamba) for x in classifier.modules())


@pytest.mark.parametrize(
    "place, time", [(None, None), ("Xi'an", "2023-04-21 18:30:00")]
)
def test_context_vector_is_what_place_and_time_do(model_folder, place, time):
    classifier = SceneClassifier.from_hparams(model_folder)
    wavs = 0.1 * torch.randn(2, 22050)
    context = classifier.context(place, time).expand(2, -1)
    with torch.no_grad():
        found = TraceableClassifier(classifier, takes_context=True)(
            wavs, context
        )
    expected, *_ = classifier.classify_batch(wavs, None, place, time)
    torch.testing.assert_close(found, expected.exp())
