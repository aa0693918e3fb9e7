"""The synthetic clips."""

import numpy as np
import pytest
import soundfile
from make_demo_corpora import SCENES, main, make_demo_set

from ascmamba_modules.manifest import read_training_rows


def test_clips_and_manifest(tmp_path):
    main([str(tmp_path), "--clips", "6", "--seconds", "0.5"])
    path = tmp_path / "manifest.csv"
    rows = read_training_rows(path, list(SCENES))
    assert {k: len(v) for k, v in rows.items()} == {
        "train": 40,
        "valid": 10,
        "test": 10,
    }
    for wav in rows["train"]["wav"]:
        samples, rate = soundfile.read(wav)
        assert rate == 44100 and samples.shape == (22050,)
        level = 10 * np.log10(np.mean(samples**2))
        assert -31 < level < -17


def test_same_seed_same_clips(tmp_path):
    clips = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_demo_set(tmp_path / name, 6, 0.2, seed)
        clips.append(soundfile.read(tmp_path / name / "audio/bus_000.wav")[0])
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_too_few_clips_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="At least 6 clips a scene"):
        main([str(tmp_path / "new"), "--clips", "3"])
    assert not (tmp_path / "new").exists()
