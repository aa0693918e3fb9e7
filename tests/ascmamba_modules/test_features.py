"""LogMel equals librosa, clip by clip, whatever else is in the batch."""

import librosa
import pytest
import soundfile
import torch
from hypothesis import (
    given,
    strategies as st,
)

from ascmamba_modules.features import LogMel
from ascmamba_modules.padding import frame_counts

HOP = 882
N_RECORDINGS = 40

# librosa warns that a clip is shorter than the transform.
pytestmark = pytest.mark.filterwarnings("ignore:n_fft=")


def with_librosa(wav, frames=None, top_db=80.0, **settings):
    """The reference (frames, n_mels), to which the docstring points."""
    settings = {
        "sr": 44100,
        "n_fft": 2048,
        "win_length": 1764,
        "hop_length": HOP,
        "n_mels": 64,
        **settings,
    }
    power = librosa.feature.melspectrogram(
        y=wav.numpy(), pad_mode="constant", **settings
    )
    db = librosa.power_to_db(power, ref=1.0, top_db=top_db)
    frames = frames or max(1, len(wav) // settings["hop_length"])
    return torch.from_numpy(db.T[:frames])


def assert_within_a_hundredth_db(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.01)


@pytest.fixture(scope="module")
def recordings(shared_data):
    paths = sorted((shared_data / "esc10" / "audio").glob("*.ogg"))
    paths = paths[:: max(1, len(paths) // N_RECORDINGS)][:N_RECORDINGS]
    assert len(paths) == N_RECORDINGS
    wavs = {}
    for path in paths:
        wav, rate = soundfile.read(path, dtype="float32")
        assert rate == 44100
        wavs[path.name] = torch.from_numpy(wav)
    return wavs


def test_equals_librosa_on_recordings(recordings):
    features = LogMel()
    for wav in recordings.values():
        assert_within_a_hundredth_db(
            features(wav.unsqueeze(0))[0], with_librosa(wav)
        )


def test_batch_of_recordings_equals_librosa_clip_by_clip(recordings):
    features = LogMel()
    names = list(recordings)[:8]
    counts = [HOP * 40 + 37 * index**3 for index in range(8)]
    wavs = torch.zeros(8, max(counts))
    for wav, name, count in zip(wavs, names, counts):
        wav[:count] = recordings[name][:count]
    lengths = torch.tensor(counts) / max(counts)
    db = features(wavs, lengths)
    for row, count in enumerate(counts):
        expected = with_librosa(wavs[row, :count])
        assert_within_a_hundredth_db(db[row, : len(expected)], expected)


def noise_silence_click(n_samples, click):
    """A third of faint noise, silence, and one full-scale sample."""
    wav = torch.zeros(n_samples)
    wav[: n_samples // 3] = 0.01 * torch.randn(n_samples // 3)
    wav[click] = 1.0
    return wav


@pytest.mark.parametrize("n_samples", [HOP * 30, HOP * 30 + 500, HOP * 31 - 1])
@pytest.mark.parametrize("click", [0, 7000, 20_000, -1])
def test_equals_librosa_on_noise_silence_and_a_click(click, n_samples):
    wav = noise_silence_click(n_samples, click)
    expected = with_librosa(wav)
    assert (expected == expected.min()).any()  # where top_db cuts
    assert_within_a_hundredth_db(LogMel()(wav.unsqueeze(0))[0], expected)


@pytest.mark.parametrize("click", [0, 7000, -300, -1])
def test_maximum_of_a_clip_is_taken_up_to_its_end(click):
    # Frames behind the end still see the last samples, and so the click.
    counts = [HOP * 30 + 500, HOP * 30, HOP * 40]
    wavs = torch.zeros(3, max(counts))
    for wav, count in zip(wavs, counts):
        wav[:count] = noise_silence_click(count, click)
    wavs[2] *= 100
    db = LogMel()(wavs, torch.tensor(counts) / max(counts))
    for row, count in enumerate(counts):
        expected = with_librosa(wavs[row, :count])
        assert_within_a_hundredth_db(db[row, : len(expected)], expected)


@pytest.mark.parametrize(
    "options, settings",
    [
        (
            {"sample_rate": 48000},
            {"sr": 48000, "win_length": 1920, "hop_length": 960},
        ),
        (
            {"sample_rate": 16000, "n_fft": 1024, "n_mels": 40},
            {
                "sr": 16000,
                "n_fft": 1024,
                "win_length": 640,
                "hop_length": 320,
                "n_mels": 40,
            },
        ),
        (
            {"win_length": 46.44, "hop_length": 10.0},
            {"win_length": 2048, "hop_length": 441},
        ),
        ({"f_min": 50.0, "f_max": 14000.0}, {"fmin": 50.0, "fmax": 14000.0}),
        ({"top_db": None}, {"top_db": None}),
        ({"top_db": 30.0}, {"top_db": 30.0}),
    ],
    ids=lambda value: str(value) if "sr" not in value else "",
)
def test_settings_mean_what_they_mean_in_librosa(options, settings):
    wav = noise_silence_click(30_000, 9000)
    assert_within_a_hundredth_db(
        LogMel(**options)(wav.unsqueeze(0))[0], with_librosa(wav, **settings)
    )


def test_ten_seconds_are_500_by_64_values():
    assert LogMel()(torch.randn(1, 441_000)).shape == (1, 500, 64)


@pytest.mark.parametrize("n_samples", [1, 100, HOP - 1, HOP, 1763, 2047])
def test_clips_shorter_than_hop_window_or_transform(n_samples):
    wav = torch.randn(n_samples)
    db = LogMel()(wav.unsqueeze(0))[0]
    assert db.shape == (max(1, n_samples // HOP), 64)
    assert_within_a_hundredth_db(db, with_librosa(wav))


def test_silence_is_the_floor_of_librosa():
    wav = torch.zeros(20 * HOP)
    db = LogMel()(wav.unsqueeze(0))[0]
    assert_within_a_hundredth_db(db, with_librosa(wav))
    assert_within_a_hundredth_db(db, torch.full((20, 64), -100.0))


def test_silent_clip_stays_silent_beside_a_loud_one():
    wavs = torch.stack([torch.zeros(20 * HOP), torch.randn(20 * HOP)])
    db = LogMel()(wavs, torch.ones(2))
    assert_within_a_hundredth_db(db[0], torch.full((20, 64), -100.0))


def test_autocast_does_not_change_the_features():
    wavs = torch.stack([noise_silence_click(30_000, 9000)] * 2)
    lengths = torch.tensor([1.0, 0.7])
    features = LogMel()
    expected = features(wavs, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        db = features(wavs, lengths)
    assert db.dtype == torch.float32
    assert torch.equal(db, expected)


@given(st.lists(st.integers(1, 60 * 44100), min_size=1, max_size=5).map(sorted))
def test_frame_lengths_count_the_hops_of_each_clip(counts):
    features, longest = LogMel(), counts[-1]
    lengths = features.frame_lengths(
        torch.zeros(1, 1).expand(len(counts), longest),
        torch.tensor([count / longest for count in counts]),
    )
    frames = max(1, longest // HOP)
    assert frame_counts(lengths, frames).tolist() == [
        max(1, count // HOP) for count in counts
    ]


def test_without_lengths_there_are_no_frame_lengths():
    assert LogMel().frame_lengths(torch.zeros(1, 5000), None) is None


@pytest.mark.parametrize("edges", [(0, 30000), (-1, None), (5000, 4000)])
def test_edges_of_the_filter_bank_must_fit_the_rate(edges):
    with pytest.raises(ValueError, match="half the sample rate"):
        LogMel(f_min=edges[0], f_max=edges[1])


def test_offset_is_removed():
    wavs = 0.1 * torch.randn(2, 5 * HOP)
    wavs -= wavs.mean(1, keepdim=True)
    features = LogMel(remove_offset=True)
    assert_within_a_hundredth_db(features(wavs), LogMel()(wavs))
    assert_within_a_hundredth_db(features(wavs + 0.3), features(wavs))
    assert (LogMel()(wavs + 0.3) - features(wavs)).abs().max() > 10
    lengths = torch.tensor([1, 0.6])
    wavs[1, 3 * HOP :] = 0
    part = wavs[1:, : 3 * HOP]
    padded = wavs + 0.3 * (wavs != 0)
    assert_within_a_hundredth_db(
        features(padded, lengths)[1, :3], features(part)[0]
    )


def test_centred_bands_know_neither_level_nor_microphone():
    wavs = 0.1 * torch.randn(2, 50 * HOP)
    features = LogMel(frequency_centering=True, top_db=None)
    db = features(wavs)
    expected = LogMel(top_db=None)(wavs)
    expected -= expected.mean(1, keepdim=True)
    torch.testing.assert_close(db, expected)
    assert_within_a_hundredth_db(features(0.1 * wavs), db)
    lengths = torch.tensor([1, 0.6])
    padded = features(wavs, lengths)
    torch.testing.assert_close(
        padded[1, :30], features(wavs[1:, : 30 * HOP])[0]
    )
    assert not padded[1, 30:].any()
