"""Shapes of a padded batch, and which of its frames belong to a clip."""

import torch


def check_features(features, n_mels):
    """Raises an error unless features fit a model.

    Arguments
    ---------
    features : torch.Tensor
        What a model is given.
    n_mels : int
        Mel bands that it takes.

    Raises
    ------
    ValueError
        If they are not (batch, time, n_mels).

    Example
    -------
    >>> check_features(torch.rand(2, 50, 64), n_mels=64)
    """
    if features.dim() != 3 or features.shape[2] != n_mels:
        raise ValueError(
            f"The model takes features (batch, time, {n_mels}), got "
            f"{tuple(features.shape)}."
        )


def frame_counts(lengths, n_frames):
    """Turns SpeechBrain's relative lengths into numbers of frames.

    Arguments
    ---------
    lengths : torch.Tensor
        Relative lengths (batch), 1 for the longest clip.
    n_frames : int
        Frames of the padded batch.

    Returns
    -------
    torch.Tensor
        Frames of each clip (batch), at least 1.

    Example
    -------
    >>> frame_counts(torch.tensor([0.5, 1.0]), 10)
    tensor([ 5, 10])
    """
    return (lengths * n_frames).round().long().clamp(1, n_frames)


def valid_frames(lengths, n_frames):
    """Marks the frames that belong to each clip, padding or not.

    Arguments
    ---------
    lengths : torch.Tensor
        Relative lengths (batch).
    n_frames : int
        Frames of the padded batch.

    Returns
    -------
    torch.Tensor
        Boolean (batch, n_frames).

    Example
    -------
    >>> valid_frames(torch.tensor([0.5, 1.0]), 4)
    tensor([[ True,  True, False, False],
            [ True,  True,  True,  True]])
    """
    counts = frame_counts(lengths, n_frames)
    frames = torch.arange(n_frames, device=lengths.device)
    return frames < counts.unsqueeze(1)


def frame_mask(lengths, n_frames):
    """Marks the frames that belong to each clip.

    To tell whether there is any padding, the host waits for lengths that are
    on a GPU.  Where it is known that there is none, None spares the waiting.

    Arguments
    ---------
    lengths : torch.Tensor or None
        Relative lengths (batch).
    n_frames : int
        Frames of the padded batch.

    Returns
    -------
    torch.Tensor or None
        Boolean (batch, n_frames), or None if no clip has padding: modules
        then take their quicker path.

    Example
    -------
    >>> frame_mask(torch.tensor([0.5, 1.0]), 4)
    tensor([[ True,  True, False, False],
            [ True,  True,  True,  True]])
    >>> frame_mask(torch.ones(2), 4) is None
    True
    """
    if lengths is None:
        return None
    mask = valid_frames(lengths, n_frames)
    # A clip without padding is valid up to its last frame.
    return None if mask[:, -1].all() else mask
