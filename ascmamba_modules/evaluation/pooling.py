"""Posteriors of the clips of one recording session, put together.

That is transductive: the answer to a clip depends on other clips of the test.
"""

import numpy as np
from scipy.special import log_softmax, xlogy


def pool_by_group(log_posteriors, groups):
    """Gives each clip the answer of its group.

    The log-posteriors of a group's clips are averaged, each weighted by how
    sure its clip is: one minus the entropy, relative to the largest there is.

    Arguments
    ---------
    log_posteriors : array-like
        (clips, classes).
    groups : array-like
        Group of each clip, e.g. its session.

    Returns
    -------
    numpy.ndarray
        Log-posteriors (clips, classes).

    Example
    -------
    >>> posteriors = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]
    >>> pooled = pool_by_group(np.log(posteriors), ["a", "a", "b"])
    >>> np.exp(pooled).round(2)
    array([[0.89, 0.11],
           [0.89, 0.11],
           [0.3 , 0.7 ]])
    """
    x = np.asarray(log_posteriors, float)
    posteriors = np.exp(x)
    entropy = -xlogy(posteriors, posteriors).sum(1)
    weights = np.maximum(1 - entropy / np.log(x.shape[1]), 1e-6)
    _, numbers = np.unique(np.asarray(groups, str), return_inverse=True)
    sums = np.zeros((numbers.max() + 1, x.shape[1]))
    np.add.at(sums, numbers, weights[:, None] * np.maximum(x, -50))
    means = sums / np.bincount(numbers, weights)[:, None]
    return log_softmax(means, axis=1)[numbers]


def parts_of_groups(groups, size, seed=0):
    """Divides groups at random into parts of at most so many clips.

    Arguments
    ---------
    groups : array-like
        Group of each clip.
    size : int
        Clips in a part.
    seed : int
        Seed of the random draws.

    Returns
    -------
    list
        A name for the part of each clip.

    Example
    -------
    >>> parts = parts_of_groups(["a", "a", "a", "b"], 2)
    >>> sorted(parts)
    ['a 0', 'a 0', 'a 1', 'b 0']
    """
    parts, seen = [""] * len(groups), {}
    for clip in np.random.default_rng(seed).permutation(len(groups)):
        number = seen[groups[clip]] = seen.get(groups[clip], -1) + 1
        parts[clip] = f"{groups[clip]} {number // size}"
    return parts
