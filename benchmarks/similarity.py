"""How alike two random halves of a manifest's clips are found.

    python benchmarks/similarity.py MANIFEST

Prints the share of clips of one half whose similarity to the other is above
0.9, the paper's threshold for Valid-Hard, as they are and with all clips 20 dB
quieter; see ascmamba_modules.evaluation.difficulty.
"""

import sys

import numpy as np
import pandas as pd
import torch
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.data.manifest import read_manifest
from ascmamba_modules.evaluation.difficulty import clip_statistics, similarity
from ascmamba_modules.features import LogMel

THRESHOLD = 0.9
GAIN = -20.0  # dB


@torch.no_grad()
def measure(wavs, features):
    """Statistics of each clip (clips, 2 x n_mels)."""
    normalizer = AudioNormalizer(features.sample_rate)
    return np.stack(
        [
            clip_statistics(features(load_audio(wav, normalizer)[None])[0])
            for wav in wavs
        ]
    )


def main(manifest):
    """Prints the table."""
    features = LogMel()
    n_mels = features.n_mels
    statistics = measure(read_manifest(manifest)["wav"], features)
    order = np.random.default_rng(0).permutation(len(statistics))
    quieter = statistics + np.repeat([GAIN, 0.0], n_mels)
    rows = {}
    for name, columns, kind in (
        ("mean, without the variances", slice(n_mels), "mean"),
        ("mean", slice(None), "mean"),
        ("nearest", slice(None), "nearest"),
    ):
        rows[name] = {}
        for gain, values in (("0 dB", statistics), ("-20 dB", quieter)):
            halves = values[order[::2], columns], values[order[1::2], columns]
            found = similarity(*halves, kind)
            rows[name][gain] = f"{100 * (found > THRESHOLD).mean():.0f} %"
    print(f"{len(statistics)} clips; share above {THRESHOLD}:")
    print(pd.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main(sys.argv[1])
