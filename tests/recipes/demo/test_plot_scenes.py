"""The picture of the demo scenes."""

import demo.plot_scenes as plot_demo_scenes
import librosa
import matplotlib.image
import numpy as np
import pytest
import soundfile
from demo.plot_scenes import main


def test_picture_grows_with_recordings(tmp_path):
    recording = tmp_path / "real street.wav"
    soundfile.write(recording, np.random.default_rng(0).random(8000), 8000)
    main([str(tmp_path / "new" / "scenes.png"), "--seconds=0.2"])
    main(
        [
            str(tmp_path / "more.png"),
            "--seconds=0.2",
            f"--beside=street={recording}",
        ]
    )
    sizes = [
        matplotlib.image.imread(tmp_path / name).shape
        for name in ("new/scenes.png", "more.png")
    ]
    assert sizes[1][0] == pytest.approx(1.5 * sizes[0][0], abs=2)
    assert sizes[1][1] == sizes[0][1]


def test_frequencies_are_those_of_the_bands():
    # librosa counts the outer edges of the first and the last band as well.
    expected = librosa.mel_frequencies(n_mels=66, fmax=22050.0)[1:-1]
    found = plot_demo_scenes._band_centres(64, 22050.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bad_recordings_are_refused(tmp_path, capsys):
    picture = str(tmp_path / "scenes.png")
    with pytest.raises(SystemExit, match="missing.wav"):
        main([picture, "--seconds=0.1", "--beside", "a=missing.wav"])
    with pytest.raises(SystemExit):
        main([picture, "--beside", "missing.wav"])
    assert "give NAME=FILE" in capsys.readouterr().err
    assert not (tmp_path / "scenes.png").exists()
