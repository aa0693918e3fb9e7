"""Samples that mean nothing or mislead, in files as recorders leave them."""

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import audio_problem, load_audio
from ascmamba_modules.inference.streaming import stream_audio

RATE = 8000
NOISE = np.random.default_rng(0).normal(0, 0.1, (2 * RATE, 2))
LEFT, RIGHT = NOISE.T
SILENCE = 0 * LEFT
NORMALIZER = AudioNormalizer(RATE)


def write(path, *channels, subtype="PCM_16"):
    soundfile.write(path, np.stack(channels, 1), RATE, subtype)
    return path


PROBLEMS = {
    "integer scale": ((LEFT * 32768,), "samples reach .* full scale is 1"),
    "8 bits": ((LEFT * 1000,), "samples reach"),
    "antiphase": ((LEFT, -LEFT), "cancel each other out"),
    "antiphase with an offset": ((LEFT + 0.1, 0.1 - LEFT), "cancel"),
    "almost antiphase": ((LEFT, 0.05 * RIGHT - LEFT), "cancel"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_means_nothing_is_a_problem(tmp_path, name):
    channels, text = PROBLEMS[name]
    path = write(tmp_path / "a.wav", *channels, subtype="FLOAT")
    with pytest.raises(ValueError, match=text):
        load_audio(path, NORMALIZER)
    with pytest.raises(ValueError, match=text):
        list(stream_audio(path, NORMALIZER, 0.5))
    assert text.split()[0] in audio_problem(path)
    if len(channels) == 2:  # found in 16 bits, too
        assert "cancel" in audio_problem(write(tmp_path / "b.wav", *channels))


@pytest.mark.parametrize("offset, std", [(0.02, 1e-4), (0.5, 1e-3), (0.5, 0)])
def test_offset_does_not_hide_what_varies(tmp_path, offset, std):
    noise = np.random.default_rng(0).normal(offset, std, (2, 40 * RATE))
    for channels in (noise, noise[[0, 0]]):
        path = write(tmp_path / "a.wav", *channels, subtype="FLOAT")
        assert audio_problem(path) is None
        load_audio(path, NORMALIZER)


def test_what_rings_over_the_scale_in_another_rate_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    square = np.repeat(np.tile([99.0, -99.0], 400), 40)
    soundfile.write(path, square, 48000, subtype="FLOAT")
    assert audio_problem(path) is None
    with pytest.raises(ValueError, match="far over full scale"):
        load_audio(path, NORMALIZER)


WARNINGS = {
    "dead channel": ((LEFT, SILENCE), "channel 2 of 2 is silent"),
    "offset": ((LEFT + 0.3,), "constant offset of 0.3"),
    "negative offset": ((LEFT, RIGHT - 0.05), "constant offset of -0.05"),
    "clipping": ((np.clip(LEFT * 10, -1, 1),), "32% of the samples are clip"),
    "too loud": ((LEFT * 100,), "full scale is 1"),
    "nothing": ((LEFT, RIGHT), None),
    "quiet": ((LEFT * 1e-3,), None),
    "silence": ((SILENCE, SILENCE), None),
    "one peak": ((np.r_[LEFT, 1.0],), None),
    "many channels": ((*NOISE.reshape(32, -1),), None),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_misleads_is_a_warning_once_a_file(tmp_path, name, caplog):
    channels, text = WARNINGS[name]
    subtype = "FLOAT" if name == "too loud" else "PCM_24"
    path = write(tmp_path / "a.wav", *channels, subtype=subtype)
    assert audio_problem(path) is None
    for _ in range(2):
        load_audio(path, NORMALIZER)
        list(stream_audio(path, NORMALIZER, 0.5))
    if text is None:
        assert str(path) not in caplog.text
    else:
        assert caplog.text.count(f"{path}: ") == 1
        assert text in caplog.text
