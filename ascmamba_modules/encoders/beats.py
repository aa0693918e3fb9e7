"""BEATs, a Transformer that was trained on AudioSet, as audio encoder.

Source: S. Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers",
2022.  The Transformer is SpeechBrain's (``speechbrain.lobes.models.beats``).
"""

import torch
from speechbrain.lobes.models.beats import BEATsConfig, TransformerEncoder
from torch import nn
from torchaudio.compliance.kaldi import fbank

from ascmamba_modules.encoders.mobilenet import check_file, read_state
from ascmamba_modules.padding import frame_counts, valid_frames
from ascmamba_modules.utils.checkpoints import check_fit

# What the published weights (BEATs_iter1 to BEATs_iter3+) were made with.
PUBLISHED = {
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "max_distance": 800,
}
# Settings that change the answers though not always the shapes of weights.
_SHAPING = {
    *PUBLISHED,
    *("embed_dim", "encoder_layers", "encoder_embed_dim", "num_buckets"),
    *("encoder_attention_heads", "layer_norm_first", "activation_fn"),
}
_PATCH = 16  # frames, and mel bands
_WINDOW, _HOP = 400, 160  # samples: 25 and 10 ms


class KaldiFbank(nn.Module):
    """Kaldi's log-mel features of 16-bit samples, as BEATs was trained on.

    Example
    -------
    >>> KaldiFbank()(torch.randn(2, 16000)).shape
    torch.Size([2, 98, 128])
    """

    sample_rate = 16000
    hop_samples = _HOP
    n_mels = 128
    settings = {"sample_rate": 16000, "n_mels": 128}

    def forward(self, wavs, lengths=None):
        """Computes the features of a padded batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (batch, samples) at 16 kHz.
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch); not used, as no frame
            reaches over the end of a clip.

        Returns
        -------
        torch.Tensor
            Logarithms (batch, frames, 128).

        Raises
        ------
        ValueError
            For clips that are too short for one patch of BEATs.
        """
        shortest = _WINDOW + (_PATCH - 1) * _HOP
        if wavs.shape[1] < shortest:
            raise ValueError(
                f"A clip of {wavs.shape[1]} samples is too short: BEATs needs "
                f"{shortest} at {self.sample_rate} Hz. Leave it out, or set "
                "clip_length, which fills clips up."
            )
        with torch.autocast(wavs.device.type, enabled=False):
            return torch.stack(
                [
                    fbank(
                        wav[None].float() * 2**15,
                        num_mel_bins=self.n_mels,
                        sample_frequency=self.sample_rate,
                    )
                    for wav in wavs
                ]
            )

    def frame_lengths(self, wavs, lengths):
        """Relative lengths of the clips in frames (batch), None for None."""
        if lengths is None:
            return None
        samples = frame_counts(lengths, wavs.shape[1])
        frames = ((samples - _WINDOW) // _HOP + 1).clamp(min=1)
        return frames / ((wavs.shape[1] - _WINDOW) // _HOP + 1)


class BEATsEncoder(nn.Module):
    """BEATs over patches of features, the mean of its tokens as embedding.

    Names and shapes of the weights are those of
    ``speechbrain.lobes.models.beats.BEATs``.  A clip has the same embedding
    alone and in a padded batch.

    Arguments
    ---------
    frozen : bool
        Whether the weights stay as they are in training.
    **config
        Settings of SpeechBrain's ``BEATsConfig`` that differ from those of
        the published weights.

    Example
    -------
    >>> encoder = BEATsEncoder(encoder_layers=1, encoder_embed_dim=48)
    >>> encoder(torch.randn(2, 98, 128), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 48])
    """

    def __init__(self, frozen=True, **config):
        super().__init__()
        self.config = BEATsConfig({**PUBLISHED, **config})
        self.frozen = frozen
        size, self.embedding_size = (
            self.config.embed_dim,
            self.config.encoder_embed_dim,
        )
        self.patch_embedding = nn.Conv2d(1, size, _PATCH, _PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(size)
        self.post_extract_proj = nn.Linear(size, self.embedding_size)
        self.encoder = TransformerEncoder(self.config)
        self.train()
        if frozen:
            self.requires_grad_(False)

    def forward(self, features, lengths=None):
        """Encodes a batch of clips.

        Arguments
        ---------
        features : torch.Tensor
            Normalised features (batch, time, 128).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            (batch, embedding_size).
        """
        if features.dim() != 3 or features.shape[1] < _PATCH:
            raise ValueError(
                f"BEATs takes features (batch, time, 128) of at least {_PATCH} "
                f"frames, got {tuple(features.shape)}."
            )
        x = self.patch_embedding(features.unsqueeze(1))  # (B, C, T', F')
        n_times, n_bands = x.shape[2:]
        x = self.layer_norm(x.flatten(2).transpose(1, 2))  # (B, T' F', C)
        padding = None
        valid = x.new_ones(x.shape[:2], dtype=torch.bool)
        if lengths is not None:
            counts = frame_counts(lengths, features.shape[1]) // _PATCH
            valid = valid_frames(counts / n_times, n_times)
            valid = valid.repeat_interleave(n_bands, dim=1)
            padding = None if valid.all() else ~valid
        x, _ = self.encoder(self.post_extract_proj(x), padding)
        valid = valid.unsqueeze(2)
        return x.masked_fill(~valid, 0.0).sum(1) / valid.sum(1)

    def train(self, mode=True):
        """Switches to training, unless the encoder is frozen."""
        return super().train(mode and not self.frozen)


def load_published(encoder, weights, checksum=None):
    """Loads published weights of BEATs.

    Arguments
    ---------
    encoder : BEATsEncoder
        Takes the weights; those of a tagger are left out.
    weights : str or None
        Path of a file such as ``BEATs_iter3_plus_AS2M.pt``, which its authors
        publish at https://github.com/microsoft/unilm/tree/master/beats; None
        loads nothing.
    checksum : str, optional
        SHA-256 of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not what it should be.

    Example
    -------
    >>> load_published(BEATsEncoder(encoder_layers=1), None)
    """
    if weights is None:
        return
    check_file(weights, checksum)
    checkpoint = read_state(weights)
    if not checkpoint.keys() >= {"cfg", "model"}:
        raise ValueError(
            f"{weights} holds no cfg and model: it is not of BEATs."
        )
    own = vars(encoder.config)
    differing = [
        name
        for name, value in checkpoint["cfg"].items()
        if name in _SHAPING and own[name] != value
    ]
    if differing:
        raise ValueError(
            f"{weights} was made with another {', '.join(differing)}: give "
            "the encoder its settings."
        )
    state = {
        name: values
        for name, values in checkpoint["model"].items()
        if not name.startswith("predictor.")
    }
    check_fit(state, encoder.state_dict(), weights)
    encoder.load_state_dict(state)
