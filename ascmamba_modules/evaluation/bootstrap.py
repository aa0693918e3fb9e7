"""Uncertainty of scores: sessions are drawn, not clips.

Clips of one recording session tend to be right or wrong together: intervals and
tests that treat clips as independent are too confident.
"""

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, permutation_test


def interval_by_session(
    values, sessions, targets=None, level=0.95, resamples=1000, seed=0
):
    """Bootstrap interval of a score, percentile method, over sessions.

    Sessions are drawn with replacement, each with all its clips.  A class
    that no drawn session has does not count in that draw.

    Arguments
    ---------
    values : array-like
        What the score is the mean of (clips): whether the prediction is
        right for accuracies, the difference of two models' for theirs, the
        loss of each clip for the log-loss.
    sessions : array-like
        Session of each clip.
    targets : array-like, optional
        Class of each clip: the score is the mean of the classes' means, as
        macro accuracy.  None: the mean of all clips.
    level : float
        Share of draws that the interval holds.
    resamples : int
        Draws.
    seed : int
        Of the draws.

    Returns
    -------
    tuple
        Lower and upper end; NaN if there is but one session, because then
        nothing tells how sessions differ.

    Example
    -------
    >>> right = [1, 1, 1, 1, 0, 0]
    >>> interval_by_session(right, ["a", "a", "b", "b", "c", "c"])
    (0.0, 1.0)
    >>> interval_by_session(right, ["a"] * 6)
    (nan, nan)
    """
    sums, counts = _sums(values, sessions, targets)
    if len(sums) < 2:
        return np.nan, np.nan

    def score(drawn, axis):
        return _macro(sums[drawn], counts[drawn], axis)

    result = bootstrap(
        (np.arange(len(sums)),),
        score,
        n_resamples=resamples,
        batch=100,  # a draw holds sessions x classes numbers
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(result.low), float(result.high)


def paired_test(first, second, sessions, targets=None, resamples=9999, seed=0):
    """Permutation test between two models on the same clips, over sessions.

    If the models are equally good their answers to a session might as well
    be swapped; the p-value is the share of such swaps that part the scores
    at least as far as they are.  With few sessions all swaps are tried.

    Arguments
    ---------
    first, second : array-like
        Values of the two models (clips), see :func:`interval_by_session`.
    sessions, targets : array-like
        As there.
    resamples : int
        Swaps to draw.
    seed : int
        Of the draws.

    Returns
    -------
    difference : float
        Score of the first minus that of the second.
    p_value : float
        Two-sided; 1 if there is but one session.

    Example
    -------
    >>> sessions = list("abcdef")
    >>> paired_test([1] * 6, [0] * 6, sessions)  # 2 of 2 ** 6 swaps
    (1.0, 0.03125)
    """
    parts = [_sums(values, sessions, targets) for values in (first, second)]
    sums = np.concatenate([part[0] for part in parts])
    counts = np.concatenate([part[1] for part in parts])

    def difference(x, y, axis):
        return _macro(sums[x], counts[x], axis) - _macro(
            sums[y], counts[y], axis
        )

    n = len(sums) // 2
    first, second = np.arange(n), np.arange(n, 2 * n)
    if n < 2:
        return float(difference(first, second, -1)), 1.0
    result = permutation_test(
        (first, second),
        difference,
        permutation_type="samples",
        n_resamples=resamples,
        batch=100,
        random_state=np.random.default_rng(seed),
    )
    return float(result.statistic), float(result.pvalue)


def _sums(values, sessions, targets):
    """Sums of the values and clips, (sessions, classes) each."""
    if targets is None:
        targets = np.zeros(len(values), int)
    session, _ = pd.factorize(np.asarray(sessions))
    target, _ = pd.factorize(np.asarray(targets))
    shape = session.max() + 1, target.max() + 1
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (session, target), np.asarray(values, float))
    np.add.at(counts, (session, target), 1)
    return sums, counts


def _macro(sums, counts, axis):
    """Mean of the classes' means; ``axis`` runs over the drawn sessions."""
    axis = axis - 1 if axis < 0 else axis  # the last one is now the class
    sums, counts = sums.sum(axis), counts.sum(axis)
    present = counts > 0
    means = np.divide(sums, counts, where=present, out=np.zeros_like(sums))
    return means.sum(-1) / present.sum(-1)
