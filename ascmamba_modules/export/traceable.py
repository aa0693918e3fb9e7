"""A trained classifier as one module that ``torch.export`` can trace.

The engines of the selective scan cannot be traced: one is compiled code, the
others loop in Python over a length that a traced graph would fix.  Here the
scan is ``torch``'s own operator of that name, which becomes ONNX's ``Scan``:
a graph of a few nodes, for any number and length of clips.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch._higher_order_ops.scan import scan

from ascmamba_modules.mamba import BidirectionalMamba, Mamba


class TraceableMamba(nn.Module):
    """A Mamba block without padding, its scan one operator of the graph.

    Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with
    Selective State Spaces", 2023, equations 2 and 4.

    Arguments
    ---------
    mamba : ascmamba_modules.mamba.Mamba
        The block; its parameters are shared.

    Example
    -------
    >>> from ascmamba_modules.mamba import Mamba
    >>> mamba, x = Mamba(d_model=16), torch.rand(2, 50, 16)
    >>> torch.testing.assert_close(TraceableMamba(mamba)(x), mamba(x))
    """

    def __init__(self, mamba):
        super().__init__()
        self.mamba = mamba

    def forward(self, x, mask=None, reverse=False):
        """Maps (batch, length, d_model); there is no padding to mask."""
        assert mask is None, "an exported model takes clips of one length"
        mamba = self.mamba
        if reverse:
            x = x.flip(1)
        u, z = mamba.in_proj(x).chunk(2, dim=-1)  # each (B, L, E)
        u = mamba.conv1d(u.transpose(1, 2))[..., : x.shape[1]]  # (B, E, L)
        u = F.silu(u.transpose(1, 2))  # (B, L, E)
        sizes = [mamba.dt_rank, mamba.d_state, mamba.d_state]
        step, B, C = mamba.x_proj(u).split(sizes, dim=-1)
        delta = F.softplus(mamba.dt_proj(step))  # (B, L, E)
        y = _scan(delta, delta * u, -torch.exp(mamba.A_log), B, C)
        y = mamba.out_proj((y + mamba.D * u) * F.silu(z))  # (B, L, D)
        return y.flip(1) if reverse else y


class TraceablePair(nn.Module):
    """A pair of Mamba blocks that read each way, without padding.

    Arguments
    ---------
    pair : ascmamba_modules.mamba.BidirectionalMamba
        The blocks; their parameters are shared.

    Example
    -------
    >>> pair, x = BidirectionalMamba(d_model=16), torch.rand(2, 50, 16)
    >>> torch.testing.assert_close(TraceablePair(pair)(x), pair(x))
    """

    def __init__(self, pair):
        super().__init__()
        self.forward_mamba = TraceableMamba(pair.forward_mamba)
        self.backward_mamba = TraceableMamba(pair.backward_mamba)

    def forward(self, x, mask=None):
        """Maps (batch, length, d_model); there is no padding to mask."""
        return self.forward_mamba(x, mask) + self.backward_mamba(
            x, mask, reverse=True
        )


def _scan(delta, driven, A, B, C):
    """y[t] = C[t] h[t], h[t] = exp(delta[t] A) h[t-1] + B[t] driven[t]."""
    A = A.t().contiguous()  # (N, E), channels innermost

    def step(state, inputs):  # state (B, N, E)
        delta, driven, B, C = inputs  # (B, E), (B, E), (B, N), (B, N)
        state = torch.exp(delta.unsqueeze(1) * A) * state
        state = state + driven.unsqueeze(1) * B.unsqueeze(2)
        return state, torch.matmul(C.unsqueeze(1), state).squeeze(1)

    state = delta.new_zeros(len(delta), *A.shape)
    steps_first = [x.transpose(0, 1) for x in (delta, driven, B, C)]
    _, y = scan(step, state, steps_first)
    return y.transpose(0, 1)  # (B, L, E)


class TraceableLogMel(nn.Module):
    """``LogMel`` for clips of one length, no shorter than one hop.

    Arguments
    ---------
    features : ascmamba_modules.features.LogMel
        The features.

    Example
    -------
    >>> from ascmamba_modules.features import LogMel
    >>> features, wavs = LogMel(), 0.1 * torch.randn(2, 44100)
    >>> torch.testing.assert_close(
    ...     TraceableLogMel(features)(wavs), features(wavs)
    ... )
    """

    def __init__(self, features):
        super().__init__()
        transform = features.mel_spectrogram
        self.n_fft = transform.n_fft
        self.win_length = transform.win_length
        self.hop_samples = features.hop_samples
        self.top_db = features.top_db
        self.remove_offset = features.remove_offset
        self.frequency_centering = features.frequency_centering
        self.register_buffer("window", transform.spectrogram.window)
        self.register_buffer("bands", transform.mel_scale.fb)  # (bins, M)

    def forward(self, wavs):
        """Maps waveforms (batch, samples) to dB (batch, frames, n_mels)."""
        if self.remove_offset:
            wavs = wavs - wavs.mean(1, keepdim=True)
        spectrum = torch.stft(
            wavs,
            self.n_fft,
            self.hop_samples,
            self.win_length,
            self.window,
            pad_mode="constant",
            return_complex=True,
        )
        power = (
            torch.view_as_real(spectrum).square().sum(-1)
        )  # (B, bins, T + 1)
        db = (
            10
            * torch.matmul(power.transpose(1, 2), self.bands)
            .clamp(min=1e-10)
            .log10()
        )
        if self.top_db is not None:
            db = torch.maximum(db, db.amax((1, 2), keepdim=True) - self.top_db)
        db = db[:, :-1]  # without the frame centred on the end
        if self.frequency_centering:
            db = db - db.mean(1, keepdim=True)
        return db


class TraceableClassifier(nn.Module):
    """Waveforms or features, and a context vector if asked for, to posteriors.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The trained model; it is copied.
    takes : str
        "waveform" (batch, samples) or "features", the log-mel features
        (batch, frames, n_mels) in dB.
    takes_context : bool
        Whether the second input is a context vector (batch, context_size).
        If not, place and time are unknown.

    Raises
    ------
    ValueError
        If the model takes no context.
    """

    def __init__(self, classifier, takes="waveform", takes_context=False):
        super().__init__()
        modules = classifier.mods
        if takes_context and "context_encoder" not in modules:
            raise ValueError(
                "This model was trained without place and time: it takes no "
                "context vector."
            )
        self.features = None
        if takes == "waveform":
            self.features = TraceableLogMel(modules["features"])
        self.normalize = _Normalize(modules["normalize"])
        self.model = _with_traceable_mambas(copy.deepcopy(modules["model"]))
        self.takes_context = takes_context
        # Of an unknown place and time; None if the model uses neither.
        self.register_buffer("null_context", classifier.context())
        self.cpu().float().eval()

    def forward(self, signal, context=None):
        """Maps a batch to posteriors (batch, classes)."""
        x = signal if self.features is None else self.features(signal)
        if not self.takes_context and self.null_context is not None:
            context = self.null_context.expand(x.shape[0], -1)
        outputs = self.model(self.normalize(x), context)
        return self.model.log_posteriors(outputs).exp()


class _Normalize(nn.Module):
    """What SpeechBrain's ``InputNormalization`` does after training."""

    def __init__(self, normalize):
        super().__init__()
        if normalize.norm_type != "global":
            raise ValueError(
                "Only models whose features are normalised by fixed "
                f"statistics can be exported, not by '{normalize.norm_type}'."
            )
        std = normalize.glob_std
        if not normalize.std_norm:
            std = torch.ones_like(std)
        self.register_buffer("mean", normalize.glob_mean)
        self.register_buffer("std", std.clamp(min=normalize.epsilon))

    def forward(self, x):
        return (x - self.mean) / self.std


def _with_traceable_mambas(module):
    for name, child in module.named_children():
        if isinstance(child, BidirectionalMamba):
            setattr(module, name, TraceablePair(child))
        elif isinstance(child, Mamba):
            setattr(module, name, TraceableMamba(child))
        else:
            _with_traceable_mambas(child)
    return module
