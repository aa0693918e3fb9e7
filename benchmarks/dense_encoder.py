"""Compares ways to compute the DenseEncoder on the CPU.

Its convolutions read the outputs of all layers before them.  Ours reads them
one by one and adds the results.  Beside it: side by side in one tensor, copied
together (as in DenseNet) or written into place (which training cannot do: the
backward pass needs what the next layer overwrites), channels last in memory,
and bfloat16.
"""

import argparse
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from common import BUSY_HINT, machine, markdown_table, median_times, peak_memory

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.dense_encoder import DenseBlock, DenseEncoder, DenseLayer
from ascmamba_modules.inference import SceneClassifier

FRAMES, MELS = 500, 64
OURS = "ours"
COPIED = "copied together"
IN_PLACE = "written into place"
CHANNELS_LAST = "channels last"
BFLOAT16 = "bfloat16"
VARIANTS = (
    (OURS,),
    (COPIED,),
    (IN_PLACE,),
    (OURS, CHANNELS_LAST),
    (COPIED, CHANNELS_LAST),
    (OURS, BFLOAT16),
    (COPIED, BFLOAT16),
    (COPIED, BFLOAT16, CHANNELS_LAST),
)


def convolve_whole(layer, x):
    """Takes one tensor, where ours takes a list."""
    return layer.conv(x)


def forward_copied(block, x, mask=None):
    """The dense block with concatenation."""
    seen = x
    for layer in block.layers:
        x = layer(seen, mask)
        seen = torch.cat([x, seen], dim=1)
    return x


def forward_in_place(block, x, mask=None):
    """The dense block whose layers write into one tensor."""
    channels, depth = x.shape[1], len(block.layers)
    seen = F.pad(x, (0, 0, 0, 0, channels * (depth - 1), 0))
    first = channels * (depth - 1)
    for layer in block.layers:
        x = layer(seen[:, first:], mask)
        first -= channels
        if first >= 0:
            seen[:, first : first + channels] = x
    return x


class Variant:
    """A context in which dense encoders are computed in one of the ways.

    Arguments
    ---------
    names : tuple
        One of VARIANTS.
    encoder : DenseEncoder
        Its weights are laid out to suit.
    """

    def __init__(self, names, encoder):
        self.names = names
        last = CHANNELS_LAST in names
        self.layout = torch.channels_last if last else torch.contiguous_format
        encoder.to(memory_format=self.layout)

    def run(self, function, *inputs):
        """Calls a function of (batch, C, time, frequency) tensors or others."""
        inputs = [
            x.contiguous(memory_format=self.layout) if x.dim() == 4 else x
            for x in inputs
        ]
        patches = []
        if OURS not in self.names:
            whole = forward_copied if COPIED in self.names else forward_in_place
            patches = [
                mock.patch.object(DenseBlock, "forward", whole),
                mock.patch.object(DenseLayer, "convolve", convolve_whole),
            ]
        for patch in patches:
            patch.start()
        try:
            with torch.autocast(
                "cpu", torch.bfloat16, enabled=BFLOAT16 in self.names
            ):
                return function(*inputs)
        finally:
            for patch in patches:
                patch.stop()


def prepare(names, pass_name, batch):
    """Readies inference or a training step of an encoder.

    Arguments
    ---------
    names : tuple
        One of VARIANTS.
    pass_name : str
        "inference" or "training".
    batch : int
        Ten-second clips.

    Returns
    -------
    function
        Runs it, without arguments.
    """
    encoder = DenseEncoder()
    x = torch.randn(batch, 1, FRAMES, MELS)
    variant = Variant(names, encoder)

    def run(x=x):
        if pass_name == "inference":
            with torch.no_grad():
                variant.run(encoder, x)
        else:
            encoder.zero_grad()
            variant.run(encoder, x).float().square().mean().backward()

    run(x[:, :, :8])  # what a first call allocates once
    return run


def rows(batch, rounds):
    """Times and measures all variants.

    Arguments
    ---------
    batch : int
        Clips.
    rounds : int
        Turns of each.

    Returns
    -------
    list
        One dict a row of the table.
    """
    seconds, memory = {}, {}
    for pass_name in ("inference", "training"):
        functions = {
            names: prepare(names, pass_name, batch)
            for names in VARIANTS
            if pass_name == "inference" or IN_PLACE not in names
        }
        for names in functions:
            memory[pass_name, names] = peak_memory(
                prepare, names, pass_name, batch
            )
        for names, value in median_times(functions, rounds).items():
            seconds[pass_name, names] = value
    return [
        {
            "variant": ", ".join(names),
            **{
                f"{pass_name}, {unit}": (
                    _per_clip(values.get((pass_name, names)), factor, batch)
                )
                for pass_name in ("inference", "training")
                for unit, values, factor in (
                    ("ms a clip", seconds, 1e3),
                    ("MB a clip", memory, 1e-6),
                )
            },
        }
        for names in VARIANTS
    ]


def _per_clip(value, factor, batch):
    return "-" if value is None else value * factor / batch


def rate_rows(rounds):
    """How fast this machine multiplies large matrices."""
    table = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2048, 2048).to(dtype)
        seconds = median_times({"": lambda x=x: x @ x}, 5 * rounds)[""]
        table.append(
            {
                "matrix product": str(dtype).removeprefix("torch."),
                "G multiply-adds a second": 2048**3 / seconds / 1e9,
            }
        )
    return table


@torch.no_grad()
def agreement_rows(model_folder, recordings):
    """Compares the logits of a trained ASCMamba on recordings.

    Arguments
    ---------
    model_folder : str or Path
        What ``SceneClassifier.from_hparams`` loads.
    recordings : list
        Audio files.

    Returns
    -------
    list
        One dict a row: the largest difference of a logit from those of the
        same model in float64, and the share of recordings for which the best
        class is the same.
    """
    classifier = SceneClassifier.from_hparams(source=str(model_folder))
    mods = classifier.mods
    features = []
    for path in recordings:
        wav = load_audio(path, classifier.audio_normalizer).unsqueeze(0)
        lengths = torch.ones(1)
        features.append(mods.normalize(mods.features(wav), lengths))
    encoder = mods.model.encoder
    exact = mods.model.double()
    variant = Variant((COPIED,), encoder)
    expected = [variant.run(exact, x.double()) for x in features]
    expected = torch.cat(expected)
    model = exact.float()
    table = []
    for names in VARIANTS:
        variant = Variant(names, encoder)
        logits = torch.cat([variant.run(model, x).float() for x in features])
        same = (logits.argmax(1) == expected.argmax(1)).float().mean()
        table.append(
            {
                "variant": ", ".join(names),
                "largest difference of a logit": float(
                    (logits - expected).abs().max()
                ),
                "same class (%)": 100 * same.item(),
            }
        )
    return table


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        epilog=BUSY_HINT,
        description="Prints milliseconds (medians) and peak memory a clip of "
        "ten seconds for ways to compute the DenseEncoder (64 channels) on "
        "the CPU, and, given a model and recordings, what they do to logits.",
    )
    parser.add_argument(
        "--batch", type=int, default=4, help="clips (default: 4)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each (default: 5)"
    )
    parser.add_argument(
        "--model", type=Path, help="folder model/ of a trained ASCMamba"
    )
    parser.add_argument(
        "--recordings", type=Path, nargs="+", help="audio files"
    )
    args = parser.parse_args()
    if (args.model is None) != (args.recordings is None):
        parser.error("give --model and --recordings together")
    print(machine())
    print(f"Batch of {args.batch}, medians of {args.rounds} turns.\n")
    print(markdown_table(rows(args.batch, args.rounds)))
    print()
    print(markdown_table(rate_rows(args.rounds)))
    if args.model:
        print(f"\n{len(args.recordings)} recordings, against float64:\n")
        print(markdown_table(agreement_rows(args.model, args.recordings)))


if __name__ == "__main__":
    main()
