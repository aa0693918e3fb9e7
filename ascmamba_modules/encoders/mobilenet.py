"""MobileNets that were trained to tag AudioSet, as audio encoders.

Source: F. Schmid, K. Koutini and G. Widmer, "Efficient Large-scale Audio
Tagging via Transformer-to-CNN Knowledge Distillation", ICASSP 2023.  The
network is MobileNetV3-Large: A. Howard et al., "Searching for MobileNetV3",
2019, table 1.
"""

from pathlib import Path

import pooch
import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.compliance.kaldi import get_mel_banks

from ascmamba_modules.padding import check_features, frame_counts, frame_mask
from ascmamba_modules.utils.checkpoints import check_fit

# Published as files of a release: width, file, and SHA-256 where it is known.
PUBLISHED = {
    "mn04": (
        0.4,
        "mn04_as_mAP_432.pt",
        "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
    ),
    "mn05": (0.5, "mn05_as_mAP_443.pt", None),
    "mn10": (1.0, "mn10_as_mAP_471.pt", None),
    "mn20": (2.0, "mn20_as_mAP_478.pt", None),
    "mn30": (3.0, "mn30_as_mAP_482.pt", None),
    "mn40": (4.0, "mn40_as_mAP_484.pt", None),
}
_RELEASE = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
# MobileNetV3-Large: kernel, expanded channels, channels, SE, hardswish, stride.
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class KaldiLogMel(nn.Module):
    """Log-mel features with Kaldi's filters, as the MobileNets were trained on.

    Pre-emphasis, power spectrogram over centred windows, natural logarithm.
    A clip has the same features alone and in a padded batch.

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
        Edges of the mel filter bank in Hz.

    Example
    -------
    >>> features = KaldiLogMel()
    >>> features(torch.randn(2, 320000)).shape
    torch.Size([2, 1000, 128])
    """

    def __init__(
        self,
        sample_rate=32000,
        n_fft=1024,
        win_length=25.0,
        hop_length=10.0,
        n_mels=128,
        f_min=0.0,
        f_max=15000.0,
    ):
        super().__init__()
        self.settings = {
            "sample_rate": sample_rate,
            "n_fft": n_fft,
            "win_length": win_length,
            "hop_length": hop_length,
            "n_mels": n_mels,
            "f_min": f_min,
            "f_max": f_max,
        }
        self.sample_rate = sample_rate
        self.hop_samples = round(sample_rate * hop_length / 1000)
        self.n_mels = n_mels
        self.n_fft = n_fft
        window = torch.hann_window(
            round(sample_rate * win_length / 1000), periodic=False
        )
        # Kaldi's warping of the vocal tract, which a factor of 1 switches off.
        bank, _ = get_mel_banks(
            *(n_mels, n_fft, float(sample_rate), f_min, f_max),
            *(100.0, -500.0, 1.0),
        )
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", F.pad(bank, (0, 1)), persistent=False)

    def forward(self, wavs, lengths=None):
        """Computes the features of a padded batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (batch, samples).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            Logarithms (batch, frames, n_mels), zero after the end of a clip.

        Raises
        ------
        ValueError
            For a clip that is too short for one window.
        """
        if lengths is None or (lengths == 1).all():
            return self._log_mel(wavs)
        samples = frame_counts(lengths, wavs.shape[1]).tolist()
        # One by one: the end of each is mirrored.
        clips = [
            self._log_mel(wav[None, :count])[0]
            for wav, count in zip(wavs, samples)
        ]
        n_frames = self._n_frames(wavs.shape[1])
        return torch.stack(
            [F.pad(clip, (0, 0, 0, n_frames - len(clip))) for clip in clips]
        )

    def frame_lengths(self, wavs, lengths):
        """Relative lengths of the clips in frames (batch), None for None; see
        :meth:`ascmamba_modules.features.LogMel.frame_lengths`."""
        if lengths is None:
            return None
        frames = self._n_frames(frame_counts(lengths, wavs.shape[1]))
        return frames / self._n_frames(wavs.shape[1])

    def _n_frames(self, n_samples):
        # Pre-emphasis takes the first sample.
        return (n_samples - 1) // self.hop_samples + 1

    def _log_mel(self, wavs):
        """(B, samples) to (B, frames, n_mels)."""
        if wavs.shape[1] < self.n_fft // 2 + 2:
            raise ValueError(
                f"A clip of {wavs.shape[1]} samples is too short: the window "
                f"of the features needs {self.n_fft // 2 + 2} at "
                f"{self.sample_rate} Hz. Leave it out, or set clip_length, "
                "which fills clips up."
            )
        with torch.autocast(wavs.device.type, enabled=False):
            wavs = wavs.float()
            spectrum = torch.stft(
                wavs[:, 1:] - 0.97 * wavs[:, :-1],
                *(self.n_fft, self.hop_samples, len(self.window), self.window),
                center=True,
                return_complex=True,
            )  # (B, n_fft / 2 + 1, T)
            power = spectrum.real.square() + spectrum.imag.square()
            return (self.bank @ power + 1e-5).log().transpose(1, 2)


class MobileNet(nn.Module):
    """MobileNetV3 over (time, frequency), its mean over both as embedding.

    Blind to padding: a clip has the same embedding alone and in a batch (in
    training but for the batch norms, whose statistics count padded frames).
    Names and shapes of the weights are those of the published files.

    Arguments
    ---------
    width : float
        Factor of all channels; 0.4 is the published "mn04", 4 is "mn40".
    n_mels : int
        Mel bands of the features.
    n_tags : int or None
        Outputs of the tagger that :meth:`tag` applies, None for no tagger.
    frozen : bool
        Whether weights and statistics stay as they are in training.

    Example
    -------
    >>> encoder = MobileNet(width=0.1)
    >>> encoder(torch.randn(2, 100, 128), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 96])
    """

    def __init__(self, width=0.4, n_mels=128, n_tags=None, frozen=False):
        super().__init__()
        self.n_mels = n_mels
        self.frozen = frozen
        channels = _channels(16 * width)
        layers = [_ConvNormAct(1, channels, 3, stride=2, act=nn.Hardswish())]
        for kernel, expanded, out, squeezes, hardswish, stride in _BLOCKS:
            sizes = (
                channels,
                _channels(expanded * width),
                _channels(out * width),
            )
            act = nn.Hardswish() if hardswish else nn.ReLU()
            layers.append(_Block(*sizes, kernel, stride, squeezes, act))
            channels = sizes[2]
        self.embedding_size = 6 * channels
        layers.append(
            _ConvNormAct(channels, 6 * channels, 1, act=nn.Hardswish())
        )
        self.features = nn.ModuleList(layers)
        self.classifier = None
        if n_tags is not None:
            hidden = _channels(1280 * width)
            self.classifier = nn.ModuleDict(
                {  # the numbers that the published weights go by
                    "2": nn.Linear(self.embedding_size, hidden),
                    "5": nn.Linear(hidden, n_tags),
                }
            )
        if frozen:
            self.requires_grad_(False)

    def forward(self, features, lengths=None):
        """Encodes a batch of clips.

        Arguments
        ---------
        features : torch.Tensor
            Normalised features (batch, time, n_mels).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            (batch, embedding_size).
        """
        check_features(features, self.n_mels)
        mask = frame_mask(lengths, features.shape[1])  # (B, T) or None
        x = features.transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)
        if mask is not None:
            mask = mask[:, None, None].to(x.dtype)  # (B, 1, 1, T)
        for layer in self.features:
            x, mask = layer(x, mask)
        return _mean(x, mask)

    def tag(self, embedding):
        """Logits of the tags (batch, n_tags) from what the encoder gives."""
        x = F.hardswish(self.classifier["2"](embedding))
        return self.classifier["5"](F.dropout(x, 0.2, self.training))

    def train(self, mode=True):
        """Switches to training, unless the encoder is frozen."""
        return super().train(mode and not self.frozen)


def audioset_tags():
    """Names of the tags, in the order of the tagger's outputs.

    Source: AudioSet's ``class_labels_indices.csv`` (CC BY 4.0).

    Returns
    -------
    list
        527 names.

    Example
    -------
    >>> audioset_tags()[:2]
    ['Speech', 'Male speech, man speaking']
    """
    path = Path(__file__).with_name("audioset_tags.txt")
    return path.read_text("utf-8").splitlines()


def load_published(encoder, weights, checksum=None):
    """Loads EfficientAT's weights into a MobileNet.

    Arguments
    ---------
    encoder : MobileNet
        Takes the weights; those of the tagger only if it has one.
    weights : str or None
        A name of :data:`PUBLISHED`, whose file is fetched once from the
        authors' release, or the path of such a file; None loads nothing.
    checksum : str, optional
        SHA-256 of the file.

    Raises
    ------
    OSError
        If the file cannot be fetched or found.
    ValueError
        If the file is not what it should be, or no checksum is known.

    Example
    -------
    >>> load_published(MobileNet(width=0.1), None)
    """
    if weights is None:
        return
    path = fetch(weights, checksum)
    state = read_state(path)
    own = encoder.state_dict()
    if encoder.classifier is None:
        state = {k: v for k, v in state.items() if k.startswith("features.")}
    try:
        check_fit(state, own, path)
    except ValueError as error:
        raise ValueError(
            f"{error} Width 0.4 is mn04, 1.0 is mn10 and so on."
        ) from None
    encoder.load_state_dict(state)


def read_state(path):
    """Reads a file of PyTorch weights, which runs no code of the file.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    dict
        What it holds.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Whatever a file can make of the unpickler.
    except Exception as error:
        raise ValueError(
            f"{path} is no file of PyTorch weights ({type(error).__name__}): "
            "download it again."
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no weights by name.")
    return state


def check_file(path, checksum=None):
    """Raises an error unless a file is there, and has a given SHA-256."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if checksum is not None and pooch.file_hash(str(path)) != checksum:
        raise ValueError(f"{path} has another SHA-256 than {checksum}.")


def fetch(weights, checksum=None):
    """Path of a file of weights, fetched if need be; see
    :func:`load_published`."""
    if weights not in PUBLISHED:
        try:
            check_file(weights, checksum)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} Published weights go by {', '.join(PUBLISHED)}."
            ) from None
        return weights
    _, name, known = PUBLISHED[weights]
    checksum = checksum or known
    if checksum is None:
        raise ValueError(
            f"No checksum of {weights} is known here: give its SHA-256 "
            f"(encoder_checksum), or fetch {_RELEASE}{name} and give its path."
        )
    try:
        return pooch.retrieve(
            _RELEASE + name,
            f"sha256:{checksum}",
            name,
            pooch.os_cache("ascmamba"),
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"{_RELEASE}{name} could not be fetched ({error}): fetch it by "
            "hand and give its path."
        ) from None


def _channels(number):
    """The multiple of 8 next to a number, at least 0.9 of it."""
    rounded = max(8, int(number + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * number else rounded + 8


def _mean(x, mask):
    """Mean of (B, C, F, T) over frequency and valid frames."""
    if mask is None:
        return x.mean((2, 3))
    return (x * mask).sum((2, 3)) / (mask.sum((2, 3)) * x.shape[2])


class _ConvNormAct(nn.Sequential):
    """Convolution, batch norm, activation; keeps padding out."""

    def __init__(
        self, in_channels, channels, kernel, stride=1, groups=1, act=None
    ):
        super().__init__(
            nn.Conv2d(
                *(in_channels, channels, kernel, stride, kernel // 2),
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(channels, eps=0.001, momentum=0.01),
            *([act] if act else []),
        )
        self.stride = stride

    def forward(self, x, mask=None):
        """Maps (B, C, F, T), and the mask (B, 1, 1, T) by the stride."""
        if mask is None:
            return super().forward(x), None
        return super().forward(x * mask), mask[..., :: self.stride]


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        hidden = _channels(channels // 4)
        # The published weights' names know of gates for other axes.
        self.conc_se_layers = nn.ModuleList(
            [
                nn.ModuleDict(
                    {
                        "fc1": nn.Linear(channels, hidden),
                        "fc2": nn.Linear(hidden, channels),
                    }
                )
            ]
        )

    def forward(self, x, mask=None):
        layers = self.conc_se_layers[0]
        gate = layers["fc2"](F.relu(layers["fc1"](_mean(x, mask))))
        return x * gate.sigmoid()[:, :, None, None], mask


class _Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, gate, projection."""

    def __init__(self, before, expanded, after, kernel, stride, squeezes, act):
        super().__init__()
        layers = []
        if expanded != before:
            layers.append(_ConvNormAct(before, expanded, 1, act=act))
        layers.append(
            _ConvNormAct(
                *(expanded, expanded, kernel, stride),
                groups=expanded,
                act=act,
            )
        )
        if squeezes:
            layers.append(_SqueezeExcitation(expanded))
        layers.append(_ConvNormAct(expanded, after, 1))
        self.block = nn.ModuleList(layers)
        self.is_residual = stride == 1 and before == after

    def forward(self, x, mask=None):
        y, y_mask = x, mask
        for layer in self.block:
            y, y_mask = layer(y, y_mask)
        return (x + y if self.is_residual else y), y_mask
