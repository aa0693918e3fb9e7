"""ascmamba listen: raw samples on standard input."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from ascmamba_modules.command_line import main
from ascmamba_modules.command_line.listen import _chooser
from ascmamba_modules.inference import SceneClassifier

OPTIONS = ["--window", "1", "--hop", "0.3", "--location", "Berlin"]
OPTIONS += ["--record-time", "2023-04-21 18:59:58"]


@pytest.fixture
def listen(model_folder, monkeypatch, capsys):
    """Runs the command on bytes; gives its exit code and what it prints."""

    def run(data, *options):
        stdin = SimpleNamespace(buffer=io.BytesIO(data))
        monkeypatch.setattr("sys.stdin", stdin)
        arguments = ["listen", "-", "--model", str(model_folder), *options]
        return main(arguments), capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "encoding, kind, subtype",
    [
        ("s16le", "int16", "PCM_16"),
        ("s32le", "int32", "PCM_32"),
        ("f32le", "float32", "FLOAT"),
    ],
)
def test_same_as_timeline(
    model_folder, listen, tmp_path, encoding, kind, subtype
):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.3, 0.3, (5 * 16000 + 77, 2))
    samples[30000:] *= 0.01
    path = tmp_path / "night.wav"
    soundfile.write(path, samples, 16000, subtype)
    data = soundfile.read(path, dtype=kind)[0].tobytes()
    code, shown = listen(
        data, *OPTIONS, "--encoding", encoding, "--rate", "16000",
        "--channels", "2",
    )  # fmt: skip
    assert code == 0
    lines = [json.loads(line) for line in shown.out.splitlines()]
    classifier = SceneClassifier.from_hparams(model_folder)
    expected = classifier.classify_long(
        path, 1.0, 0.3, "Berlin", "2023-04-21 18:59:58"
    ).table
    for name in ("start", "end"):
        found = [line[name] for line in lines]
        np.testing.assert_allclose(found, expected[name], atol=1e-5)
    assert [x["scene_label"] for x in lines] == expected["scene_label"].tolist()
    found = [list(line["posteriors"].values()) for line in lines]
    np.testing.assert_allclose(found, expected[classifier.classes], atol=1e-5)
    assert [x["probability"] for x in lines] == [max(row) for row in found]


def test_window_is_told_before_the_next_comes_in(model_folder):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ascmamba_modules.command_line"),
            *("listen", "-", "--rate", "8000", "--model", str(model_folder)),
            *("--window", "1", "--hop", "0.5"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    half = np.random.default_rng(0).integers(-999, 999, 4000, "int16").tobytes()
    process.stdin.write(3 * half)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["end"] == 1.0  # or it hangs
    process.stdin.close()
    assert json.loads(process.stdout.readline())["end"] == 1.5
    assert process.wait() == 0


@pytest.mark.parametrize(
    "data, options, message",
    [
        (b"", [], "standard input is empty"),
        (b"123", [], "ends within a sample; check --encoding and --channels"),
        (b"\0" * 100, ["--hop", "11"], "hop (11.0 s) must be"),
        (b"\xff" * 100, ["--encoding", "f32le"], "NaN"),
    ],
)
def test_bad_input_is_one_clear_line(listen, data, options, message):
    code, shown = listen(data, "--rate", "8000", *options)
    assert code == 2 and shown.out == ""
    assert message in shown.err and "Traceback" not in shown.err


class Microphone:
    """What sounddevice has of one that gives some samples, then stops."""

    def __init__(self, samples, monkeypatch):
        self.samples, self.opened = samples, None
        self.PortAudioError = type("PortAudioError", (Exception,), {})
        monkeypatch.setitem(sys.modules, "sounddevice", self)

    def query_devices(self, name, kind):
        assert kind == "input"
        if name not in (None, 3, "usb"):
            raise ValueError(f"No input device matching {name!r}")
        return {"default_samplerate": 16000.0}

    def InputStream(self, rate, device, channels, dtype):
        if channels > 1:
            raise self.PortAudioError("Invalid number of channels")
        self.opened = (rate, device, dtype)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened += ("closed",)

    def read(self, frames):
        part, self.samples = self.samples[:frames], self.samples[frames:]
        return part[:, None], len(self.samples) == 0


@pytest.mark.parametrize("source", [[], ["3"], ["usb"]])
def test_microphone(model_folder, listen, monkeypatch, capsys, source):
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 40000)
    samples = samples.astype("float32")
    options = ["--window", "1", "--hop", "0.5"]
    _, expected = listen(
        samples.tobytes(), *options, "--encoding", "f32le", "--rate", "16000"
    )
    microphone = Microphone(samples, monkeypatch)
    words = ["listen", *source, "--model", str(model_folder), *options]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == expected.out != ""
    assert "samples were lost" in shown.err
    device = {"3": 3, "usb": "usb"}.get("".join(source))
    assert microphone.opened == (16000, device, "float32", "closed")


@pytest.mark.parametrize(
    "words, message",
    [
        (["none"], "no such microphone (No input device matching 'none')"),
        (["--channels", "2"], "no such microphone (Invalid number of chann"),
    ],
)
def test_no_such_microphone(model_folder, monkeypatch, capsys, words, message):
    Microphone(np.zeros(0), monkeypatch)
    assert main(["listen", *words, "--model", str(model_folder)]) == 2
    assert message in capsys.readouterr().err


def test_microphone_without_sounddevice(model_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["listen", "--model", str(model_folder)]) == 2
    assert "pip install 'ascmamba[microphone]'" in capsys.readouterr().err


def test_smoothing():
    choose = _chooser(seconds=4.0, hop=1.0)
    kept = np.exp(-0.25)
    assert choose([0.3, 0.7]) == (1, 0.7)
    label, probability = choose([1.0, 0.0])  # not far enough ahead
    assert label == 1 and probability == pytest.approx(0.7 * kept)
    for _ in range(2):
        label, probability = choose([1.0, 0.0])
    assert label == 0
    assert probability == pytest.approx(1 - 0.7 * kept**3)
    plain = _chooser(None, hop=1.0)
    assert [plain(x) for x in ([0.4, 0.6], [0.6, 0.4])] == [(1, 0.6), (0, 0.6)]
