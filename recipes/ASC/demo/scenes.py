"""What the demo scenes sound like: sources, rooms, cities and microphones.

A clip is a background of coloured noise with the scene's sources on top, in a
room, heard through the channel of its city and the microphone of its device.
Every number is drawn from a range of the scene in ``SCENES``; the ranges of
different scenes overlap.  How close clips are is set by ``SHARES`` alone:
clips of one scene and city have part of each draw in common, those of one
session more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, rfft, rfftfreq
from scipy.special import ndtr

from demo.sounds import (
    announcements,
    band_noise,
    beeps,
    birds,
    coloured_noise,
    engine,
    flow,
    footsteps,
    hammering,
    hisses,
    horns,
    impacts,
    machining,
    music,
    passing,
    rails,
    voices,
    wander,
    wind,
)

# Shares of the variance of every draw: city, session, clip.
SHARES = (0.25, 0.35, 0.4)
# Spread of the channel of a city, in dB: of its response, of its level.
CITY_RESPONSE, CITY_LEVEL = 1.5, 2.0
_AUDIBLE = -20.0  # dB over the background; what is softer is not there
_PEAK = 0.95  # of full scale


@dataclass(frozen=True)
class Layer:
    """A source of a scene.

    Arguments
    ---------
    source : callable
        Function of ``demo_sounds``.
    level : tuple
        Range of its level in dB over the background.
    ranges : dict
        Range of each of its parameters.
    """

    source: Callable
    level: tuple
    ranges: dict


def layer(source, low, high, **ranges):
    """A layer between two levels in dB over the background."""
    return Layer(source, (low, high), ranges)


@dataclass(frozen=True)
class Scene:
    """A scene's ranges, from which each clip is drawn.

    Arguments
    ---------
    level : tuple
        Of the background, RMS in dB of full scale.
    slope : tuple
        Of the background's spectrum in dB per octave.
    unrest : tuple
        Standard deviation of the background's level in dB.
    decay : tuple
        Reverberation time (RT60) in seconds.
    wet : tuple
        Reverberant over direct sound in dB.
    layers : tuple
        The sources.
    """

    level: tuple
    slope: tuple
    unrest: tuple
    decay: tuple
    wet: tuple
    layers: tuple


SCENES = {
    "Bus": Scene(
        (-38, -24), (-9, -6), (1.5, 4), (0.15, 0.4), (-14, -6),
        (
            layer(engine, -4, 8, pitch=(18, 42), brightness=(0.2, 0.9),
                  unrest=(0.03, 0.2)),
            layer(impacts, -16, -2, often=(1, 6), centre=(400, 1800),
                  ring=(0.01, 0.06)),
            layer(voices, -26, -4, talkers=(1, 6), pitch=(95, 160)),
            layer(hisses, -22, -4, often=(0.02, 0.3), centre=(3000, 6000)),
            layer(announcements, -22, -4, often=(0, 0.1), pitch=(110, 220)),
            layer(passing, -16, 0, often=(0.05, 0.4), distance=(3, 10)),
            layer(beeps, -30, -10, often=(0, 0.3), pitch=(1500, 3000)),
        ),
    ),
    "Airport": Scene(
        (-46, -32), (-6.5, -4), (1.5, 4), (1.8, 3.5), (-4, 3),
        (
            layer(voices, -14, 1, talkers=(2, 10), pitch=(100, 160)),
            layer(footsteps, -18, -1, walkers=(1, 4), hardness=(300, 1500)),
            layer(announcements, -6, 9, often=(0.08, 0.3), pitch=(150, 230)),
            # Wheels of suitcases over joints; aircraft and ventilation.
            layer(impacts, -8, 6, often=(6, 16), centre=(700, 1800),
                  ring=(0.004, 0.012)),
            layer(flow, -4, 5, centre=(150, 400), octaves=(1, 2)),
            layer(beeps, -28, -10, often=(0, 0.5), pitch=(1000, 2500)),
        ),
    ),
    "Metro": Scene(
        (-38, -24), (-8.5, -5), (1.5, 4), (0.3, 0.8), (-10, -2),
        (
            layer(rails, -3, 9, speed=(7, 20), whine=(250, 1100),
                  squeal=(0, 0.4)),
            layer(flow, -12, 0, centre=(150, 500), octaves=(1, 2)),
            layer(voices, -26, -4, talkers=(1, 8), pitch=(95, 160)),
            layer(announcements, -18, -2, often=(0.01, 0.15), pitch=(150, 230)),
            layer(impacts, -20, -5, often=(0.5, 4), centre=(400, 1800),
                  ring=(0.01, 0.06)),
            layer(beeps, -30, -8, often=(0, 0.3), pitch=(900, 2000)),
        ),
    ),
    "Restaurant": Scene(
        (-46, -32), (-7.5, -5), (1.0, 3), (0.4, 1.0), (-8, 0),
        (
            layer(voices, -3, 9, talkers=(3, 12), pitch=(100, 170)),
            layer(impacts, -8, 7, often=(0.7, 5), centre=(2500, 5500),
                  ring=(0.02, 0.12)),
            layer(impacts, -20, -2, often=(0.3, 2), centre=(200, 900),
                  ring=(0.01, 0.06)),
            layer(music, -30, -8, tempo=(70, 120), beat=(0.1, 0.5),
                  cutoff=(1500, 6000)),
            layer(flow, -12, 2, centre=(200, 800), octaves=(1, 2)),
            layer(footsteps, -28, -10, walkers=(1, 3), hardness=(300, 1200)),
        ),
    ),
    "Shopping mall": Scene(
        (-46, -32), (-6.5, -4), (1.0, 3), (0.8, 2.2), (-6, 2),
        (
            layer(voices, -10, 4, talkers=(2, 10), pitch=(105, 175)),
            layer(music, -12, 4, tempo=(80, 130), beat=(0.2, 0.5),
                  cutoff=(2500, 9000)),
            layer(footsteps, -10, 4, walkers=(2, 7), hardness=(500, 2000)),
            layer(announcements, -26, -6, often=(0, 0.1), pitch=(150, 230)),
            layer(beeps, -24, -4, often=(0.1, 0.8), pitch=(1500, 3000)),
            layer(flow, -10, 2, centre=(250, 900), octaves=(1, 2)),
        ),
    ),
    "Public square": Scene(
        (-46, -32), (-7.5, -4.5), (1.5, 4), (0.2, 0.7), (-16, -6),
        (
            layer(voices, -7, 8, talkers=(2, 8), pitch=(110, 220)),
            layer(footsteps, -11, 3, walkers=(1, 5), hardness=(300, 1500)),
            layer(passing, -12, 0, often=(0.05, 0.3), distance=(20, 60)),
            layer(music, -26, 2, tempo=(100, 140), beat=(0.3, 0.7),
                  cutoff=(2000, 6000)),
            layer(birds, -30, -8, often=(0, 0.8), centre=(2500, 4500)),
            layer(wind, -14, 0, gusts=(0.2, 0.8)),
            layer(horns, -34, -14, often=(0, 0.15)),
        ),
    ),
    "Urban park": Scene(
        (-54, -40), (-7, -4), (1.5, 4), (0.1, 0.5), (-18, -8),
        (
            layer(birds, -4, 11, often=(0.6, 3), centre=(2500, 5000)),
            layer(wind, -8, 5, gusts=(0.1, 0.6)),
            layer(flow, -24, -6, centre=(3000, 6000), octaves=(0.4, 1)),
            layer(passing, -14, -1, often=(0.05, 0.3), distance=(40, 100)),
            layer(voices, -26, -3, talkers=(1, 5), pitch=(110, 220)),
            layer(footsteps, -24, -4, walkers=(1, 2), hardness=(800, 3500)),
        ),
    ),
    "Traffic street": Scene(
        (-40, -26), (-8, -5), (1.5, 4), (0.2, 0.6), (-16, -6),
        (
            layer(passing, 2, 13, often=(0.15, 0.8), distance=(2, 9)),
            layer(engine, -10, 3, pitch=(22, 60), brightness=(0.2, 0.8),
                  unrest=(0.02, 0.12)),
            layer(horns, -26, 0, often=(0.02, 0.3)),
            layer(voices, -26, -6, talkers=(1, 4), pitch=(100, 180)),
            layer(footsteps, -26, -8, walkers=(1, 3), hardness=(300, 1500)),
            layer(hisses, -24, -6, often=(0.02, 0.2), centre=(3000, 6000)),
            layer(birds, -36, -14, often=(0, 0.5), centre=(2500, 4500)),
        ),
    ),
    "Construction site": Scene(
        (-42, -28), (-7.5, -4.5), (1.5, 4), (0.2, 0.8), (-14, -4),
        (
            layer(hammering, -8, 9, tempo=(1.5, 14), centre=(400, 2500),
                  ring=(0.01, 0.08)),
            layer(machining, -14, 6, pitch=(60, 220), share=(0.1, 0.7)),
            layer(engine, -8, 6, pitch=(18, 45), brightness=(0.3, 0.9),
                  unrest=(0.02, 0.15)),
            layer(impacts, -14, 4, often=(0.3, 3), centre=(500, 3000),
                  ring=(0.03, 0.25)),
            layer(beeps, -30, -6, often=(0, 0.3), pitch=(1000, 1500)),
            layer(voices, -26, -6, talkers=(1, 3), pitch=(110, 170)),
            layer(passing, -16, 0, often=(0.05, 0.3), distance=(10, 30)),
        ),
    ),
    "Bar": Scene(
        (-42, -28), (-8.5, -6), (1.0, 3), (0.4, 1.1), (-8, 0),
        (
            layer(music, -1, 11, tempo=(85, 135), beat=(0.4, 0.8),
                  cutoff=(1500, 8000)),
            layer(voices, -6, 6, talkers=(3, 15), pitch=(100, 170)),
            layer(impacts, -18, -2, often=(0.2, 2.5), centre=(2500, 5500),
                  ring=(0.02, 0.15)),
            layer(flow, -14, 0, centre=(200, 800), octaves=(1, 2)),
        ),
    ),
    # Scenes that TAU and CochlScene have, and CAS has not.
    "Car": Scene(
        (-40, -26), (-10, -7), (1.0, 3), (0.08, 0.2), (-18, -8),
        (
            layer(engine, -6, 6, pitch=(25, 70), brightness=(0.1, 0.7),
                  unrest=(0.03, 0.2)),
            layer(flow, -4, 6, centre=(100, 350), octaves=(1, 2)),
            layer(music, -28, -2, tempo=(80, 130), beat=(0.2, 0.6),
                  cutoff=(2000, 7000)),
            layer(voices, -26, -2, talkers=(1, 2), pitch=(95, 160)),
            layer(beeps, -32, -12, often=(0, 0.5), pitch=(800, 1600)),
            layer(passing, -18, -4, often=(0.05, 0.4), distance=(3, 10)),
        ),
    ),
    "Metro station": Scene(
        (-44, -30), (-7.5, -4.5), (1.5, 4), (1.0, 2.5), (-4, 4),
        (
            layer(rails, -12, 5, speed=(4, 14), whine=(200, 900),
                  squeal=(0, 0.4)),
            layer(voices, -14, 2, talkers=(2, 15), pitch=(100, 170)),
            layer(footsteps, -16, 0, walkers=(1, 7), hardness=(300, 1500)),
            layer(announcements, -14, 4, often=(0.02, 0.2), pitch=(150, 230)),
            layer(beeps, -28, -8, often=(0, 0.6), pitch=(1200, 2500)),
            layer(hisses, -24, -6, often=(0.02, 0.2), centre=(2500, 5000)),
        ),
    ),
    "Tram": Scene(
        (-40, -26), (-8.5, -5.5), (1.5, 4), (0.2, 0.5), (-12, -4),
        (
            layer(rails, -4, 7, speed=(4, 11), whine=(200, 800),
                  squeal=(0.05, 0.6)),
            layer(engine, -12, 0, pitch=(40, 110), brightness=(0.2, 0.8),
                  unrest=(0.05, 0.25)),
            layer(voices, -24, -4, talkers=(1, 8), pitch=(95, 170)),
            layer(horns, -30, -10, often=(0, 0.15)),
            layer(passing, -16, 0, often=(0.05, 0.4), distance=(3, 12)),
            layer(announcements, -22, -4, often=(0, 0.12), pitch=(150, 230)),
        ),
    ),
    "Pedestrian street": Scene(
        (-44, -30), (-7, -4), (1.5, 4), (0.2, 0.8), (-14, -4),
        (
            layer(voices, -8, 5, talkers=(3, 15), pitch=(105, 190)),
            layer(footsteps, -10, 4, walkers=(2, 8), hardness=(300, 1800)),
            layer(music, -28, -2, tempo=(80, 130), beat=(0.2, 0.6),
                  cutoff=(1500, 6000)),
            layer(passing, -16, -2, often=(0.05, 0.3), distance=(15, 50)),
            layer(wind, -16, -2, gusts=(0.2, 0.8)),
            layer(impacts, -22, -6, often=(0.2, 2), centre=(600, 4000),
                  ring=(0.02, 0.1)),
        ),
    ),
    "Cafe": Scene(
        (-46, -32), (-7, -4), (1.0, 3), (0.4, 0.9), (-8, 0),
        (
            layer(voices, -8, 5, talkers=(2, 10), pitch=(100, 180)),
            layer(music, -16, 2, tempo=(70, 120), beat=(0.1, 0.5),
                  cutoff=(1500, 7000)),
            layer(impacts, -16, 2, often=(0.3, 3), centre=(2500, 5500),
                  ring=(0.02, 0.12)),
            layer(hisses, -16, 4, often=(0.05, 0.5), centre=(3000, 7000)),
            layer(flow, -10, 2, centre=(200, 800), octaves=(1, 2)),
        ),
    ),
    "Crowded indoor": Scene(
        (-44, -30), (-7, -4), (1.0, 3), (0.6, 2.0), (-6, 2),
        (
            layer(voices, -2, 10, talkers=(8, 30), pitch=(105, 200)),
            layer(footsteps, -20, -4, walkers=(1, 7), hardness=(300, 1500)),
            layer(announcements, -28, -4, often=(0, 0.15), pitch=(110, 220)),
            layer(impacts, -24, -6, often=(0.2, 2), centre=(300, 2000),
                  ring=(0.02, 0.1)),
            layer(flow, -10, 2, centre=(200, 800), octaves=(1, 2)),
        ),
    ),
    "Elevator": Scene(
        (-48, -34), (-9, -6), (1.0, 3), (0.2, 0.6), (-10, 0),
        (
            layer(engine, -10, 4, pitch=(24, 60), brightness=(0.1, 0.6),
                  unrest=(0.02, 0.15)),
            layer(flow, -6, 5, centre=(200, 900), octaves=(0.7, 1.5)),
            layer(beeps, -20, 0, often=(0.05, 0.5), pitch=(600, 1500)),
            layer(impacts, -22, -4, often=(0.1, 1), centre=(150, 800),
                  ring=(0.03, 0.15)),
            layer(announcements, -24, -4, often=(0, 0.15), pitch=(180, 230)),
            layer(voices, -30, -6, talkers=(1, 3), pitch=(95, 170)),
        ),
    ),
    "Kitchen": Scene(
        (-50, -36), (-7, -4), (1.0, 3), (0.3, 0.7), (-10, -2),
        (
            layer(impacts, -8, 9, often=(0.5, 4), centre=(1500, 4500),
                  ring=(0.02, 0.2)),
            layer(flow, -16, 8, centre=(2000, 6000), octaves=(0.8, 1.8)),
            layer(hammering, -22, 2, tempo=(2, 5), centre=(300, 1200),
                  ring=(0.01, 0.03)),
            layer(flow, -10, 4, centre=(150, 500), octaves=(0.8, 1.6)),
            layer(voices, -28, -4, talkers=(1, 2), pitch=(100, 200)),
            layer(beeps, -32, -8, often=(0, 0.3), pitch=(1800, 3000)),
        ),
    ),
    "Residential area": Scene(
        (-52, -38), (-7.5, -4.5), (1.5, 4), (0.2, 0.6), (-16, -6),
        (
            layer(passing, -8, 6, often=(0.03, 0.25), distance=(10, 50)),
            layer(birds, -22, 0, often=(0, 1.2), centre=(2500, 4500)),
            layer(wind, -10, 4, gusts=(0.1, 0.6)),
            layer(voices, -24, -2, talkers=(1, 4), pitch=(110, 260)),
            layer(footsteps, -22, -4, walkers=(1, 2), hardness=(300, 1500)),
            layer(horns, -34, -14, often=(0, 0.1)),
        ),
    ),
    "Restroom": Scene(
        (-52, -38), (-7, -4), (1.0, 3), (0.6, 1.6), (-4, 4),
        (
            layer(flow, -14, 10, centre=(1500, 5000), octaves=(0.8, 1.8)),
            layer(flow, -8, 4, centre=(150, 500), octaves=(0.8, 1.6)),
            layer(impacts, -18, 2, often=(0.1, 1.5), centre=(150, 1200),
                  ring=(0.02, 0.15)),
            layer(footsteps, -22, -2, walkers=(1, 2), hardness=(500, 1800)),
            layer(hisses, -20, 0, often=(0, 0.3), centre=(2000, 5000)),
            layer(voices, -30, -6, talkers=(1, 2), pitch=(100, 200)),
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Device:
    """A microphone and what follows it.

    Arguments
    ---------
    low_cut, high_cut : float
        Where its response has fallen by 3 dB, in Hz.
    response : float
        Standard deviation of its response in dB.
    noise : float
        Its own noise, RMS in dB of full scale.
    """

    low_cut: float
    high_cut: float
    response: float
    noise: float


DEVICES = {
    "recorder": Device(25, 22000, 0.5, -84),
    "a": Device(20, 21000, 0.5, -88),
    "b": Device(90, 16000, 2.5, -70),
    "c": Device(60, 18000, 2.5, -74),
    **{f"s{k}": Device(40 + 15 * k, 20000, 3.0, -80) for k in range(1, 7)},
    "phone": Device(80, 16000, 2.5, -72),
}


def synthesise(scene, city, session, clip, seconds, rate, device, seed=0):
    """Draws one clip.  The same arguments give the same samples.

    Arguments
    ---------
    scene : str
        Key of ``SCENES``.
    city, session, clip : str
        Names: clips of one city sound alike, those of one of its sessions
        more so.
    seconds : float
        Length of the clip.
    rate : int
        Sampling rate in Hz.
    device : str
        Key of ``DEVICES``; what follows a dash tells devices of one kind
        apart.
    seed : int
        Another seed is another world.

    Returns
    -------
    numpy.ndarray
        Waveform (samples) within -1 and 1.

    Example
    -------
    >>> synthesise("Bus", "Hefei", "1", "1", 0.5, 8000, "a").shape
    (4000,)
    """
    n = max(1, round(seconds * rate))
    recipe = SCENES[scene]
    draw = _Draw(seed, scene, city, session, clip)
    rng = _generator(seed, "sounds", scene, city, session, clip)

    background = coloured_noise(n, rate, rng, draw(recipe.slope))
    unrest = draw(recipe.unrest) / 8.7  # dB to nepers
    background *= np.exp(unrest * wander(n, rate, rng, 0.7))
    events = np.zeros(n)
    for part in recipe.layers:
        level = draw(part.level)
        drawn = {name: draw(range_) for name, range_ in part.ranges.items()}
        if level > _AUDIBLE:
            events += _amplitude(level) * part.source(n, rate, rng, **drawn)
    room = _room(n, rate, rng, draw(recipe.decay), draw(recipe.wet))
    channel, city_level = _channel(n, rate, seed, city, device)
    # The room's tails wrap around: the clip begins in the middle of things.
    spectrum = rfft(events.astype(np.float32)) * room
    spectrum += rfft(background.astype(np.float32))
    spectrum *= channel
    track = irfft(spectrum, n) * _amplitude(draw(recipe.level) + city_level)

    hiss = _generator(seed, "hiss", device, clip)
    noise = _amplitude(DEVICES[device.split("-")[0]].noise)
    track += noise * coloured_noise(n, rate, hiss, -2.0)
    return track * min(1.0, _PEAK / max(np.abs(track).max(), _PEAK))


class _Draw:
    """Draws numbers that are alike in a city, and more so in a session."""

    def __init__(self, seed, scene, city, session, clip):
        names = (scene, city), (scene, city, session), (city, session, clip)
        self._generators = [_generator(seed, "draw", *name) for name in names]

    def __call__(self, range_):
        parts = [
            np.sqrt(share) * generator.standard_normal()
            for share, generator in zip(SHARES, self._generators)
        ]
        low, high = range_
        return low + (high - low) * ndtr(sum(parts))


def _generator(seed, *names):
    """Generator of chance of its own for each list of names."""
    return np.random.default_rng([seed, *"\n".join(names).encode()])


def _amplitude(decibels):
    return 10.0 ** (decibels / 20)


def _room(n, rate, rng, decay, wet):
    """Spectrum of direct sound and decaying noise (bins of rfft)."""
    length = min(n, int(decay * rate))
    fall = 10 ** (-3 * np.arange(length) / rate / decay)
    # Air and walls take high frequencies sooner.
    tail = fall * coloured_noise(length, rate, rng, -3.0, 200.0)
    tail += 0.5 * fall**2 * band_noise(length, rate, rng, 4000.0, 1.5)
    tail *= _amplitude(wet) / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0
    return rfft(tail.astype(np.float32), n)


def _channel(n, rate, seed, city, device):
    """Frequency response (bins of rfft), and level of a city in dB."""
    frequency = np.maximum(rfftfreq(n, 1 / rate), 1.0)
    rng = _generator(seed, "channel", city)
    response = CITY_RESPONSE * _bumps(frequency, rng)
    level = CITY_LEVEL * rng.standard_normal()
    kind = DEVICES[device.split("-")[0]]
    rng = _generator(seed, "device", device)
    response += kind.response * _bumps(frequency, rng)
    passed = 1 / np.sqrt(1 + (kind.low_cut / frequency) ** 4)
    passed /= np.sqrt(1 + (frequency / kind.high_cut) ** 12)
    return (_amplitude(response) * passed).astype(np.float32), level


def _bumps(frequency, rng):
    """Smooth random curve over the logarithm of frequency, about unit RMS."""
    octave = np.log2(frequency / 1000)
    places = np.arange(-6.0, 6.0, 1.5)
    return np.interp(octave, places, 1.2 * rng.standard_normal(len(places)))
