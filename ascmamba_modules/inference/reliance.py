"""When an answer can be relied on: unknown classes, and sets of classes.

Fitted on clips that the training has not heard, and kept in the model folder.

Sources: K. Lee et al., "A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018 (distance to
the classes' means, here by cosine); M. Sadinle et al., "Least Ambiguous
Set-Valued Classifiers with Bounded Error Levels", JASA 2019.
"""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler, normalize

from ascmamba_modules.model_folder.parts import RELIANCE, read_tensors
from ascmamba_modules.utils.files import replacing

UNKNOWN = "unknown"
_REJECTED = 0.05  # share of the clips of known classes
_FOLDS = 5
_EPS = 1e-12


class Reliance:
    """Tells unknown sounds, and which classes are possible.

    Arguments
    ---------
    tensors : dict
        ``mean`` and ``scale`` of the embeddings (size), ``centres`` of the
        classes (classes, size) in standardised units and of length 1,
        ``threshold``, the least similarity of a known clip, and ``doubts``,
        one minus the posterior of the true class, of held-out clips, rising.

    Raises
    ------
    ValueError
        If one is missing, of another shape, or not finite.
    """

    def __init__(self, tensors):
        for name in ("mean", "scale", "centres", "threshold", "doubts"):
            if name not in tensors or not tensors[name].isfinite().all():
                raise ValueError(f"{name} is missing or not finite")
        size = (tensors["mean"].numel(),)
        shapes = {
            "mean": size,
            "scale": size,
            "centres": (*tensors["centres"].shape[:1], *size),
            "threshold": (1,),
            "doubts": (tensors["doubts"].numel(),),
        }
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(f"{name} has a wrong shape")
        self.tensors = tensors

    def knows(self, embeddings):
        """Tells which clips are like those of the classes: boolean (batch) of
        what :meth:`similarity` takes."""
        return self.similarity(embeddings) >= self.tensors["threshold"]

    def similarity(self, embeddings):
        """Tells how like the nearest class clips are.

        Arguments
        ---------
        embeddings : torch.Tensor
            (batch, size).

        Returns
        -------
        torch.Tensor
            Cosine of the angle to the class's mean (batch).

        Raises
        ------
        ValueError
            For embeddings of another model.
        """
        size = len(self.tensors["mean"])
        if embeddings.shape[1] != size:
            raise ValueError(
                f"{RELIANCE} is of another model: embeddings have "
                f"{embeddings.shape[1]} values, not {size}"
            )
        x = (embeddings.cpu() - self.tensors["mean"]) / self.tensors["scale"]
        x = torch.nn.functional.normalize(x, eps=_EPS)
        return (x @ self.tensors["centres"].T).amax(1)

    def possible(self, log_posteriors, coverage):
        """Marks the fewest classes among which the true one is.

        Arguments
        ---------
        log_posteriors : torch.Tensor
            (batch, classes).
        coverage : float
            Share of the clips for which that holds, over 0 and under 1, for
            clips like those that it was fitted on.

        Returns
        -------
        torch.Tensor
            Boolean (batch, classes); the best class is always marked.

        Raises
        ------
        ValueError
            If there were too few clips for such a coverage.
        """
        return possible_classes(
            self.tensors["doubts"], log_posteriors.cpu(), coverage
        )


def possible_classes(doubts, log_posteriors, coverage):
    """See :meth:`Reliance.possible`.

    Arguments
    ---------
    doubts : torch.Tensor
        One minus the posterior of the true class of held-out clips, rising.
    log_posteriors : torch.Tensor
        (batch, classes).
    coverage : float
        Share of the clips.

    Returns
    -------
    torch.Tensor
        Boolean (batch, classes).

    Raises
    ------
    ValueError
        If there were too few clips for such a coverage.

    Example
    -------
    >>> doubts = torch.tensor([0.1, 0.2, 0.3, 0.7])
    >>> posteriors = torch.tensor([[0.6, 0.35, 0.05]])
    >>> possible_classes(doubts, posteriors.log(), 0.8)
    tensor([[ True,  True, False]])
    """
    rank = math.ceil((len(doubts) + 1) * coverage)
    if not 0 < coverage < 1 or rank > len(doubts):
        raise ValueError(
            f"the {len(doubts)} clips that the model was calibrated on do not "
            f"tell a coverage of {coverage:g}; ask for at most "
            f"{math.floor(100 * len(doubts) / (len(doubts) + 1)) / 100:g}"
        )
    posteriors = log_posteriors.double().exp()
    best = posteriors == posteriors.amax(1, keepdim=True)
    return best | (1 - posteriors <= doubts[rank - 1])


def fit_reliance(embeddings, log_posteriors, targets, groups):
    """Fits on clips that the model's training has not heard.

    Arguments
    ---------
    embeddings : numpy.ndarray
        (clips, size).
    log_posteriors : numpy.ndarray
        (clips, classes).
    targets : numpy.ndarray
        Class indices (clips).
    groups : array-like
        Recording session of each clip.

    Returns
    -------
    Reliance
        See there.  Of known clips, 5 % are taken for unknown.

    Raises
    ------
    ValueError
        If there is one session only, or a class without clips.
    """
    absent = log_posteriors.shape[1] - len(set(targets))
    if absent or len(set(groups)) < 2:
        raise ValueError(
            f"{absent} classes have no held-out clips"
            if absent
            else "the held-out clips are of one session"
        )
    folds = GroupKFold(min(_FOLDS, len(set(groups))))
    similarities = np.empty(len(targets))
    for others, part in folds.split(embeddings, groups=groups):
        scaler, centres = _centres(embeddings[others], targets[others])
        x = normalize(scaler.transform(embeddings[part]))
        similarities[part] = (x @ centres.T).max(1)
    scaler, centres = _centres(embeddings, targets)
    doubts = 1 - np.exp(log_posteriors[np.arange(len(targets)), targets])
    tensors = {
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "centres": centres,
        "threshold": np.quantile(similarities, [_REJECTED]),
        "doubts": np.sort(doubts),
    }
    return Reliance(
        {k: torch.from_numpy(v).float() for k, v in tensors.items()}
    )


def _centres(embeddings, targets):
    scaler = StandardScaler().fit(embeddings)
    x = scaler.transform(embeddings)
    means = [x[targets == target].mean(0) for target in np.unique(targets)]
    return scaler, normalize(np.stack(means))


def save_reliance(reliance, folder):
    """Writes it into a model folder.

    Arguments
    ---------
    reliance : Reliance
        As from :func:`fit_reliance`.
    folder : str or Path
        The model folder.
    """
    with replacing(Path(folder, RELIANCE)) as temporary:
        # save_file would make a file that others cannot read.
        temporary.write_bytes(save(reliance.tensors))


def load_reliance(folder):
    """Reads it from a model folder.

    Arguments
    ---------
    folder : str or Path
        The model folder.

    Returns
    -------
    Reliance
        See there.

    Raises
    ------
    ValueError
        If the folder has none, or a damaged one.
    """
    path = Path(folder, RELIANCE)
    if not path.exists():
        raise ValueError(
            f"{folder} does not tell when it can be relied on: train or teach "
            "the model with clips of two recording sessions held out"
        )
    tensors = read_tensors(path)
    try:
        return Reliance(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
