"""Clips that are worth labelling, and a page to label them on.

Source: F. Zhdanov, "Diverse mini-batch Active Learning", 2019: the clips of
which a model is least sure, and of these one from each cluster.
"""

import os

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.evaluation.page import LONGEST, RATE, audio, render
from ascmamba_modules.features import LogMel
from ascmamba_modules.plots import plot_spectrogram
from ascmamba_modules.utils.remote import absolute

_CANDIDATES = 3  # for each clip that is chosen
KEYS = "1234567890abcdefghijklmnopqrstuvwxyz"


def choose_clips(embeddings, posteriors, number):
    """Chooses clips of which a model is unsure, and that are not alike.

    Arguments
    ---------
    embeddings : array-like
        (clips, size).
    posteriors : array-like or None
        (clips, classes); None counts all clips as equally unsure.
    number : int
        Clips to choose, at most.

    Returns
    -------
    list
        Their indices, the least sure first.

    Example
    -------
    >>> embeddings = [[0, 0], [0, 1], [0, 2], [9, 0], [9, 1], [9, 2]]
    >>> sorted(choose_clips(embeddings, None, 2))
    [1, 4]
    """
    x = StandardScaler().fit_transform(np.asarray(embeddings, float))
    margins = np.zeros(len(x))
    candidates = np.arange(len(x))
    if posteriors is not None:
        ranked = np.sort(np.asarray(posteriors), axis=1)
        margins = ranked[:, -1] - ranked[:, -2]
        order = np.argsort(margins, kind="stable")
        candidates = order[: _CANDIDATES * number]
    x = x[candidates]
    n_clusters = min(number, len(np.unique(x, axis=0)))
    clusters = KMeans(n_clusters, n_init=3, random_state=0).fit(x)
    nearest = clusters.transform(x).argmin(0)
    chosen = candidates[np.unique(nearest)]
    return chosen[np.argsort(margins[chosen], kind="stable")].tolist()


def write_review(path, files, classes):
    """Writes a page on which to label clips, one HTML file.

    Arguments
    ---------
    path : str or Path
        HTML file to write.
    files : list
        Audio files, of which the first ten seconds are heard.
    classes : list
        Names to choose from.
    """
    features, normalizer = LogMel(sample_rate=RATE), AudioNormalizer(RATE)
    hop, clips = features.hop_samples / RATE, []
    for file in files:
        waveform = load_audio(file, normalizer)[: LONGEST * RATE]
        x = features(waveform.unsqueeze(0))[0]
        name = os.path.basename(file)
        block = audio(file, name, plot_spectrogram(x.numpy(), hop, name))
        clips.append({"file": absolute(file), **block})
    keys = KEYS[: len(classes)].ljust(len(classes))
    render(path, "review.html", clips=clips, classes=list(zip(keys, classes)))
