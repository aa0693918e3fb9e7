"""Epochs per hour with and without the feature cache.

    python benchmarks/feature_cache.py --clips 64

Noise is written as ten-second files, 48 kHz and 24 bit as those of a field
recorder, and read by SpeechBrain's loader as in a training: decoded,
resampled to 44.1 kHz and turned into features, or taken from the cache.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
import torch.nn.functional as F
from common import BUSY_HINT, machine, markdown_table, median_times
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.data.manifest import make_dataset
from ascmamba_modules.features import LogMel
from ascmamba_modules.se_trans import SETrans

CLASSES = ["Bus", "Bar"]
LABELLED_CLIPS = 1740  # of CAS 2023, to which the results are scaled
BATCH_SIZE = 8


def write_clips(folder, n_clips):
    """Writes noise as audio files.

    Arguments
    ---------
    folder : Path
        Where to.
    n_clips : int
        How many.

    Returns
    -------
    pandas.DataFrame
        Manifest rows.
    """
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(n_clips)]
    for path in paths:
        noise = rng.normal(0, 0.1, 480000)
        soundfile.write(path, noise, 48000, subtype="PCM_24")
    return pd.DataFrame(
        {
            "ID": [path.stem for path in paths],
            "wav": [str(path) for path in paths],
            "scene_label": [CLASSES[i % 2] for i in range(n_clips)],
            "location": "",
            "record_time": "",
        }
    )


def epoch(dataset, features, model, num_workers):
    """Makes a function that goes once through a dataset.

    Arguments
    ---------
    dataset : speechbrain.dataio.dataset.DynamicItemDataset
        Clips with their waveforms or their features.
    features : LogMel
        Computes features of waveforms.
    model : torch.nn.Module or None
        What to train on them; None to load them only.
    num_workers : int
        Processes that load.

    Returns
    -------
    callable
        Function without arguments.
    """
    loader = make_dataloader(
        dataset, batch_size=BATCH_SIZE, num_workers=num_workers
    )

    def run():
        for batch in loader:
            if hasattr(batch, "feats"):
                values = batch.feats.data
            else:
                with torch.no_grad():
                    values = features(*batch.sig)
            if model is None:
                continue
            logits = model(values / 20)
            logits = logits[0] if isinstance(logits, tuple) else logits
            F.cross_entropy(logits, torch.as_tensor(batch.label)).backward()
            model.zero_grad()

    return run


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}, {args.workers} worker\n{BUSY_HINT}\n")
    models = {
        "loading alone": None,
        "SETrans": SETrans(2, superset=[0, 1]),
        "ASCMamba, 16 channels, 1 block, 8 states": ASCMamba(
            2, channels=16, n_blocks=1, d_state=8
        ),
    }
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(CLASSES)
    encoder.expect_len(len(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        table = write_clips(Path(folder), args.clips)
        features, normalizer = LogMel(), AudioNormalizer(44100)
        cache = FeatureCache(folder, features, normalizer)
        cache.build(table["wav"])
        datasets = {
            "without cache": make_dataset(table, normalizer, encoder),
            "with cache": make_dataset(
                table, normalizer, encoder, feature_cache=cache
            ),
        }
        rows = []
        for name, model in models.items():
            seconds = median_times(
                {
                    way: epoch(dataset, features, model, args.workers)
                    for way, dataset in datasets.items()
                },
                args.rounds,
            )
            scale = 3600 / LABELLED_CLIPS * args.clips
            per_hour = {way: scale / s for way, s in seconds.items()}
            ratio = per_hour["with cache"] / per_hour["without cache"]
            rows.append({"training": name, **per_hour, "ratio": ratio})
    print(f"Epochs of {LABELLED_CLIPS} ten-second clips per hour")
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
