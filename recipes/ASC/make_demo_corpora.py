#!/usr/bin/env python3
"""Synthesises a small labelled set, to try the recipe without a download.

    python make_demo_corpora.py demo --clips 24

Each of the ten CAS scenes is a random mixture: a background of coloured noise
whose loudness wanders, machine hums, and events (footfalls, birds, clatter)
that come at random.  Every clip draws its own values, so that no two are
alike, and each scene has its cities and hours.  It shows that everything
works; scores on it say nothing about real recordings.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from scipy.signal import butter, lfilter, sosfilt

from ascmamba_modules.manifest import write_manifest

RATE = 44100  # Hz


@dataclass(frozen=True)
class Scene:
    """What a scene sounds like, and where and when it is recorded."""

    slope: float  # of the background's spectrum, dB per octave
    wander: float  # of the background's loudness, Hz
    hum: float  # fundamental of machines, Hz; 0 for none
    events: str  # kind of event
    rate: float  # events a second
    cities: tuple
    hours: tuple


SCENES = {
    "Bus": Scene(-7, 0.5, 45, "rattle", 3, ("Xi'an", "Hefei"), (8, 18)),
    "Airport": Scene(-4, 0.2, 0, "voice", 2, ("Shanghai",), (9, 21)),
    "Metro": Scene(-5, 1.0, 110, "rattle", 1, ("Shanghai",), (7, 19)),
    "Restaurant": Scene(-3, 2.0, 0, "clink", 3, ("Jinan",), (12, 19)),
    "Shopping mall": Scene(-3, 0.5, 0, "voice", 5, ("Hefei",), (14, 20)),
    "Public square": Scene(-4, 0.5, 0, "step", 3, ("Xi'an",), (16, 20)),
    "Urban park": Scene(-2, 0.2, 0, "bird", 3, ("Luoyang",), (7, 10)),
    "Traffic street": Scene(-6, 0.3, 70, "pass", 0.4, ("Xi'an",), (8, 18)),
    "Construction site": Scene(-3, 0.3, 25, "blow", 4, ("Jinan",), (9, 16)),
    "Bar": Scene(-6, 2.0, 0, "beat", 2, ("Chongqing",), (20, 23)),
}
# Length in seconds, band in Hz, and decay (share of the length) of each kind.
_EVENTS = {
    "rattle": (0.10, (600, 3000), 0.3),
    "voice": (0.40, (200, 3000), 0.6),
    "clink": (0.15, (3000, 9000), 0.2),
    "step": (0.08, (80, 900), 0.3),
    "pass": (2.50, (80, 1500), 1.0),
    "blow": (0.12, (150, 6000), 0.2),
    "beat": (0.20, (40, 160), 0.3),
}


def synthesise(scene, seconds, rng):
    """Draws one clip of a scene.

    Arguments
    ---------
    scene : Scene
        What to draw.
    seconds : float
        Length of the clip.
    rng : numpy.random.Generator
        Source of all chance.

    Returns
    -------
    numpy.ndarray
        Waveform (samples) at 44.1 kHz, within -1 and 1.
    """
    n = int(seconds * RATE)
    clip = _background(scene, n, rng)
    if scene.hum:
        clip += _hum(scene.hum * rng.uniform(0.85, 1.15), n, rng)
    for _ in range(rng.poisson(scene.rate * seconds)):
        event = _event(scene.events, rng)
        start = rng.integers(-len(event) // 2, n)
        event = event[max(0, -start) :][: n - max(0, start)]
        clip[max(0, start) :][: len(event)] += event
    level = 10 ** (rng.uniform(-30, -18) / 20)  # RMS, dB of full scale
    return np.clip(clip * level / np.sqrt(np.mean(clip**2)), -1, 1)


def _background(scene, n, rng):
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    octaves = np.log2(np.maximum(frequency, 40) / 1000)
    slope = scene.slope + rng.normal(0, 0.7)
    noise = np.fft.irfft(spectrum * 10 ** (slope * octaves / 20), n)
    noise /= noise.std()
    # One-pole low-pass noise: loudness wanders by about 3 dB.
    pole = np.exp(-2 * np.pi * scene.wander / RATE)
    loudness = lfilter([1], [1, -pole], rng.standard_normal(n))
    return noise * 10 ** (3 * loudness / (loudness.std() + 1e-9) / 20)


def _hum(fundamental, n, rng):
    time = np.arange(n) / RATE
    drift = 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * time)
    phase = 2 * np.pi * fundamental * np.cumsum(drift) / RATE
    partials = range(1, 9)
    return sum(
        np.sin(k * phase + rng.uniform(0, 6)) * rng.uniform(0.2, 0.8) / k
        for k in partials
    )


def _event(kind, rng):
    loudness = rng.uniform(0.5, 3.0)
    if kind == "bird":
        length = int(rng.uniform(0.1, 0.4) * RATE)
        time = np.arange(length) / RATE
        sweep = rng.uniform(2500, 6000) + 800 * np.sin(
            2 * np.pi * rng.uniform(5, 25) * time
        )
        tone = np.sin(2 * np.pi * np.cumsum(sweep) / RATE)
        return loudness * tone * np.hanning(length)
    seconds, (low, high), decay = _EVENTS[kind]
    length = int(seconds * rng.uniform(0.7, 1.4) * RATE)
    shift = rng.uniform(0.8, 1.25)
    band = butter(2, (low * shift, high * shift), "band", fs=RATE, output="sos")
    noise = sosfilt(band, rng.standard_normal(length))
    noise /= noise.std() + 1e-9
    if decay == 1.0:
        return loudness * noise * np.hanning(length)
    attack = np.minimum(1, np.arange(length) / (0.01 * RATE))
    return (
        loudness
        * noise
        * attack
        * np.exp(-np.arange(length) / (decay * length))
    )


def make_demo_set(folder, clips_per_scene, seconds, seed=0):
    """Writes the clips and ``manifest.csv``.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to write; made if need be.
    clips_per_scene : int
        Clips of each scene, at least 6: two thirds are for training, the
        rest for validation and test.
    seconds : float
        Length of a clip.
    seed : int
        The same seed gives the same clips.

    Returns
    -------
    pandas.DataFrame
        The manifest.
    """
    if clips_per_scene < 6 or seconds <= 0:
        raise ValueError(
            "At least 6 clips a scene of more than 0 seconds are needed, "
            f"not {clips_per_scene} of {seconds} s."
        )
    folder = Path(folder)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for label, scene in SCENES.items():
        for number in range(clips_per_scene):
            name = f"{label.lower().replace(' ', '_')}_{number:03d}"
            wav = f"audio/{name}.wav"
            clip = synthesise(scene, seconds, rng)
            soundfile.write(folder / wav, clip, RATE, subtype="PCM_16")
            rows.append(_row(name, wav, seconds, label, scene, number, rng))
    manifest = pd.DataFrame(rows)
    write_manifest(manifest, folder / "manifest.csv")
    return manifest


def _row(name, wav, seconds, label, scene, number, rng):
    city = rng.choice(scene.cities)
    moment = (
        f"2023-{rng.integers(4, 9):02d}-{rng.integers(1, 29):02d} "
        f"{rng.integers(scene.hours[0], scene.hours[1] + 1):02d}:"
        f"{rng.integers(0, 60):02d}:00"
    )
    return {
        "ID": name,
        "wav": wav,
        "duration": seconds,
        "scene_label": label,
        "location": city,
        "record_time": moment,
        "session": f"{city} {moment}",
        "dataset": "demo",
        "split": ("train", "train", "valid", "train", "train", "test")[
            number % 6
        ],
        "label_source": "synthesis",
    }


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="where to write")
    parser.add_argument("--clips", type=int, default=24, help="a scene")
    parser.add_argument("--seconds", type=float, default=4.0, help="a clip")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        manifest = make_demo_set(
            args.folder, args.clips, args.seconds, args.seed
        )
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    print(f"{args.folder}/manifest.csv: {len(manifest)} clips")


if __name__ == "__main__":
    main(sys.argv[1:])
