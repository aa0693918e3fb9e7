"""The sounds of the demo: noise with a pulsing band for each scene.

Each scene has a band of noise of its own, which pulses at its own rate.  A
city moves the band and colours everything, a session adds a colour and a hum,
a device its frequency response.  So clips of one session sound alike, and a
scene is harder to recognise in a city that training has not seen.
"""

import numpy as np
from scipy.fft import irfft, rfft

SCENES = (
    "Airport",
    "Bar",
    "Bus",
    "Cafe",
    "Car",
    "Construction site",
    "Crowded indoor",
    "Elevator",
    "Kitchen",
    "Metro",
    "Metro station",
    "Pedestrian street",
    "Public square",
    "Residential area",
    "Restaurant",
    "Restroom",
    "Shopping mall",
    "Traffic street",
    "Tram",
    "Urban park",
)
_LOWEST = 40.0  # Hz; frequencies are in octaves above it


def synthesise(scene, city, session, clip, device, seconds, rate, seed=0):
    """Makes a clip.

    Arguments
    ---------
    scene : str
        One of ``SCENES``.
    city, session, clip, device : str
        Names.  What differs in the device alone is one sound heard by
        several devices.
    seconds : float
        Length.
    rate : int
        Sampling rate in Hz.
    seed : int
        Clips of another seed are of another world.

    Returns
    -------
    numpy.ndarray
        Samples within +-0.95, float32 (round(seconds * rate),).

    Example
    -------
    >>> names = ("Metro", "Hefei", "session 1", "clip 1", "phone")
    >>> synthesise(*names, seconds=0.5, rate=16000).shape
    (8000,)
    """

    def rng(*names):
        return np.random.default_rng([seed, *"/".join(names).encode()])

    n = round(seconds * rate)
    frequencies = np.fft.rfftfreq(n, 1 / rate)
    octaves = np.log2(np.maximum(frequencies, _LOWEST) / _LOWEST)

    def colour(rng, deviation):
        """A smooth random response over frequency, in dB."""
        return np.interp(octaves, range(11), rng.normal(0, deviation, 11))

    def noise(rng, decibels):
        """Noise of a spectrum given in dB."""
        gain = 10 ** (decibels / 20)
        white = rng.standard_normal(n, np.float32)
        return irfft(rfft(white) * gain.astype(np.float32), n)

    of_city = rng(city)
    of_scene_there = rng(scene, city)
    of_session = rng(scene, city, session)
    of_clip = rng(scene, city, session, clip)

    # The scene: a band of noise that pulses.
    index = SCENES.index(scene)
    parts = of_scene_there, of_session, of_clip
    centre = 1 + 6.5 * index / len(SCENES)
    centre += sum(r.normal(0, s) for r, s in zip(parts, (0.2, 0.2, 0.15)))
    pulses = 0.7 * 2 ** (3.5 * (7 * index % len(SCENES)) / len(SCENES))
    pulses *= 2 ** sum(r.normal(0, s) for r, s in zip(parts, (0.2, 0.2, 0.1)))
    level = 8 + sum(r.normal(0, s) for r, s in zip(parts, (2, 2, 2)))
    time = np.arange(n, dtype=np.float32) / rate
    phase = of_clip.uniform(0, 2 * np.pi)
    pulse = 1 + np.sin(2 * np.pi * pulses * time + phase)
    band = level - 4 * octaves - 12 * (octaves - centre) ** 2

    # City and session: colour and hum.
    background = -4 * octaves + colour(of_city, 2) + colour(of_session, 2)
    hum = of_session.uniform(1, 8)
    background += 8 * np.exp(-(((octaves - hum) / 0.15) ** 2))
    samples = noise(of_clip, background + colour(of_clip, 1))
    samples += pulse * noise(of_clip, band)

    # The device; its own noise is not that of the others.
    response = 10 ** (colour(rng(device), 2) / 20)
    samples = irfft(rfft(samples) * response.astype(np.float32), n)
    samples /= np.sqrt(np.mean(np.square(samples)))
    samples += 0.01 * rng(device, clip).standard_normal(n, np.float32)
    loudness = 10 ** (of_session.normal(-26, 2) / 20)
    return np.clip(loudness * samples, -0.95, 0.95).astype(np.float32)
