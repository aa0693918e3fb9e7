"""Valid-Easy and Valid-Hard: which clips sound like the evaluation set.

Source: ASCMamba paper, section 4.1: "the statistical distribution of each
audio feature, such as the mean and variance" of the log-mel features of a clip
is compared to the evaluation set's by cosine similarity; clips above 0.9 are
Valid-Hard, the others Valid-Easy.

The paper does not say over what mean and variance are taken, how the two are
scaled to each other, or what represents the evaluation set.  Here they are
taken over time, for each mel band (2 x n_mels numbers a clip), and there are
two kinds of similarity:

- ``mean``, the paper's words: the raw statistics against their mean over the
  evaluation clips.  It depends on the recorder's gain, and the means, tens of
  dB below full scale in any clip, make nearly all clips alike.
- ``nearest``, the default: each statistic is standardised over the evaluation
  clips, and a clip's similarity is the largest to any of them.  A common gain
  does not matter.
"""

import numpy as np
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

KINDS = ("nearest", "mean")


def clip_statistics(features):
    """Mean and variance of each band over time.

    Arguments
    ---------
    features : array-like
        Log-mel features of a clip (time, n_mels) in dB.

    Returns
    -------
    numpy.ndarray
        The means in dB, then the variances (2 x n_mels), float64.

    Example
    -------
    >>> clip_statistics([[-10.0, -30.0], [-20.0, -30.0]])
    array([-15., -30.,  25.,   0.])
    """
    features = np.asarray(features, dtype=np.float64)
    return np.concatenate([features.mean(0), features.var(0)])


def similarity(clips, evaluation, kind="nearest", same=None):
    """Cosine similarity of clips to the evaluation set.

    Arguments
    ---------
    clips, evaluation : array-like
        Rows of :func:`clip_statistics` (clips, 2 x n_mels).
    kind : str
        "nearest" or "mean", see the top of this file.
    same : array-like, optional
        (clips, evaluation clips), true where the two are one clip, which is
        then not compared with itself; for the kind "nearest".

    Returns
    -------
    numpy.ndarray
        From -1 to 1 (clips), never NaN: zero, if just one of two clips is at
        zero, where it has no direction; one, if both are.

    Raises
    ------
    ValueError
        For another kind, or if there are no evaluation clips to compare with.

    Example
    -------
    >>> clips = np.array([[-40.0, -60.0, 9.0, 16.0], [-20.0, -30.0, 4.0, 4.0]])
    >>> similarity(clips, clips, "mean").round(3)
    array([0.999, 0.997])
    >>> similarity(clips, clips, same=np.eye(2)).round(3)
    array([-1., -1.])
    """
    if kind not in KINDS:
        raise ValueError(
            f"no similarity '{kind}'; choose from {', '.join(KINDS)}"
        )
    clips = np.asarray(clips, dtype=np.float64)
    evaluation = np.asarray(evaluation, dtype=np.float64)
    if kind == "mean":
        return _cosine(clips, evaluation.mean(0, keepdims=True))[:, 0]
    # Bands that are constant are left at zero.
    scaler = StandardScaler().fit(evaluation)
    pairs = _cosine(scaler.transform(clips), scaler.transform(evaluation))
    if same is not None:
        pairs = np.where(np.asarray(same, bool), -np.inf, pairs)
    nearest = pairs.max(1)
    if np.isneginf(nearest).any():
        raise ValueError(
            "the evaluation set has no other clip than the one to be compared"
        )
    return nearest


def _cosine(first, second):
    cosine = cosine_similarity(first, second)
    at_zero = ~first.any(1)[:, None] & ~second.any(1)[None, :]
    return np.where(at_zero, 1.0, cosine.clip(-1, 1))
