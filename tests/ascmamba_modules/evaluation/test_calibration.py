"""Calibration against scikit-learn, its definition and a known temperature."""

import numpy as np
import pytest
from hypothesis import (
    given,
    strategies as st,
)
from scipy.special import log_softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from ascmamba_modules.evaluation.calibration import (
    TEMPERATURES,
    apply_temperature,
    clip_losses,
    coverage_by_session,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
    scale_by_session,
)


def draw(n, temperature, seed=0, classes=5):
    """Answers that are right as often as they say, then made too sure."""
    rng = np.random.default_rng(seed)
    honest = log_softmax(2 * rng.normal(size=(n, classes)), axis=1)
    targets = [rng.choice(classes, p=np.exp(row)) for row in honest]
    return np.array(targets), log_softmax(honest * temperature, axis=1)


@pytest.fixture(scope="module")
def answers():
    return draw(500, 2.0)


def test_losses_are_those_of_scikit_learn(answers):
    targets, log_posteriors = answers
    assert clip_losses(*answers).mean() == pytest.approx(
        log_loss(targets, np.exp(log_posteriors), labels=range(5))
    )
    assert clip_losses([0], [[-np.inf, 0.0]])[0] == pytest.approx(
        log_loss([0], [[0.0, 1.0]], labels=[0, 1])
    )


def test_bins_are_those_of_scikit_learn(answers):
    targets, log_posteriors = answers
    right = log_posteriors.argmax(1) == targets
    confidence = np.exp(log_posteriors.max(1))
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    bins = reliability_bins(*answers, bins=10)
    np.testing.assert_allclose(bins["accuracy"], accuracy)
    np.testing.assert_allclose(bins["confidence"], mean)
    assert bins["clips"].sum() == 500 and (bins["clips"] > 0).all()


def test_error_by_hand():
    # Three clips at 0.9, two of them right; one at 0.6, right.
    posteriors = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]])
    found = expected_calibration_error([0, 0, 1, 0], np.log(posteriors), 10)
    assert found == pytest.approx(0.75 * abs(0.9 - 2 / 3) + 0.25 * 0.4)


def test_temperature_is_recovered(answers):
    assert fit_temperature(*answers) == pytest.approx(2.0, rel=0.1)
    assert fit_temperature(*draw(500, 0.5)) == pytest.approx(0.5, rel=0.1)


def test_temperature_has_ends():
    sure = np.log([[0.9, 0.1]] * 3)
    assert fit_temperature([0] * 3, sure) < 0.1
    assert fit_temperature([1] * 3, sure) > 19


@given(
    st.lists(
        st.lists(st.floats(-800, 0), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    ),
    st.floats(*TEMPERATURES),
)
def test_temperature_keeps_order_and_sum(rows, temperature):
    log_posteriors = log_softmax(rows, axis=1)
    scaled = apply_temperature(log_posteriors, temperature)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(np.exp(scaled).sum(1), 1)
    best = np.arange(len(rows)), log_posteriors.argmax(1)
    np.testing.assert_allclose(scaled[best], scaled.max(1))


def test_no_session_helps_to_calibrate_itself(answers):
    targets, log_posteriors = answers
    sessions = np.arange(500) // 50
    scaled, temperatures = scale_by_session(targets, log_posteriors, sessions)
    assert len(temperatures) == 5
    error = expected_calibration_error
    assert error(targets, scaled) < error(targets, log_posteriors) / 2
    # Other labels in a session change the others' scaling, not its own.
    changed = np.where(sessions == 3, (targets + 1) % 5, targets)
    again, _ = scale_by_session(changed, log_posteriors, sessions)
    np.testing.assert_array_equal(again[sessions == 3], scaled[sessions == 3])
    assert not np.allclose(again, scaled)


def test_one_session_cannot_be_scaled(answers):
    with pytest.raises(ValueError, match="two sessions or more, there are 1"):
        scale_by_session(*answers, ["a"] * 500)


def test_sets_hold_the_true_class_on_other_sessions():
    rng = np.random.default_rng(5)
    posteriors = rng.dirichlet(np.full(4, 0.5), 600)
    targets = np.array([rng.choice(4, p=row) for row in posteriors])
    sessions = np.arange(600) // 3
    log_posteriors = np.log(posteriors)
    held, size = coverage_by_session(targets, log_posteriors, sessions)
    assert held == pytest.approx(0.9, abs=0.04) and 1 < size < 4
    less, smaller = coverage_by_session(
        targets, log_posteriors, sessions, share=0.7
    )
    assert less < held and smaller < size
    with pytest.raises(ValueError, match="do not tell a coverage"):
        coverage_by_session(targets[:8], log_posteriors[:8], sessions[:8])
