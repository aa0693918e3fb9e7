"""Mixtures, the teacher's answers to them, and a student that learns them."""

import numpy as np
import pytest
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset
from torchaudio.functional import resample

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.distillation import (
    Mixer,
    Student,
    Teacher,
    make_mixtures,
    mixture_dataset,
)
from ascmamba_modules.encoders.mobilenet import KaldiLogMel, MobileNet
from ascmamba_modules.features import FixedNormalization, LogMel

RATE = 8000


def small_teacher(randomise, rate=RATE):
    encoder = randomise(MobileNet(width=0.1, n_mels=16, n_tags=5))
    features = KaldiLogMel(sample_rate=16000, f_max=7000.0, n_mels=16)
    normalize = FixedNormalization(16, mean=-4.5, std=5.0)
    return Teacher(encoder, features, normalize, rate)


def sines(count):
    """Clips of half a second, each a tone of its own."""
    time = torch.arange(RATE // 2) / RATE
    hertz = torch.linspace(200, 3000, count)
    return (2 * torch.pi * hertz[:, None] * time).sin() / 10


def power(wavs, hertz):
    spectrum = torch.fft.rfft(wavs).abs().square()
    return spectrum[:, round(hertz * wavs.shape[1] / RATE)]


def test_teacher_hears_the_resampled_waveform(randomise):
    teacher, wavs = small_teacher(randomise), torch.randn(2, RATE)
    at_its_rate = small_teacher(randomise, 16000)
    at_its_rate.load_state_dict(teacher.state_dict(), strict=False)
    expected = at_its_rate(resample(wavs, RATE, 16000))
    for ours, theirs in zip(teacher(wavs), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not teacher.train().encoder.training


@pytest.mark.parametrize("snr", [3.0, 12.0])
def test_partner_lies_under_the_clip_by_the_ratio(snr):
    mixer = Mixer(
        *(RATE // 2, 1.0, (snr, snr)),
        equalizer=0.0,
        low_pass=0.0,
        sample_rate=RATE,
    )
    mixtures = mixer(sines(2))
    own, other = power(mixtures[:1], 200), power(mixtures[:1], 3000)
    assert 10 * (own / other).log10() == pytest.approx(snr, abs=0.1)


def test_mixtures_have_the_length_and_levels_asked_for():
    mixer = Mixer(samples=3000, level=(-30.0, -20.0), sample_rate=RATE)
    lengths = torch.tensor([1.0, 0.2, 0.6])  # one shorter than the mixtures
    wavs = torch.randn(3, RATE // 2)
    for wav, count in zip(wavs, (4000, 800, 2400)):
        wav[count:] = 1e4  # padding that must not be heard
    for _ in range(5):
        mixtures = mixer(wavs, lengths)
        level = 20 * mixtures.square().mean(1).sqrt().log10()
        assert mixtures.shape == (3, 3000)
        assert -30.5 < level.min() and level.max() < -19.5


def test_silent_clips_stay_finite():
    assert Mixer(1000)(torch.zeros(3, 2000)).isfinite().all()


def test_low_pass_takes_the_top_away():
    wavs = torch.randn(8, 44100)
    for low_pass, loss in ((0.0, 0.0), (1.0, -35.0)):
        mixer = Mixer(44100, equalizer=0.0, low_pass=low_pass)
        spectrum = torch.fft.rfft(mixer(wavs)).abs().square().mean(0)
        ratio = 10 * (spectrum[20000:].mean() / spectrum[:2000].mean()).log10()
        assert loss - 40 < ratio < loss + 1


@pytest.fixture
def made(tmp_path, randomise):
    """Mixtures of eight tones, half of them labelled, made by a teacher."""
    torch.manual_seed(1)
    rows = {
        f"{i}": {"sig": wav, "label": i % 2 - 1}
        for i, wav in enumerate(sines(8))
    }
    clips = DynamicItemDataset(rows, output_keys=["id", "sig", "label"])
    loader = make_dataloader(clips, batch_size=3, shuffle=True)
    parts = (
        Mixer(RATE // 2, sample_rate=RATE),
        LogMel(RATE, n_fft=512, n_mels=16),
        small_teacher(randomise),
    )

    def make(description):
        make_mixtures(loader, *parts, 4, tmp_path / "m", description)

    make({"seed": 1})
    return tmp_path / "m", make, parts


def test_mixtures_are_kept_with_the_answers(made):
    folder, make, _ = made
    dataset = mixture_dataset(folder)
    assert len(dataset) == 32
    item = dataset[5]
    shapes = [item[name].shape for name in ("feats", "tags", "embedding")]
    assert shapes == [(25, 16), (5,), (96,)]
    assert sorted(row["label"] for row in dataset) == [-1] * 16 + [0] * 16
    before = np.load(folder / "feats.npy")
    make({"seed": 1})  # used again
    assert np.array_equal(before, np.load(folder / "feats.npy"))
    with pytest.raises(ValueError, match="other clips.*--output_folder"):
        make({"seed": 2})


def test_student_and_teacher_hear_the_same(tmp_path, randomise):
    """Features as they are kept come with the answers to that waveform."""
    teacher = small_teacher(randomise)
    heard = []

    class Recorder(Mixer):
        def forward(self, *arguments):
            heard.append(super().forward(*arguments))
            return heard[-1]

    rows = {f"{i}": {"sig": wav} for i, wav in enumerate(sines(4))}
    clips = DynamicItemDataset(rows, output_keys=["id", "sig"])
    features = LogMel(RATE, n_fft=512, n_mels=16)
    mixer = Recorder(RATE // 2, sample_rate=RATE)
    loader = make_dataloader(clips, batch_size=4)
    make_mixtures(loader, mixer, features, teacher, 1, tmp_path, {})
    (wavs,) = heard
    for name, values in (
        ("feats", features(wavs)),
        ("embedding", teacher(wavs)[1]),
        ("tags", teacher(wavs)[0]),
    ):
        kept = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(kept, values, rtol=2e-3, atol=1e-2)


def test_student_answers_with_the_models_own_logits():
    model = ASCMamba(5, n_mels=16, channels=4, n_blocks=1, context_size=2)
    student = Student(model.eval(), teacher_size=7, n_labels=3)
    features = torch.randn(2, 40, 16)
    tags, embedding, labels = student(features)
    torch.testing.assert_close(tags, model(features))
    assert embedding.shape == (2, 7) and labels.shape == (2, 3)
    student.mean.fill_(1.0)
    student.std.fill_(2.0)
    assert student.standardize(torch.full((1, 7), 5.0)).eq(2).all()
