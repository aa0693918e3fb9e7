"""ascmamba timeline."""

import io

import numpy as np
import pandas as pd
import pytest
import soundfile

from ascmamba_modules.command_line import main
from ascmamba_modules.inference import SceneClassifier

OPTIONS = ["--window", "1", "--hop", "0.5", "--location", "Berlin"]


@pytest.fixture
def recording(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 5 * 8000)
    samples[16000:] *= 0.01
    soundfile.write(tmp_path / "night.flac", samples, 8000)
    return tmp_path / "night.flac"


def test_segments_windows_and_plot(model_folder, recording, tmp_path, capsys):
    table, plot = tmp_path / "new" / "windows.csv", tmp_path / "night.png"
    arguments = [
        "timeline",
        str(recording),
        "--model",
        str(model_folder),
        *OPTIONS,
    ]
    arguments += ["--output", str(table), "--plot", str(plot)]
    assert main(arguments) == 0
    classifier = SceneClassifier.from_hparams(model_folder)
    expected = classifier.classify_long(recording, 1.0, 0.5, "Berlin")
    pd.testing.assert_frame_equal(
        pd.read_csv(table), expected.table, atol=1e-4, check_dtype=False
    )
    segments = pd.read_csv(io.StringIO(capsys.readouterr().out))
    pd.testing.assert_frame_equal(
        segments, expected.segments(), atol=1e-3, check_dtype=False
    )
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--hop", "11"], "hop (11.0 s) must be"),
        (["--output", "windows.parquet"], "must end in .csv"),
        (["--plot", "night.gif"], "must end in .png"),
        (["--record-time", "18:30"], "night.flac: '18:30' is not a time"),
    ],
)
def test_bad_options(model_folder, recording, capsys, options, message):
    arguments = ["timeline", str(recording), "--model", str(model_folder)]
    assert main([*arguments, *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err
    assert shown.out == ""


def test_missing_file(model_folder, capsys):
    assert main(["timeline", "none.wav", "--model", str(model_folder)]) == 2
    assert "error: none.wav: file not found" in capsys.readouterr().err
