"""Times classifying files, streams long recordings, profiles the start-up."""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import BUSY_HINT, machine, markdown_table, median_times, peak_memory
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import write_model_folder

CLIP_SECONDS = 10
RATE = 48000  # that of most recorders, so that there is resampling to do
FORMATS = {  # name: suffix, subtype, rate in Hz
    "WAVE, 44.1 kHz, 24 bit": ("wav", "PCM_24", 44100),
    "WAVE, 48 kHz, 24 bit": ("wav", "PCM_24", 48000),
    "FLAC, 48 kHz, 24 bit": ("flac", "PCM_24", 48000),
    "Ogg Vorbis, 44.1 kHz": ("ogg", "VORBIS", 44100),
}
MODELS = {  # name: settings, batch sizes
    "16 channels, 1 block, 8 states": (
        {"channels": 16, "n_blocks": 1, "d_state": 8},
        (1, 4, 16),
    ),
    "64 channels, 4 blocks, 16 states": (
        {"channels": 64, "n_blocks": 4, "d_state": 16},
        (1, 4),
    ),
}
MINUTES = (1, 10, 60)
SHOWN_PACKAGES = 6
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
    """Writes a model folder with random weights.

    Arguments
    ---------
    folder : Path
        The folder.
    settings : dict
        channels, n_blocks and d_state of the model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    yaml = folder.with_suffix(".yaml")
    yaml.write_text(_SETTINGS.format(**settings))
    hparams = load_hyperpyyaml(yaml.read_text())
    hparams["label_encoder"].update_from_iterable("abcdefghij")
    hparams["tokenizer"].train(["Berlin"])
    hparams["normalize"](torch.randn(4, 50, 64) * 20 - 40)
    write_model_folder(hparams, yaml, folder)


def write_noise(path, seconds, subtype="PCM_24", rate=RATE):
    """Writes noise, minute by minute.

    Arguments
    ---------
    path : Path
        Audio file.
    seconds : int
        Its length.
    subtype : str
        Encoding of the samples.
    rate : int
        Rate in Hz.
    """
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, 1, subtype) as file:
        for start in range(0, seconds, 60):
            length = min(60, seconds - start)
            file.write(0.1 * rng.standard_normal(length * rate))


def reading_rows(folder, rounds):
    """Times reading a clip of each format: decoding and resampling.

    Arguments
    ---------
    folder : Path
        For the clips.
    rounds : int
        How often each is read.

    Returns
    -------
    list
        One dict a row of the table.
    """
    normalizer = AudioNormalizer(44100)
    functions = {}
    for name, (suffix, subtype, rate) in FORMATS.items():
        path = folder / f"{name}.{suffix}"
        write_noise(path, CLIP_SECONDS, subtype, rate)
        functions[name] = partial(load_audio, path, normalizer)
    seconds = median_times(functions, rounds)
    return [
        {"ten-second clip": name, "ms": 1000 * seconds[name]}
        for name in functions
    ]


def classifying_rows(folder, device, rounds):
    """Times what a clip goes through, and all of it together.

    Arguments
    ---------
    folder : Path
        For clips and models.
    device : str
        Where the models run.
    rounds : int
        How often each is called.

    Returns
    -------
    list
        One dict a row of the table.
    """
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
                        for stage in ("read", "features", "model")
                    },
                    "clips a second": size / seconds["all"],
                }
            )
    return rows


def _stage_times(classifier, clip, size, rounds):
    normalizer = classifier.audio_normalizer
    wavs = torch.stack([load_audio(clip, normalizer)] * size)
    wavs = wavs.to(classifier.device)
    mods = classifier.mods
    with torch.no_grad():
        features = mods.features(wavs)

        def synchronised(function):
            def run():
                with torch.no_grad():
                    function()
                if wavs.is_cuda:
                    torch.cuda.synchronize()

            return run

        def classify():
            list(
                classifier.classify_files(
                    [clip] * size,
                    batch_size=size,
                    skip_errors=True,
                    progress_bar=False,
                )
            )

        stages = {
            "read": lambda: [load_audio(clip, normalizer) for _ in wavs],
            "features": lambda: mods.features(wavs),
            "model": lambda: classifier.posteriors_from_features(features),
            "all": classify,
        }
        return median_times(
            {name: synchronised(stage) for name, stage in stages.items()},
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
    """Measures the memory of ``classify_long`` against length.

    Arguments
    ---------
    folder : Path
        For recordings and model.
    device : str
        Where the model runs.

    Returns
    -------
    list
        One dict a row of the table.
    """
    model = folder / "streaming"
    write_model(model, next(iter(MODELS.values()))[0])
    # Else glibc keeps what is freed, more or less of it by chance.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"
    rows = []
    for minutes in MINUTES:
        path = folder / f"{minutes}.wav"
        write_noise(path, 60 * minutes, "PCM_16")
        added = peak_memory(_classify_long, model, path, device)
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
    """Times starting ``ascmamba``, and what its imports take.

    Arguments
    ---------
    folder : Path
        For clip and model.
    rounds : int
        How often each command is started.

    Returns
    -------
    list
        One dict a row of the table of commands.
    list
        One dict a row of the table of imported packages.
    """
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
    starts = [{"command": name, "s": seconds[name]} for name in commands]
    profile = start(["-X", "importtime", *classify]).stderr
    return starts, _package_rows(profile)


def _package_rows(profile):
    """Import seconds by package, from what ``-X importtime`` prints."""
    seconds = collections.Counter()
    for line in profile.splitlines():
        own, _, name = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            package = name.rpartition("|")[2].strip().partition(".")[0]
            seconds[package] += int(own) / 1e6
    top = seconds.most_common(SHOWN_PACKAGES)
    rest = sum(seconds.values()) - sum(value for _, value in top)
    return [
        {"package": name, "s": value} for name, value in [*top, ("rest", rest)]
    ]


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        epilog=BUSY_HINT,
        description="Prints how long reading, features and model take for a "
        "ten-second clip, and clips per second of classify_files, which reads "
        "in threads; memory that classify_long adds; and how long 'ascmamba "
        "classify' takes to start, with its imports.",
    )
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument(
        "--rounds", type=int, default=3, help="calls of each (default: 3)"
    )
    args = parser.parse_args()
    print(machine())
    print(f"Medians of {args.rounds} interleaved calls; the rest, one call.")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for rows in (
            reading_rows(folder, args.rounds),
            classifying_rows(folder, args.device, args.rounds),
            streaming_rows(folder, args.device),
            *start_rows(folder, args.rounds),
        ):
            print(f"\n{markdown_table(rows)}", flush=True)


if __name__ == "__main__":
    main()
