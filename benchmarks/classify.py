"""Times features, classifying and start-up; measures long recordings."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from measure import (
    machine,
    make_parser,
    markdown_table,
    median_times,
    parse_arguments,
    peak_memory,
)

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import write_model_folder

CLIP_SECONDS = 10
RATE = 48000  # that of most recorders, so that there is resampling to do
MODELS = {  # name: settings, batch sizes
    "16 channels, 1 block, 8 states": (
        {"channels": 16, "n_blocks": 1, "d_state": 8},
        (1, 16),
    ),
    "64 channels, 4 blocks, 16 states": (
        {"channels": 64, "n_blocks": 4, "d_state": 16},
        (1, 4),
    ),
}
MINUTES = (1, 10, 60)
_SETTINGS = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: 44100
features: !new:ascmamba_modules.features.LogMel
normalize: !new:speechbrain.processing.features.InputNormalization
tokenizer: !new:ascmamba_modules.context.ContextTokenizer
context_encoder: !new:ascmamba_modules.context.ContextEncoder
model: !new:ascmamba_modules.ascmamba.ASCMamba
    channels: {channels}
    n_blocks: {n_blocks}
    d_state: {d_state}
modules:
    features: !ref <features>
    normalize: !ref <normalize>
    context_encoder: !ref <context_encoder>
    model: !ref <model>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
"""


def write_model(folder, settings):
    """Writes a model folder with random weights."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    yaml = folder.with_suffix(".yaml")
    yaml.write_text(_SETTINGS.format(**settings))
    hparams = load_hyperpyyaml(yaml.read_text())
    hparams["label_encoder"].update_from_iterable("abcdefghij")
    hparams["tokenizer"].train(["Berlin"])
    hparams["normalize"](torch.randn(4, 50, 64) * 20 - 40)
    write_model_folder(hparams, yaml, folder)


def write_noise(path, seconds, subtype="PCM_24", rate=RATE):
    """Writes noise, minute by minute."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, 1, subtype) as file:
        for start in range(0, seconds, 60):
            length = min(60, seconds - start)
            file.write(0.1 * rng.standard_normal(length * rate))


def librosa_features(wav):
    """Log-mel features (n_mels, frames + 1) of one clip, by librosa."""
    return librosa.power_to_db(
        librosa.feature.melspectrogram(
            y=wav,
            sr=44100,
            n_fft=2048,
            win_length=1764,
            hop_length=882,
            n_mels=64,
            pad_mode="constant",
        )
    )


@torch.no_grad()
def feature_rows(device, rounds):
    """Times librosa and LogMel, ``rounds`` calls of each; rows of the table."""
    wavs = torch.randn(16, CLIP_SECONDS * 44100)
    features = LogMel().to(device)
    clip = wavs[0].numpy()
    expected = torch.from_numpy(librosa_features(clip).T)
    found = features(wavs[:1].to(device))[0].cpu()
    difference = (found - expected[: len(found)]).abs().max().item()
    functions, clips = {"librosa": lambda: librosa_features(clip)}, {}
    for size in (1, 16):
        name = f"LogMel, batch {size}"
        clips[name] = size
        functions[name] = partial(features, wavs[:size].to(device))
    seconds = median_times(functions, rounds, device)
    return [
        {
            "features of ten seconds": name,
            "ms a clip": 1000 * seconds[name] / clips.get(name, 1),
            "largest difference, dB": difference if name in clips else 0.0,
        }
        for name in functions
    ]


def classifying_rows(folder, device, rounds):
    """Times what a clip goes through, and all of it together; rows of the
    table."""
    clip = folder / "clip.wav"
    write_noise(clip, CLIP_SECONDS)
    rows = []
    for name, (settings, sizes) in MODELS.items():
        write_model(folder / name, settings)
        classifier = SceneClassifier.from_hparams(
            folder / name, run_opts={"device": device}
        )
        for size in sizes:
            seconds = _stage_times(classifier, clip, size, rounds)
            rows.append(
                {
                    "model": name,
                    "batch": size,
                    **{
                        f"{stage}, ms": 1000 * seconds[stage] / size
                        for stage in ("read", "features", "classify_batch")
                    },
                    "clips a second": size / seconds["all"],
                }
            )
    return rows


def _stage_times(classifier, clip, size, rounds):
    normalizer = classifier.audio_normalizer
    wavs = torch.stack([load_audio(clip, normalizer)] * size)
    wavs = wavs.to(classifier.device)
    compute = torch.no_grad()(classifier.mods.features)

    def classify_files():
        results = classifier.classify_files(
            [clip] * size,
            batch_size=size,
            skip_errors=True,
            progress_bar=False,
        )
        assert not any(result.problem for result in results)

    return median_times(
        {
            "read": lambda: [load_audio(clip, normalizer) for _ in wavs],
            "features": lambda: compute(wavs).cpu(),
            "classify_batch": lambda: classifier.classify_batch(wavs),
            "all": classify_files,
        },
        rounds,
    )


def _classify_long(model, path, device):
    """A call to measure, in a process of its own."""
    classifier = SceneClassifier.from_hparams(
        model, run_opts={"device": device}
    )
    return partial(
        classifier.classify_long,
        path,
        window=CLIP_SECONDS,
        hop=CLIP_SECONDS,
        batch_size=4,  # of which a minute has one
        progress_bar=False,
    )


def streaming_rows(folder, device):
    """Measures the memory of ``classify_long`` against length; rows of the
    table."""
    model = folder / "streaming"
    write_model(model, next(iter(MODELS.values()))[0])
    # Else glibc keeps what is freed, more or less of it by chance.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    rows = []
    for minutes in MINUTES:
        path = folder / f"{minutes}.wav"
        write_noise(path, 60 * minutes, "PCM_16")
        added = peak_memory(_classify_long, model, path, device, device=device)
        rows.append(
            {
                "recording": f"{minutes} min",
                "waveform alone, MB": 60 * minutes * 44100 * 4 / 1e6,
                "classify_long, MB": added / 1e6,
            }
        )
        path.unlink()
    return rows


def start_rows(folder, rounds):
    """Times starting ``ascmamba``; rows of the table."""
    clip, model = folder / "short.wav", folder / "start"
    write_noise(clip, 1)
    write_model(model, next(iter(MODELS.values()))[0])
    python = [sys.executable]
    command = ["-m", "ascmamba_modules.command_line"]
    classify = [*command, "classify", str(clip), "--model", str(model)]
    commands = {
        "python -c 'import torch'": ["-c", "import torch"],
        "python -c 'import speechbrain.inference'": [
            "-c",
            "import speechbrain.inference",
        ],
        "ascmamba --help": [*command, "--help"],
        "ascmamba classify, a clip of 1 s": classify,
    }

    def start(options):
        return subprocess.run(
            [*python, *options], capture_output=True, text=True, check=True
        )

    seconds = median_times(
        {name: partial(start, given) for name, given in commands.items()},
        rounds,
    )
    return [{"command": name, "s": seconds[name]} for name in commands]


def main(arguments=None):
    """Prints the tables."""
    parser = make_parser(
        "Prints how long features, reading and model take for a ten-second "
        "clip, and clips per second of classify_files, which reads in "
        "threads; memory that classify_long adds; and how long 'ascmamba "
        "classify' takes to start."
    )
    options = parse_arguments(parser, arguments)
    print(machine(options.device))
    print(f"Medians of {options.rounds} interleaved calls.")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for rows in (
            feature_rows(options.device, options.rounds),
            classifying_rows(folder, options.device, options.rounds),
            streaming_rows(folder, options.device),
            start_rows(folder, options.rounds),
        ):
            print(f"\n{markdown_table(rows)}", flush=True)


if __name__ == "__main__":
    main()
