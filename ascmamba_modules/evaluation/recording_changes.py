"""Audio as another device records it, and with other sounds in front of it."""

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

EVENT_RATIOS = (-10, 0)  # dB
LOWEST_RATE = 8000  # Hz, that DEVICES need more than


def _gain(decibels):
    return lambda x, rate: 10 ** (decibels / 20) * x


def _filter(order, cutoff, kind):
    return lambda x, rate: sosfilt(
        butter(order, cutoff, kind, fs=rate, output="sos"), x
    )


def _reverberate(x, rate):
    """A housing or small room: noise that falls by 60 dB in 0.2 s behind the
    direct sound, with its energy."""
    times = np.arange(round(0.2 * rate)) / rate
    tail = np.random.default_rng(0).standard_normal(len(times))
    tail *= 10 ** (-3 * times / 0.2)
    response = tail / np.sqrt(np.square(tail).sum())
    response[0] += 1.0
    return fftconvolve(x, response)[: len(x)] / np.sqrt(2)


#: Functions of samples (time) and their rate in Hz, by name.
DEVICES = {
    "at -20 dB": _gain(-20),
    "at +6 dB": _gain(6),
    "low-pass 4 kHz": _filter(8, 4000, "lowpass"),
    "telephone": _filter(4, (300, 3400), "bandpass"),
    "small room": _reverberate,
}


def add_event(samples, event, ratio):
    """Mixes a sound into a recording.

    Arguments
    ---------
    samples : numpy.ndarray
        The recording (time).
    event : numpy.ndarray
        The sound (time), of the same rate; cut or repeated to the length of
        the recording.
    ratio : float
        Power of the sound, of that of the recording, in dB.

    Returns
    -------
    numpy.ndarray
        The mixture (time); the recording if the sound is silence.

    Example
    -------
    >>> add_event(np.array([1.0, -1.0]), np.array([0.5]), 0)
    array([2., 0.])
    """
    event = np.resize(event, len(samples))
    power = np.square(event).mean()
    if power == 0:
        return samples
    gain = np.sqrt(np.square(samples).mean() / power * 10 ** (ratio / 10))
    return samples + gain * event
