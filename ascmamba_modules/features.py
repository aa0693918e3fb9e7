"""Log-mel features.

Source: ASCMamba paper, section 4.3: 2048-point transform, 40 ms Hann window,
20 ms shift, 64 mel bands, 500 x 64 values for ten seconds.
"""

import torch
from speechbrain.processing.features import InputNormalization
from torch import nn
from torchaudio.transforms import MelSpectrogram

from ascmamba_modules.padding import frame_counts, valid_frames

_POWER_FLOOR = 1e-10  # -100 dB
_CPU_CLIPS = 2


class LogMel(nn.Module):
    """Log-mel spectrogram in dB, on the device of the waveform.

    Equals ``librosa.power_to_db(librosa.feature.melspectrogram(...))`` with
    the same settings (zero padding at the edges, Slaney mel scale and
    normalisation), clip by clip, without the frame that is centred on the
    end of the clip: n samples give n // hop frames.

    Arguments
    ---------
    sample_rate : int
        Rate of the waveform in Hz.
    n_fft : int
        Points of the Fourier transform.
    win_length, hop_length : float
        Length and shift of the Hann window in milliseconds.
    n_mels : int
        Number of mel bands.
    f_min, f_max : float
        Edges of the mel filter bank in Hz; f_max None is half the rate.
    top_db : float or None
        Values lie at most this many dB under the maximum of their clip.
    remove_offset : bool
        Whether the mean of a clip's samples is subtracted first, without
        which a constant offset counts as the loudest sound.
    frequency_centering : bool
        Whether the mean over a clip is subtracted from each band, so that
        neither level nor microphone shift the values.
        Source: arXiv 2306.11764.

    Raises
    ------
    ValueError
        For edges of the filter bank, a window or a hop that do not fit the
        rate and the transform.

    Example
    -------
    >>> features = LogMel()
    >>> features(torch.randn(2, 441000)).shape
    torch.Size([2, 500, 64])
    """

    def __init__(
        self,
        sample_rate=44100,
        n_fft=2048,
        win_length=40.0,
        hop_length=20.0,
        n_mels=64,
        f_min=0.0,
        f_max=None,
        top_db=80.0,
        remove_offset=False,
        frequency_centering=False,
    ):
        super().__init__()
        if not 0 <= f_min < (f_max or sample_rate / 2) <= sample_rate / 2:
            raise ValueError(
                f"LogMel: f_min {f_min} Hz and f_max {f_max} Hz must rise, "
                f"within 0 and half the sample rate, {sample_rate / 2} Hz."
            )
        window = round(sample_rate * win_length / 1000)
        if not 0 < window <= n_fft:
            raise ValueError(
                f"LogMel: a window of {win_length} ms is {window} samples at "
                f"{sample_rate} Hz, which must be 1 to n_fft, {n_fft}."
            )
        if round(sample_rate * hop_length / 1000) < 1:
            raise ValueError(
                f"LogMel: a hop of {hop_length} ms is less than a sample."
            )
        self.settings = {
            "sample_rate": sample_rate,
            "n_fft": n_fft,
            "win_length": win_length,
            "hop_length": hop_length,
            "n_mels": n_mels,
            "f_min": f_min,
            "f_max": f_max,
            "top_db": top_db,
            "remove_offset": remove_offset,
            "frequency_centering": frequency_centering,
        }
        self.sample_rate = sample_rate
        self.hop_samples = round(sample_rate * hop_length / 1000)
        self.n_mels = n_mels
        self.top_db = top_db
        self.remove_offset = remove_offset
        self.frequency_centering = frequency_centering
        self.mel_spectrogram = MelSpectrogram(
            sample_rate=sample_rate,
            n_fft=n_fft,
            win_length=window,
            hop_length=self.hop_samples,
            f_min=f_min,
            f_max=f_max,
            n_mels=n_mels,
            power=2.0,
            pad_mode="constant",
            norm="slaney",
            mel_scale="slaney",
        )

    def forward(self, wavs, lengths=None):
        """Computes the features of a padded batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (batch, samples), zero after the end of each clip.
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            dB values (batch, frames, n_mels).  Frames after the end of a clip
            mean nothing; :meth:`frame_lengths` tells where it is.
        """
        with torch.autocast(wavs.device.type, enabled=False):
            wavs = wavs.float()
            if self.remove_offset:
                wavs = _centre(wavs.unsqueeze(-1), lengths).squeeze(-1)
            power = self._power(wavs)  # (B, M, T + 1)
        db = power.clamp_(min=_POWER_FLOOR).log10_().mul_(10.0)
        db = db.transpose(1, 2)  # (B, T + 1, M)
        if self.top_db is not None:
            peak = self._peak(db, wavs, lengths)
            db = torch.maximum(db, peak - self.top_db)
        db = db[:, : self._n_frames(wavs.shape[1])]
        if self.frequency_centering:
            db = _centre(db, self.frame_lengths(wavs, lengths))
        return db

    def frame_lengths(self, wavs, lengths):
        """Relative lengths of the clips in frames.

        Arguments
        ---------
        wavs : torch.Tensor
            The waveforms (batch, samples).
        lengths : torch.Tensor or None
            Relative lengths of the clips in samples (batch).

        Returns
        -------
        torch.Tensor or None
            Relative lengths in frames (batch), None for None.

        Example
        -------
        >>> features = LogMel(sample_rate=1000, n_fft=64, n_mels=4)
        >>> features.frame_lengths(torch.zeros(2, 110), torch.tensor([1, 0.5]))
        tensor([1.0000, 0.4000])
        """
        if lengths is None:
            return None
        samples = frame_counts(lengths, wavs.shape[1])
        frames = (samples // self.hop_samples).clamp(min=1)
        return frames / self._n_frames(wavs.shape[1])

    def _power(self, wavs):
        if wavs.device.type != "cpu":
            return self.mel_spectrogram(wavs)
        # A few spectrograms at a time fit into the cache.
        blocks = wavs.split(_CPU_CLIPS)
        return torch.cat([self.mel_spectrogram(block) for block in blocks])

    def _n_frames(self, n_samples):
        return max(1, n_samples // self.hop_samples)

    def _peak(self, db, wavs, lengths):
        """Maximum of each clip (batch, 1, 1), padding left out."""
        if lengths is not None:
            samples = frame_counts(lengths, wavs.shape[1])
            # librosa counts the frame centred on the end of the clip too.
            last_frame = (samples // self.hop_samples).unsqueeze(1)
            frames = torch.arange(db.shape[1], device=db.device)
            padding = (frames > last_frame).unsqueeze(-1)
            db = db.masked_fill(padding, -torch.inf)
        return db.amax((1, 2), keepdim=True)


def _centre(x, lengths):
    """Subtracts from (batch, time, channels) its mean over time, padding left
    out and set to zero."""
    if lengths is None:
        return x - x.mean(1, keepdim=True)
    mask = valid_frames(lengths, x.shape[1]).unsqueeze(-1)
    sums = (x * mask).sum(1, keepdim=True)
    return (x - sums / mask.sum(1, keepdim=True)) * mask


class FixedNormalization(InputNormalization):
    """Normalization by statistics that are known, and stay as they are.

    For networks that were trained elsewhere, with one mean and deviation for
    all mel bands.

    Arguments
    ---------
    n_mels : int
        Mel bands of the features.
    mean, std : float
        What is subtracted, and what the difference is divided by.

    Example
    -------
    >>> normalize = FixedNormalization(n_mels=2, mean=1.0, std=2.0)
    >>> normalize(torch.tensor([[[3.0, 5.0]]]))
    tensor([[[1., 2.]]])
    """

    def __init__(self, n_mels, mean, std):
        super().__init__()
        self.glob_mean = torch.full((n_mels,), float(mean))
        self.glob_std = torch.full((n_mels,), float(std))

    def _should_update(self, epoch):
        return False
