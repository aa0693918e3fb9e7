"""Times the models, and their parts, against mambapy's scan in our model.

All on the CPU in float32.  mambapy's scan takes the place of ours in the same
model, weights and all; of a Mamba block there is mambapy's own as well.  A
training step of ASCMamba takes 10 GB a clip with mambapy's scan.
"""

import argparse
from pathlib import Path
from unittest import mock

import matplotlib
import torch
from common import BUSY_HINT, machine, markdown_table, median_times
from exponentials import kernel_exponentials
from mambapy.mamba import MambaBlock, MambaConfig
from selective_scan import scan_mambapy
from torch import nn
from torch.nn.functional import silu, softplus

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.dual_path import DualPathMambaBlock
from ascmamba_modules.mamba import Mamba
from ascmamba_modules.se_trans import SETrans

FRAMES, MELS, FRAMES_PER_SECOND = 500, 64, 50
BINS, CHANNELS = 32, 64
SECONDS = (1, 2, 5, 10, 20, 40, 80)
PEER = "mambapy's scan"
OURS = "ours"


def scan_of_mambapy(
    u, delta, A, B, C, D, z, delta_bias, reverse=False, **options
):
    """mambapy's scan with the arguments that a Mamba block gives it."""
    u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
    if reverse:
        u, delta, B, C, z = (x.flip(1) for x in (u, delta, B, C, z))
    y = scan_mambapy(u, softplus(delta + delta_bias), A, B, C)
    y = (y + D * u) * silu(z)
    return (y.flip(1) if reverse else y).transpose(1, 2)


def with_mambapy(function):
    """The same function, with mambapy's scan in each Mamba block."""

    def run():
        with (
            mock.patch(
                "ascmamba_modules.mamba.choose_engine", lambda *_: "torch"
            ),
            mock.patch(
                "ascmamba_modules.selective_scan.inner.selective_scan",
                scan_of_mambapy,
            ),
        ):
            function()

    return run


class _Loss(nn.Module):
    """A number to differentiate, from all outputs of a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        outputs = self.model(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum(x.square().mean() for x in outputs)


def passes(model, *inputs):
    """Inference and training step of a model.

    Arguments
    ---------
    model : torch.nn.Module
    *inputs
        Its inputs.

    Returns
    -------
    dict
        Functions without arguments.
    """
    loss = _Loss(model)

    def infer():
        model.eval()
        with torch.no_grad():
            model(*inputs)

    def train():
        model.train()
        model.zero_grad()
        loss(*inputs).backward()

    return {"inference": infer, "training step": train}


def parts(batch):
    """The models with inputs of a batch of ten-second clips."""
    features = torch.randn(batch, FRAMES, MELS)
    sequences = torch.randn(batch * BINS, FRAMES, CHANNELS)
    encoded = torch.randn(batch, FRAMES, BINS, CHANNELS)
    return {
        "Mamba block": (Mamba(CHANNELS), sequences),
        "dual-path block": (
            DualPathMambaBlock(CHANNELS, 64),
            encoded,
            torch.randn(batch, 64),
        ),
        "ASCMamba": (ASCMamba(), features),
        "SE-Trans": (SETrans(), features),
    }


def rows(batch, rounds, names):
    """Times inference and training steps.

    Arguments
    ---------
    batch : int
        Clips.
    rounds : int
        How often each is called.
    names : list
        Keys of :func:`parts`.

    Returns
    -------
    list
        One dict a row of the table.
    """
    table = []
    for name, (model, *inputs) in parts(batch).items():
        if name not in names:
            continue
        for pass_name, function in passes(model, *inputs).items():
            functions = {OURS: function}
            if name != "SE-Trans":
                functions[PEER] = with_mambapy(function)
            if name == "Mamba block":
                config = MambaConfig(d_model=CHANNELS, n_layers=1)
                block = passes(MambaBlock(config), *inputs)
                functions["mambapy's block"] = block[pass_name]
            seconds = median_times(functions, rounds)
            for who, value in seconds.items():
                table.append(
                    {
                        "model": name,
                        "pass": pass_name,
                        "scan": who,
                        "seconds a clip": value / batch,
                        "x times ours": value / seconds[OURS],
                    }
                )
    return table


def floor(rounds):
    """The least time of inference on one clip, from measured rates.

    Its multiply-adds, but those of the scan, at the rate of large matrix
    products, and the exponentials of its scans at the rate of the kernels'
    own function.

    Arguments
    ---------
    rounds : int
        How often each rate is measured.

    Returns
    -------
    float
        Seconds.
    """
    from model_size import rows as sizes

    size = next(row for row in sizes() if row["model"] == "ASCMamba")
    product = torch.randn(2048, 2048)
    count = 2**27
    seconds = median_times(
        {
            "product": lambda: product @ product,
            "exp": lambda: kernel_exponentials(count),
        },
        10 * rounds,
    )
    multiply_adds = size["multiply_adds"] - size["scan_multiply_adds"]
    exponentials = size["scan_multiply_adds"] / 4
    return (
        multiply_adds * seconds["product"] / 2048**3
        + exponentials * seconds["exp"] / count
    )


def plot_lengths(path, rounds):
    """Plots the time of inference against the length of the clip.

    Arguments
    ---------
    path : str or pathlib.Path
        PNG file to write.
    rounds : int
        How often each is called.

    Returns
    -------
    list
        One dict a length.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    model = ASCMamba()
    table = []
    for length in SECONDS:
        features = torch.randn(1, length * FRAMES_PER_SECOND, MELS)
        functions = passes(model, features)
        seconds = median_times({"inference": functions["inference"]}, rounds)
        table.append({"clip (s)": length, **seconds})
    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    axes.plot(
        SECONDS, [row["inference"] for row in table], "o-", label="ASCMamba"
    )
    axes.set_xlabel("length of the clip (s)")
    axes.set_ylabel("inference (s)")
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    return table


def main():
    """Prints the tables and writes the plot."""
    parser = argparse.ArgumentParser(
        epilog=BUSY_HINT,
        description="Prints seconds a clip of ten seconds (medians) for a "
        "Mamba block, a dual-path block, ASCMamba and SE-Trans, and plots the "
        "cost of inference against the length of the clip.",
    )
    names = ["Mamba block", "dual-path block", "ASCMamba", "SE-Trans"]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--batch", type=int, default=1, help="clips (default: 1)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="calls of each (default: 3)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("results/cost_against_length.png"),
        help="file for the plot (default: %(default)s)",
    )
    args = parser.parse_args()
    print(machine())
    print(markdown_table(rows(args.batch, args.rounds, args.models)))
    print(
        "\nFloor of inference with ASCMamba (multiply-adds and exponentials "
        f"at measured rates): {floor(args.rounds):.3g} s a clip.\n"
    )
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    print(markdown_table(plot_lengths(args.plot, args.rounds)))
    print(f"\nPlot: {args.plot}")


if __name__ == "__main__":
    main()
