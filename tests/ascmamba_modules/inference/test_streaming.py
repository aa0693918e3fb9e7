"""Block-wise reading and windows, against the whole recording."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import (
    given,
    strategies as st,
)
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.inference.streaming import cut_windows, stream_audio

NORMALIZER = AudioNormalizer(44100)


def joined(path, block_length):
    blocks = list(stream_audio(path, NORMALIZER, block_length))
    assert all(len(block) for block in blocks[:-1])
    return torch.cat(blocks), len(blocks)


# Ratios up and down, and 22254 Hz, of which 3709 samples make a period.
@pytest.mark.parametrize("rate", [8000, 22254, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("seconds", [2.0, 1.2345])
def test_blocks_are_the_whole_file(tmp_path, rate, seconds):
    path = tmp_path / "noise.wav"
    samples = np.random.default_rng(0).uniform(-1, 1, (int(seconds * rate), 2))
    soundfile.write(path, samples, rate, subtype="FLOAT")
    whole = load_audio(path, NORMALIZER)
    for block_length in (0.15, 0.5, 1.0, 10.0):
        streamed, n_blocks = joined(path, block_length)
        assert n_blocks > seconds / (block_length + 1)
        # Everywhere, at the borders of blocks too.
        torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n_samples", [1, 2, 799, 800, 801, 1600, 4000])
def test_files_that_end_anywhere_in_a_block(tmp_path, n_samples):
    path = tmp_path / "noise.wav"
    samples = np.random.default_rng(0).uniform(-1, 1, n_samples)
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    streamed, _ = joined(path, 0.1)  # 800 samples, twice the margin
    torch.testing.assert_close(streamed, load_audio(path, NORMALIZER))


def test_real_recordings(shared_data):
    files = sorted((shared_data / "ambience").glob("*.*[!d]"))
    files += sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[::40]
    for file in files:
        streamed, _ = joined(file, 1.0)
        whole = load_audio(file, NORMALIZER)
        torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=0)


@given(st.data())
def test_windows(data):
    window = data.draw(st.integers(1, 30))
    hop = data.draw(st.integers(1, window))
    sizes = data.draw(st.lists(st.integers(0, 50), max_size=6))
    recording = torch.arange(float(sum(sizes)))
    windows = list(cut_windows(recording.split(sizes), window, hop))
    # Each holds the samples that it says, and all together hold all.
    for start, samples in windows:
        assert samples.tolist() == recording[start:][: len(samples)].tolist()
    heard = {s for start, w in windows for s in range(start, start + len(w))}
    assert heard == set(range(len(recording)))
    starts = [start for start, _ in windows]
    if len(recording) <= window:
        assert [len(w) for _, w in windows] == [len(recording)] * len(windows)
        assert starts == [0][: len(recording)]
    else:
        assert {len(w) for _, w in windows} == {window}
        assert starts[:-1] == [hop * i for i in range(len(starts) - 1)]
        assert starts[-1] == len(recording) - window
        assert 0 < starts[-1] - starts[-2] <= hop


def test_memory_does_not_grow_with_the_recording():
    block = torch.zeros(700)
    windows = cut_windows((block for _ in range(1000)), 1000, 300)
    kept = set()
    for _ in windows:
        tensor = windows.gi_frame.f_locals["kept"]
        kept.add(tensor.untyped_storage().nbytes() // tensor.element_size())
    assert max(kept) <= 1000 + 2 * len(block)
