"""What changes of the recording do to tones."""

import numpy as np
import pytest

from ascmamba_modules.evaluation.recording_changes import DEVICES, add_event

RATE = 16000
TIMES = np.arange(RATE) / RATE


def gain(change, hertz):
    """Of a tone, in dB, once it has settled."""
    tone = np.sin(2 * np.pi * hertz * TIMES)
    changed = change(tone, RATE)
    assert changed.shape == tone.shape
    power = np.square(changed[RATE // 2 :]).mean() / 0.5
    return 10 * np.log10(power)


@pytest.mark.parametrize(
    "name, hertz, expected",
    [
        ("at -20 dB", 1000, -20),
        ("at +6 dB", 1000, 6),
        ("low-pass 4 kHz", 1000, 0),
        ("low-pass 4 kHz", 4000, -3),
        ("telephone", 1000, 0),
        ("telephone", 300, -3),
        ("telephone", 3400, -3),
    ],
)
def test_gains(name, hertz, expected):
    assert gain(DEVICES[name], hertz) == pytest.approx(expected, abs=0.3)


def test_filters_reject():
    assert gain(DEVICES["low-pass 4 kHz"], 7000) < -40
    assert gain(DEVICES["telephone"], 50) < -40


def test_room_keeps_energy_and_reverberates():
    noise = np.random.default_rng(1).standard_normal(RATE)
    noise[RATE // 2 :] = 0
    heard = DEVICES["small room"](noise, RATE)
    powers = [np.square(x[: RATE // 2]).mean() for x in (noise, heard)]
    assert powers[1] == pytest.approx(powers[0], rel=0.1)
    tail = np.square(heard[RATE // 2 :])
    assert tail[: RATE // 10].mean() > 100 * tail[2 * RATE // 10 :].mean()


@pytest.mark.parametrize("ratio", [-10, 0])
@pytest.mark.parametrize("length", [100, RATE, 2 * RATE])
def test_event_has_its_power(ratio, length):
    clip, event = np.random.default_rng(2).standard_normal((2, 2 * RATE))
    mixed = add_event(clip[:RATE], event[:length], ratio)
    added = mixed - clip[:RATE]
    power = np.square(added).mean() / np.square(clip[:RATE]).mean()
    assert 10 * np.log10(power) == pytest.approx(ratio)
    silent = add_event(clip[:RATE], np.zeros(length), ratio)
    np.testing.assert_array_equal(silent, clip[:RATE])
