"""Clips on a plane, near each other if a model finds them alike."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

FEWEST = 5  # clips
_COMPONENTS = 50  # as van der Maaten and Hinton do before t-SNE
_PERPLEXITY = 30.0


def map_embeddings(embeddings, seed=0):
    """Lays embeddings out on a plane with scikit-learn's t-SNE.

    Arguments
    ---------
    embeddings : array-like
        (clips, size).
    seed : int
        Of the layout.

    Returns
    -------
    numpy.ndarray
        (clips, 2).  Distances of far clips mean nothing.

    Raises
    ------
    ValueError
        For less than five clips.

    Example
    -------
    >>> map_embeddings(np.eye(8)).shape
    (8, 2)
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    n = len(embeddings)
    if n < FEWEST:
        raise ValueError(f"a map needs {FEWEST} clips or more, there are {n}")
    embeddings = StandardScaler().fit_transform(embeddings)
    components = min(_COMPONENTS, *embeddings.shape)
    reduced = PCA(components, random_state=seed).fit_transform(embeddings)
    return TSNE(
        perplexity=min(_PERPLEXITY, (n - 1) / 3),
        init="random",
        random_state=seed,
    ).fit_transform(reduced)
