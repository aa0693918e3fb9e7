"""Calibration error and temperature scaling.

Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern
neural networks", ICML 2017.
"""

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from ascmamba_modules.inference.reliance import possible_classes

TEMPERATURES = (0.05, 20.0)
BINS = 15  # as Guo et al.
_FLOOR = np.log(np.finfo(np.float64).eps)


def clip_losses(targets, log_posteriors):
    """Log-loss of each clip: minus the log-posterior of its class.

    Arguments
    ---------
    targets : array-like
        Class indices (clips).
    log_posteriors : array-like
        (clips, classes).

    Returns
    -------
    numpy.ndarray
        In nats (clips); at most 36.04, that of a posterior of 2.2e-16, the
        least that scikit-learn's ``log_loss`` knows.
    """
    log_posteriors = np.asarray(log_posteriors)
    true_class = log_posteriors[np.arange(len(log_posteriors)), targets]
    return -np.maximum(true_class, _FLOOR)


def reliability_bins(targets, log_posteriors, bins=BINS):
    """Compares confidence with accuracy.

    The range 0 to 1 of the top posterior is cut into bins of equal width,
    each without its lower and with its upper edge.

    Arguments
    ---------
    targets : array-like
        Class indices (clips).
    log_posteriors : array-like
        (clips, classes).
    bins : int
        Number of bins.

    Returns
    -------
    pandas.DataFrame
        A row for each bin that has clips: their mean top posterior
        (``confidence``), the share of them that is right (``accuracy``), and
        their number (``clips``).

    Example
    -------
    >>> posteriors = [[0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
    >>> reliability_bins([0, 1, 1], np.log(posteriors), bins=2)
       confidence  accuracy  clips
    0    0.783333  0.666667      3
    """
    posteriors = np.exp(np.asarray(log_posteriors, float))
    clips = pd.DataFrame(
        {
            "confidence": posteriors.max(1).clip(0, 1),
            "accuracy": posteriors.argmax(1) == np.asarray(targets),
        }
    )
    edges = pd.cut(
        clips["confidence"], np.linspace(0, 1, bins + 1), include_lowest=True
    )
    groups = clips.groupby(edges, observed=True)
    return (
        groups.mean().assign(clips=groups.size()).reset_index(drop=True)
    ).astype({"accuracy": float})


def expected_calibration_error(targets, log_posteriors, bins=BINS):
    """Mean distance of confidence and accuracy over the bins.

    Each bin of :func:`reliability_bins` weighs as much as it has clips.  With
    few clips in a bin the error comes out too large by chance.

    Arguments
    ---------
    targets, log_posteriors, bins
        As there.

    Returns
    -------
    float
        Between 0 and 1.

    Example
    -------
    >>> posteriors = [[0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
    >>> error = expected_calibration_error([0, 1, 1], np.log(posteriors), 2)
    >>> round(error, 4)
    0.1167
    """
    table = reliability_bins(targets, log_posteriors, bins)
    distance = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(distance, weights=table["clips"]))


def apply_temperature(log_posteriors, temperature):
    """Divides log-posteriors by a temperature and normalises them again.

    Arguments
    ---------
    log_posteriors : array-like
        (clips, classes).
    temperature : float or numpy.ndarray
        Above 1 makes the model less sure, below 1 surer; the order of the
        classes stays.  One for all or one a clip, (clips, 1).

    Returns
    -------
    numpy.ndarray
        Log-posteriors (clips, classes).

    Example
    -------
    >>> cooled = apply_temperature(np.log([[0.8, 0.2]]), 2.0)
    >>> np.exp(cooled).round(3)  # odds of 2 to 1 instead of 4 to 1
    array([[0.667, 0.333]])
    """
    # A posterior of zero would stay zero at any temperature.
    log_posteriors = np.maximum(np.asarray(log_posteriors, float), _FLOOR)
    return log_softmax(log_posteriors / temperature, axis=1)


def fit_temperature(targets, log_posteriors):
    """Finds the temperature with the least log-loss.

    Arguments
    ---------
    targets : array-like
        Class indices (clips).
    log_posteriors : array-like
        (clips, classes).

    Returns
    -------
    float
        From 0.05 to 20; near an end of this range if all clips are right, or
        all are wrong.

    Example
    -------
    >>> posteriors = np.log([[0.99, 0.01]] * 4)
    >>> temperature = fit_temperature([0, 0, 0, 1], posteriors)
    >>> np.exp(apply_temperature(posteriors[:1], temperature)).round(2)
    array([[0.75, 0.25]])
    """

    def loss(log_temperature):
        scaled = apply_temperature(log_posteriors, np.exp(log_temperature))
        return clip_losses(targets, scaled).mean()

    result = minimize_scalar(
        loss, bounds=np.log(TEMPERATURES), method="bounded"
    )
    return float(np.exp(result.x))


def scale_by_session(targets, log_posteriors, sessions, folds=5):
    """Temperature scaling, fitted on other sessions than it is applied to.

    The clips are divided by scikit-learn's ``GroupKFold``; the clips of each
    part are scaled by the temperature fitted on the others, so that no
    session helps to calibrate itself.

    Arguments
    ---------
    targets : array-like
        Class indices (clips).
    log_posteriors : array-like
        (clips, classes).
    sessions : array-like
        Session of each clip.
    folds : int
        Parts, at most; there are never more than sessions.

    Returns
    -------
    log_posteriors : numpy.ndarray
        Scaled (clips, classes).
    temperatures : numpy.ndarray
        One a part.

    Raises
    ------
    ValueError
        If there is but one session.
    """
    targets, log_posteriors = np.asarray(targets), np.asarray(log_posteriors)
    n_sessions = len(set(sessions))
    if n_sessions < 2:
        raise ValueError(
            "temperature scaling needs clips of two sessions or more, there "
            f"are {n_sessions}: it is fitted on other sessions than it is "
            "tested on"
        )
    scaled = np.empty(log_posteriors.shape)
    temperatures = []
    splitter = GroupKFold(min(folds, n_sessions))
    for fit, test in splitter.split(targets, groups=np.asarray(sessions)):
        temperature = fit_temperature(targets[fit], log_posteriors[fit])
        scaled[test] = apply_temperature(log_posteriors[test], temperature)
        temperatures.append(temperature)
    return scaled, np.array(temperatures)


def coverage_by_session(targets, log_posteriors, sessions, share=0.9, folds=5):
    """How often the sets of possible classes hold the true one, and how large
    they are, fitted on other sessions than they are tested on.

    Arguments
    ---------
    targets, log_posteriors, sessions, folds
        As for :func:`scale_by_session`.
    share : float
        What is asked for, see :func:`ascmamba_modules.inference.reliance
        .possible_classes`.

    Returns
    -------
    float
        Share of the clips (0 to 1).
    float
        Mean number of classes.

    Raises
    ------
    ValueError
        If there are too few clips or sessions.
    """
    targets, x = np.asarray(targets), torch.as_tensor(log_posteriors)
    held, sizes = np.empty(len(targets)), np.empty(len(targets))
    splitter = GroupKFold(min(folds, len(set(sessions))))
    for fit, test in splitter.split(targets, groups=np.asarray(sessions)):
        doubts = 1 - x[fit, targets[fit]].exp()
        marks = possible_classes(doubts.sort().values, x[test], share)
        held[test] = marks[np.arange(len(test)), targets[test]]
        sizes[test] = marks.sum(1)
    return held.mean(), sizes.mean()
