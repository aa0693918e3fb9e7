"""Counts the parameters and multiply-adds of the models.

Multiply-adds are those of convolutions and matrix products, as computed (the
steps that a causal convolution computes and drops included), counted by
PyTorch's ``FlopCounterMode`` (two of its operations are one multiply-add), and
of the selective scan.  The counter knows no scan, and would see those parts of
an engine that happen to be matrix products.  So a stand-in takes the place of
the scan, in a block that is not fused, and each step, channel and state counts
as 4 multiply-adds, whatever the engine: delta A; decay h + drive; (delta u) B;
C h, summed over states.

Not counted: exponentials, norms, activations, gates, pooling, and additions
of feature maps.
"""

import argparse
from unittest import mock

import torch
from common import markdown_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.se_trans import SETrans

N_FRAMES, N_MELS = 500, 64
MODELS = {
    "ASCMamba": ASCMamba,
    "ASCMamba, 16 channels, 1 block, 8 states": lambda: ASCMamba(
        channels=16, n_blocks=1, d_state=8
    ),
    "SETrans": SETrans,
}


def multiply_adds(model, *inputs):
    """Counts the multiply-adds of one forward pass.

    Arguments
    ---------
    model : torch.nn.Module
        The model; its outputs are not used, so that it and the inputs may be
        on the device "meta", where nothing is computed.
    *inputs
        Inputs of the model.

    Returns
    -------
    total : int
        Multiply-adds of all that is counted, see the top of this file.
    scan : int
        Those of them that selective scans take.
    """
    scan = 0

    def counted_scan(u, delta, A, *others, **options):
        nonlocal scan
        batch, _, length = u.shape
        scan += 4 * batch * length * A.numel()
        return torch.empty_like(u)

    # The counter sees neither fused attention nor the fused Transformer
    # layer; the latter is taken only where no gradient is asked for.
    with (
        mock.patch("ascmamba_modules.mamba.choose_engine", lambda *_: "torch"),
        mock.patch(
            "ascmamba_modules.selective_scan.inner.selective_scan", counted_scan
        ),
        sdpa_kernel(SDPBackend.MATH),
        torch.enable_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        model(*inputs)
    return counter.get_total_flops() // 2 + scan, scan


def rows():
    """Counts the models on one clip of ten seconds.

    Returns
    -------
    list
        One dict a model: "model", and the counts "parameters",
        "multiply_adds" and, contained in it, "scan_multiply_adds".
    """
    table = []
    with torch.device("meta"):
        features = torch.empty(1, N_FRAMES, N_MELS)
        for name, make_model in MODELS.items():
            model = make_model().eval()
            total, scan = multiply_adds(model, features)
            table.append(
                {
                    "model": name,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "multiply_adds": total,
                    "scan_multiply_adds": scan,
                }
            )
    return table


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description="Prints parameters and multiply-adds per ten-second clip "
        f"(features {N_FRAMES} x {N_MELS}) of the models as a Markdown table."
    )
    parser.parse_args()
    table = [
        {
            "model": row["model"],
            "parameters": row["parameters"],
            "multiply-adds (G)": row["multiply_adds"] / 1e9,
            "of them scan (G)": row["scan_multiply_adds"] / 1e9,
        }
        for row in rows()
    ]
    print(markdown_table(table))
    print(
        f"\nPer ten-second clip, features {N_FRAMES} x {N_MELS}. Counted are "
        "convolutions, matrix products and,\nwith 4 multiply-adds per step, "
        "channel and state, the selective scan; elementwise\noperations "
        "(exponentials, norms, activations) are not."
    )


if __name__ == "__main__":
    main()
