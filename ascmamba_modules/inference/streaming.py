"""Recordings of any length, read and cut in constant memory."""

import torch

from ascmamba_modules.data.audio_files import open_audio, report_samples
from ascmamba_modules.data.resampling import resample_stream

_BLOCK = 10.0  # seconds


def stream_audio(path, audio_normalizer, block_length=_BLOCK):
    """Reads a file of any rate and channel count as one channel, in blocks.

    Concatenated, the blocks equal the output of
    :func:`~ascmamba_modules.data.audio_files.load_audio` up to float32
    rounding: each block is resampled together with the samples around it that
    the resampler's filters reach.

    Arguments
    ---------
    path : str or Path
        Audio file.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Resamples and averages the channels.
    block_length : float
        Approximate length of a block in seconds.

    Yields
    ------
    torch.Tensor
        Waveform (samples) at the normaliser's rate.

    Raises
    ------
    ValueError
        As :func:`~ascmamba_modules.data.audio_files.load_audio`; if the file
        is damaged, where it is.
    """
    with open_audio(path) as audio:
        yield from resample_stream(
            audio.read,
            audio.samplerate,
            audio.channels,
            audio_normalizer,
            block_length,
        )
        report_samples(path, audio)


def cut_windows(blocks, window, hop):
    """Cuts a recording into windows of one length.

    A window starts every ``hop`` samples.  The last one ends with the
    recording, so it may start less than a hop after the one before it; a
    recording shorter than a window is one window of its own length.

    Arguments
    ---------
    blocks : iterable
        Consecutive waveforms (samples) of the recording.
    window, hop : int
        Length and shift in samples, 0 < hop <= window.

    Yields
    ------
    int
        First sample of a window.
    torch.Tensor
        Its waveform (window).

    Example
    -------
    >>> [start for start, _ in cut_windows([torch.zeros(25)], 10, 8)]
    [0, 8, 15]
    """
    kept = torch.empty(0)
    offset = 0  # of the first sample kept
    start = 0  # of the next window
    for block in blocks:
        kept = torch.cat([kept, block])
        end = offset + len(kept)
        while start + window <= end:
            yield start, kept[start - offset :][:window]
            start += hop
        # The last window may reach back further than the next one.
        first = max(offset, min(start, end - window))
        kept = kept[first - offset :].clone()
        offset = first
    end = offset + len(kept)
    if end and start == 0:
        yield 0, kept
    elif start - hop + window < end:
        yield end - window, kept[-window:]
