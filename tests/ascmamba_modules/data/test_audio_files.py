"""Faults of audio files, found from their headers, and reading them."""

import os
import resource
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import (
    audio_problem,
    inspect_audio,
    inspect_audio_files,
    load_audio,
)
from ascmamba_modules.utils.files import write_csv


def write_audio(path, seconds=0.2, rate=8000, channels=1, **options):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (int(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)


def test_samples_that_are_no_numbers_are_found(tmp_path):
    path = tmp_path / "clip.wav"
    samples = np.zeros(200000, "float32")
    samples[150000] = np.nan
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    assert "NaN" in audio_problem(path)


FORMATS = ("wav", "flac", "ogg")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rate, channels", [(8000, 1), (44100, 2), (96000, 4)])
def test_sound_files_have_no_problem(tmp_path, suffix, rate, channels):
    path = tmp_path / f"clip.{suffix}"
    write_audio(path, 1.0, rate, channels)
    assert audio_problem(path, 1.0) is None
    assert audio_problem(path) is None


def test_file_shorter_than_stated_is_truncated(tmp_path):
    path = tmp_path / "clip.wav"
    write_audio(path, 1.0)
    assert "1.00 s of the 10.00 s" in audio_problem(path, 10.0)
    assert audio_problem(path, 1.05) is None


def test_unusable_files(tmp_path):
    path = tmp_path / "clip.wav"
    assert audio_problem(tmp_path / "none.wav") == "file not found"
    assert audio_problem(tmp_path) == "not a file"
    path.write_bytes(b"")
    assert "empty" in audio_problem(path)
    path.write_text("this is no sound, however long the text may be" * 20)
    assert "not an audio file" in audio_problem(path)
    write_audio(path, 0.0)
    assert "no samples" in audio_problem(path)


def test_real_recordings_have_no_problem_until_they_are_cut(
    shared_data, tmp_path
):
    files = sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::20]
    assert len(files) == 20
    for file in files:
        assert audio_problem(file) is None
        cut = tmp_path / file.name
        shutil.copy(file, cut)
        cut.write_bytes(cut.read_bytes()[:-100])
        assert "truncated" in audio_problem(cut)


def test_header_is_read(tmp_path):
    write_audio(tmp_path / "clip.flac", 1.5, 48000, 2)
    found = inspect_audio(tmp_path / "clip.flac")
    assert found == (48000, 2, 1.5, "")


@pytest.fixture
def recordings(tmp_path):
    """Four files, two of them unusable; one name is not ASCII."""
    for name in ("a.wav", "höflich 北.wav"):
        write_audio(tmp_path / name, 0.5)
    (tmp_path / "empty.wav").write_bytes(b"")
    names = ["a.wav", "empty.wav", "höflich 北.wav", "gone.wav"]
    return [tmp_path / name for name in names]


def test_many_files_are_inspected_in_order(recordings, tmp_path):
    table = inspect_audio_files(recordings, tmp_path / "index.csv")
    assert table["path"].tolist() == [str(path) for path in recordings]
    assert table["duration"].tolist() == [0.5, 0.0, 0.5, 0.0]
    sound = table["problem"] == ""
    assert sound.tolist() == [True, False, True, False]
    assert table["problem"][3] == "file not found"


def test_only_what_has_changed_is_inspected_again(recordings, tmp_path):
    index = tmp_path / "index.csv"
    first = inspect_audio_files(recordings, index)
    pd.testing.assert_frame_equal(first, inspect_audio_files(recordings, index))

    # A mark in the index survives where the file is not read again.
    write_csv(first.assign(channels=99), index)
    write_audio(recordings[1], 0.5)  # repaired
    write_audio(recordings[3], 0.5)  # fetched
    os.utime(recordings[0], ns=(1, 1))  # same size, another time
    last = inspect_audio_files(recordings, index)
    assert last["channels"].tolist() == [1, 1, 99, 1]
    assert not last["problem"].any()


def test_spoilt_index_is_made_anew(recordings, tmp_path):
    index = tmp_path / "index.csv"
    first = inspect_audio_files(recordings, index)
    for content in ("", "path,size\nx", "no table at all\n\n1,2,3"):
        index.write_text(content)
        again = inspect_audio_files(recordings, index)
        pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (16000, 2)])
@pytest.mark.parametrize("seconds", [0.3, 0.7])
def test_fixed_length(tmp_path, rate, channels, seconds):
    path = tmp_path / "clip.wav"
    write_audio(path, 0.5, rate, channels)
    normalizer = AudioNormalizer(sample_rate=8000)
    whole = load_audio(path, normalizer)
    fixed = load_audio(path, normalizer, seconds)
    assert whole.shape == (4000,)
    assert fixed.shape == (round(seconds * 8000),)
    # The resampler's filter reaches over the place of the cut.
    kept = min(len(whole), len(fixed)) - (10 if rate != 8000 else 0)
    torch.testing.assert_close(fixed[:kept], whole[:kept])
    assert not fixed[4000:].any()


def test_odd_rates_take_little_memory(tmp_path):
    normalizer = AudioNormalizer(sample_rate=44100)
    for rate in (12345, 22050, 22254, 44107, 96153, 192001):
        times = np.arange(2 * rate) / rate
        samples = np.stack([np.sin(500 * times), np.sin(3000 * times)], 1)
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        waveform = load_audio(tmp_path / "a.wav", normalizer)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert after - before < 250_000  # kB
        times = np.arange(2 * 44100) / 44100
        expected = (np.sin(500 * times) + np.sin(3000 * times)) / 2
        inner = slice(2000, -2000)
        np.testing.assert_allclose(waveform[inner], expected[inner], atol=1e-2)
    assert set(normalizer._cached_resamplers) == {22050, 44100}


def test_many_channels_at_a_high_rate_are_read_in_blocks(tmp_path):
    """Three minutes of FLAC that unpack to 1.1 GB."""
    path = tmp_path / "a.flac"
    silence = np.zeros((192000, 8), "int16")
    silence[::2] = 100
    with soundfile.SoundFile(path, "w", 192000, 8, "PCM_16") as file:
        for _ in range(180):
            file.write(silence)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    waveform = load_audio(path, AudioNormalizer(sample_rate=8000))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 500_000  # kB
    assert waveform.shape == (180 * 8000,)
    mean = waveform[100:-100].mean().item()
    assert mean == pytest.approx(50 / 32768, rel=1e-3)
