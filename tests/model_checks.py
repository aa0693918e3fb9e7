"""What models and encoders keep to; most are called as ``run(features,
*others, lengths=lengths)``."""

import pytest
import torch

from ascmamba_modules.features import LogMel

CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def check_padding(
    run, counts, n_mels, garbage, *others, least=0.03, dtype=None, **close
):
    """A clip gives the same alone and in a batch that is padded.

    ``others`` have a row for each clip.
    """
    features = 3 * torch.randn(len(counts), max(counts), n_mels, dtype=dtype)
    for clip, count in zip(features, counts):
        clip[count:] = garbage * torch.randn_like(clip[count:])
    lengths = torch.tensor(counts) / max(counts)
    together = run(features, *others, lengths=lengths)
    alone = torch.cat(
        [
            run(features[[row], :count], *(x[[row]] for x in others))
            for row, count in enumerate(counts)
        ]
    )
    assert alone.std(0).median() > least  # else this shows nothing
    torch.testing.assert_close(together, alone, **(close or CLOSE))


def check_padding_of_waveforms(run):
    """As :func:`check_padding`, from waveforms on; of 9 mel bands."""
    # 20 samples a hop; lengths that are no multiples of it, or under one.
    features = LogMel(sample_rate=1000, n_fft=64, n_mels=9)
    counts = [811, 800, 799, 430, 95, 21, 13]
    wavs = torch.zeros(len(counts), max(counts))
    for wav, count in zip(wavs, counts):
        wav[:count] = torch.randn(count)
    lengths = torch.tensor(counts) / max(counts)
    together = run(
        features(wavs, lengths) / 10,
        lengths=features.frame_lengths(wavs, lengths),
    )
    alone = torch.cat(
        [
            run(features(wavs[[row], :count]) / 10)
            for row, count in enumerate(counts)
        ]
    )
    assert alone.std(0).min() > 0.03
    torch.testing.assert_close(together, alone, **CLOSE)


def check_bfloat16(run, n_mels=9):
    """Autocast stays close to full precision, with and without padding."""
    features = torch.randn(2, 40, n_mels)
    for lengths in (None, torch.tensor([1.0, 0.4])):
        expected = run(features, lengths=lengths)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = run(features, lengths=lengths)
        error = (embedding.float() - expected).norm() / expected.norm()
        assert error < 0.05


def check_shapes_refused(run, n_mels=9):
    """Features of a wrong shape are refused."""
    for shape in ((2, 20, n_mels - 1), (20, n_mels), (2, 1, 20, n_mels)):
        with pytest.raises(ValueError, match=f"batch, time, {n_mels}"):
            run(torch.randn(shape))


def check_gradients(module, *outputs, silent=(), least=0.0):
    """Every parameter gets one, but for those whose names end in ``silent``."""
    sum((torch.randn_like(x) * x).sum() for x in outputs).backward()
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        assert name.endswith(silent) or gradient.abs().max() > least, name


def check_classifier(model):
    """A model of 9 mel bands and contexts of 3: no context is the zero vector,
    log-posteriors are normalised logits, dropout acts in training alone."""
    features = torch.randn(2, 20, 9)
    logits = model(features)
    assert torch.equal(logits, model(features))
    torch.testing.assert_close(logits, model(features, torch.zeros(2, 3)))
    assert not torch.allclose(logits, model(features, torch.ones(2, 3)))
    posteriors = model.log_posteriors(logits).exp()
    torch.testing.assert_close(
        posteriors, logits.exp() / logits.exp().sum(1, keepdim=True)
    )
    model.train()
    assert not torch.equal(model(features), model(features))
