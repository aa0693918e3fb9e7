#!/usr/bin/env python3
"""Draws log-mel spectrograms of the ten CAS scenes of the demo corpora.

    python -m demo.plot_scenes figures/demo_scenes.png
    python -m demo.plot_scenes scenes.png --beside "street=recording.wav"

Recordings, if given, are drawn beneath, on the same colour scale.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
import torch

from ascmamba_modules.features import LogMel
from demo.scenes import synthesise
from demo.world import CAS_SCENES

RATE = 44100  # Hz
_COLUMNS = 5
_TICKS = (300, 1000, 3000, 10000)  # Hz


def plot_scenes(path, beside=None, seconds=10.0, seed=0):
    """Draws one clip of each scene, and recordings beneath them.

    Arguments
    ---------
    path : str or pathlib.Path
        The picture to write.
    beside : dict, optional
        Audio file for each name; their first ``seconds`` are drawn.
    seconds : float
        Length of a clip.
    seed : int
        Of the demo corpora.
    """
    clips = {
        f"{scene} ({cities[0]})": (
            synthesise(scene, cities[0], "1", "1", seconds, RATE, "a", seed),
            RATE,
        )
        for scene, (cities, _, _) in CAS_SCENES.items()
    }
    for name, file in (beside or {}).items():
        samples, rate = soundfile.read(file, always_2d=True)
        clips[name] = samples[: int(seconds * rate)].mean(1), rate
    rows = -(-len(clips) // _COLUMNS)
    figure, axes = plt.subplots(
        rows,
        _COLUMNS,
        figsize=(2.6 * _COLUMNS, 2.1 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(clips) :]:
        axis.axis("off")
    for axis, (name, (samples, rate)) in zip(axes.flat, clips.items()):
        image = _draw(axis, samples, rate)
        axis.set_title(name, fontsize=9)
    for axis in axes.flat[len(clips) - _COLUMNS : len(clips)]:
        axis.set_xlabel("time (s)", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("frequency (Hz)", fontsize=8)
    figure.colorbar(image, ax=axes, label="dB over the clip's mean", aspect=40)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def _draw(axis, samples, rate):
    """One spectrogram over its mean, on the scale that all of them share."""
    features = LogMel(sample_rate=rate, f_max=min(RATE, rate) / 2, top_db=None)
    decibels = features(torch.tensor(samples[None], dtype=torch.float32))[0]
    hertz = _band_centres(features.n_mels, min(RATE, rate) / 2)
    ticks = [tick for tick in _TICKS if tick < hertz[-1]]
    axis.set_yticks(np.interp(ticks, hertz, np.arange(len(hertz))), ticks)
    axis.tick_params(labelsize=7)
    return axis.imshow(
        (decibels - decibels.mean()).T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-30,
        vmax=30,
        extent=(0, len(samples) / rate, -0.5, features.n_mels - 0.5),
    )


def _band_centres(n_mels, f_max):
    """Centres of the bands of the Slaney mel scale, in Hz."""
    highest = 15 + 27 * np.log(f_max / 1000) / np.log(6.4)
    mels = np.linspace(0, highest, n_mels + 2)[1:-1]
    logarithmic = 1000 * 6.4 ** ((mels - 15) / 27)
    return np.where(mels < 15, mels * 200 / 3, logarithmic)


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("picture", help="the picture to write (.png)")
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="recordings to draw beneath",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="a clip (default 10)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    for item in args.beside:
        if "=" not in item:
            parser.error(f"--beside {item}: give NAME=FILE")
    beside = dict(item.split("=", 1) for item in args.beside)
    try:
        plot_scenes(args.picture, beside, args.seconds, args.seed)
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main(sys.argv[1:])
