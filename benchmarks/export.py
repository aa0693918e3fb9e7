"""Times exported models against the model in PyTorch, and what int8 costs."""

import argparse
import tempfile
from pathlib import Path

import onnx
import torch
from common import BUSY_HINT, machine, markdown_table, median_times
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.processing.features import InputNormalization

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.export.exporter import (
    export_model,
    onnx_runner,
    torch_runner,
)
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.mamba import Mamba

CLIP_SECONDS = 10
MODELS = {
    "ASCMamba": {},
    "ASCMamba, 16 channels, 1 block, 8 states": {
        "channels": 16,
        "n_blocks": 1,
        "d_state": 8,
    },
}
SUFFIXES = (".ogg", ".wav", ".mp3", ".flac")


def untrained(options):
    """A classifier with random weights, without place and time."""
    label_encoder = CategoricalEncoder()
    label_encoder.update_from_iterable("abcdefghij")
    features, normalize = LogMel(), InputNormalization()
    normalize(features(0.1 * torch.randn(2, 44100)))
    modules = {
        "features": features,
        "normalize": normalize,
        "model": ASCMamba(**options),
    }
    hparams = {
        "label_encoder": label_encoder,
        "audio_normalizer": AudioNormalizer(44100),
    }
    hparams["modules"] = modules
    return SceneClassifier(modules, hparams, run_opts={"device": "cpu"})


def with_engine(classifier, engine):
    """Classifies with an engine of the scan; a function of waveforms."""

    def run(wavs):
        for module in classifier.modules():
            if isinstance(module, Mamba):
                module.engine = engine
        return classifier.classify_batch(wavs)[0].exp()

    return run


def exported(classifier, folder):
    """Exports in all forms; a function and a file of each, by its name."""
    threads = torch.get_num_threads()
    forms = {}
    for name, options in {
        "ONNX": {},
        "ONNX, int8": {"int8": True},
        "torch.export": {"format": "torch"},
    }.items():
        path = folder / name
        export_model(classifier, path, **options)
        if "format" in options:
            forms[name] = torch_runner(path), path
        else:
            forms[name] = onnx_runner(path, threads), path
    return forms


def count_nodes(path):
    """Nodes of an ONNX file, those of its loops once."""

    def count(graph):
        attributes = [a for node in graph.node for a in node.attribute]
        bodies = [a.g for a in attributes if a.HasField("g")]
        return len(graph.node) + sum(map(count, bodies))

    return count(onnx.load(path).graph)


def rows(classifier, rounds):
    """Times one clip from waveform to posteriors.

    Arguments
    ---------
    classifier : SceneClassifier
        The model.
    rounds : int
        How often each form is called.

    Returns
    -------
    list
        One dict a row of the table.
    """
    wavs = 0.1 * torch.randn(1, CLIP_SECONDS * 44100)
    with tempfile.TemporaryDirectory() as folder:
        forms = exported(classifier, Path(folder))
        runs = {
            "PyTorch, engine cpu": with_engine(classifier, "cpu"),
            "PyTorch, engine torch": with_engine(classifier, "torch"),
            **{name: run for name, (run, _) in forms.items()},
        }
        seconds = median_times(
            {name: lambda run=run: run(wavs) for name, run in runs.items()},
            rounds,
        )
        sizes = {k: path.stat().st_size / 1e6 for k, (_, path) in forms.items()}
        nodes = {
            name: count_nodes(path)
            for name, (_, path) in forms.items()
            if "ONNX" in name
        }
    reference = seconds["PyTorch, engine cpu"]
    return [
        {
            "form": name,
            "ms per clip": 1000 * seconds[name],
            "x times the first": seconds[name] / reference,
            "MB": f"{sizes[name]:.2f}" if name in sizes else "",
            "nodes": f"{nodes[name]:,}" if name in nodes else "",
        }
        for name in runs
    ]


def agreement(classifier, recordings):
    """Compares the forms with PyTorch on recordings.

    Arguments
    ---------
    classifier : SceneClassifier
        A trained model.
    recordings : list
        Audio files.

    Returns
    -------
    list
        One dict a row of the table.
    """
    pytorch = with_engine(classifier, "auto")
    with tempfile.TemporaryDirectory() as folder:
        forms = exported(classifier, Path(folder))
        differences = {name: [] for name in forms}
        same = dict.fromkeys(forms, 0)
        for path in recordings:
            wavs = load_audio(path, classifier.audio_normalizer).unsqueeze(0)
            expected = pytorch(wavs)
            for name, (run, _) in forms.items():
                found = run(wavs)
                differences[name].append((found - expected).abs().max().item())
                same[name] += int(found.argmax() == expected.argmax())
    return [
        {
            "form": name,
            "recordings": len(recordings),
            "same label (%)": 100 * same[name] / len(recordings),
            "largest difference": f"{max(values):.1g}",
            "mean of the clips' largest": f"{sum(values) / len(values):.1g}",
        }
        for name, values in differences.items()
    ]


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        epilog=BUSY_HINT,
        description="Prints the milliseconds from the waveform of a "
        "ten-second clip to its posteriors, with size and nodes of the "
        "exported files; with a trained model and recordings, also how far "
        "the posteriors of each form are from PyTorch's.",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="calls of each (default: 5)"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=MODELS,
        default=list(MODELS),
        help="untrained models to time (default: all)",
    )
    parser.add_argument("--model", help="folder of a trained model")
    parser.add_argument(
        "--recordings", type=Path, help="folder with recordings for it"
    )
    args = parser.parse_args()
    if (args.model is None) != (args.recordings is None):
        parser.error("--model and --recordings go together")
    print(machine())
    torch.manual_seed(0)
    if args.model:
        recordings = sorted(
            path
            for path in args.recordings.rglob("*")
            if path.suffix.lower() in SUFFIXES
        )
        classifier = SceneClassifier.from_hparams(args.model)
        print(markdown_table(agreement(classifier, recordings)))
        return
    for name in args.models:
        print(f"\n{name}:\n")
        print(markdown_table(rows(untrained(MODELS[name]), args.rounds)))


if __name__ == "__main__":
    main()
