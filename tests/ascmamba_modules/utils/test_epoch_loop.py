"""Early stopping on scores that stay, fall and rise."""

import pytest

from ascmamba_modules.utils.epoch_loop import PatientEpochCounter


@pytest.mark.parametrize(
    "scores, last",
    [
        ([0.5] * 9, 4),
        ([1.0] * 9, 4),
        ([0.0] * 9, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0], 4),
        ([0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], 7),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 9),
    ],
)
def test_stops_after_three_epochs_without_a_higher_score(scores, last):
    counter = PatientEpochCounter(limit=9, patience=3)
    for epoch in counter:
        counter.update_metric(scores[epoch - 1])
    assert epoch == last


def test_state_survives_a_restart(tmp_path):
    counter = PatientEpochCounter(limit=9, patience=3)
    for _ in range(2):
        next(counter)
        counter.update_metric(0.5)
    counter._save(tmp_path / "counter")
    again = PatientEpochCounter(limit=9, patience=3)
    again._recover(tmp_path / "counter")
    for epoch in again:
        again.update_metric(0.5)
    assert epoch == 4
