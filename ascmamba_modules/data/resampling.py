"""Resampling to one channel, in memory that is bounded at any rate."""

import math

import torch
from scipy.signal import resample_poly

_LONGEST_STEP = 2e5  # samples, at which SciPy takes 180 MB
_KEPT_FILTER_SIZE = 2e5  # usual rates have up to 150,000
# The resampler's filters reach 6 / (0.99 * lower rate) seconds to each side:
# 6 ms at 1 kHz.
_MARGIN = 0.05  # seconds


def resample_stream(read, rate, channels, audio_normalizer, block_length):
    """Resamples audio and averages its channels, in blocks.

    Arguments
    ---------
    read : callable
        ``read(frames)`` gives the next samples, a float32 array (frames,
        channels); fewer than asked for at the end.
    rate, channels : int
        Of these samples.
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
        For a rate that cannot be resampled, see :func:`check_rate`, and from
        ``read``.
    """
    new_rate = audio_normalizer.sample_rate
    check_rate(rate, new_rate)
    # Input samples after which a whole number of output samples is due.
    step = rate // math.gcd(rate, new_rate)
    step_out = new_rate // math.gcd(rate, new_rate)
    margin = step * math.ceil(_MARGIN * rate / step)
    size = max(2 * margin, step * round(block_length * rate / step))
    known = torch.empty(0, channels)  # before the block
    done = 0  # samples of known that have been yielded
    while True:
        block = read(size)
        samples = torch.cat([known, torch.from_numpy(block)])
        if len(samples) == 0:
            return
        waveform = _normalize_audio(samples, rate, audio_normalizer)
        first = done // step * step_out
        if len(block) < size:
            yield waveform[first:]
            return
        last = (len(samples) - margin) // step * step_out
        yield waveform[first:last]
        known = samples[-2 * margin :]
        done = margin


def _normalize_audio(samples, rate, audio_normalizer):
    """Resamples and averages channels (time, channels) to a waveform.

    The normaliser keeps a filter for each rate that it has seen, hundreds of
    MB for odd ones, which are resampled by SciPy instead.
    """
    new_rate = audio_normalizer.sample_rate
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    if up * down > _KEPT_FILTER_SIZE:
        samples = resample_poly(samples.numpy(), up, down, axis=0)
        samples = torch.from_numpy(samples)
        rate = new_rate
    return audio_normalizer(samples, rate)


def check_rate(rate, new_rate):
    """Refuses rates that have too few factors in common.

    A block of a recording holds a multiple of ``rate / gcd`` samples, of which
    a damaged header makes any number.

    Arguments
    ---------
    rate, new_rate : int
        Rates in Hz, from and to.

    Raises
    ------
    ValueError
        For such rates, from 250,007 to 44,100 Hz for example.

    Example
    -------
    >>> check_rate(48000, 44100)
    """
    if max(rate, new_rate) / math.gcd(rate, new_rate) > _LONGEST_STEP:
        raise ValueError(
            f"{rate} Hz cannot be resampled to {new_rate} Hz in little "
            "memory; convert the file to a usual rate (16000, 44100, 48000 ...)"
        )
