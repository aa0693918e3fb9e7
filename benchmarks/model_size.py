"""Counts the parameters and multiply-adds of the models.

See ascmamba_modules/utils/model_size.py for what counts.
"""

import argparse

import torch
from measure import markdown_table

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.se_trans import SETrans
from ascmamba_modules.utils.model_size import multiply_adds

N_FRAMES, N_MELS = 500, 64
MODELS = {
    "ASCMamba": ASCMamba,
    "ASCMamba, 16 channels, 1 block, 8 states": lambda: ASCMamba(
        channels=16, n_blocks=1, d_state=8
    ),
    "SETrans": SETrans,
}


def rows():
    """Counts the models on one clip of ten seconds: a row each, with
    "parameters", "multiply_adds" and, contained in it,
    "scan_multiply_adds"."""
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
