"""Times the models and counts their sizes; a Mamba block beside mambapy's."""

import torch
from mambapy.mamba import MambaBlock, MambaConfig
from measure import (
    machine,
    make_parser,
    markdown_table,
    median_times,
    parse_arguments,
    peak_memory,
)

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.dual_path import DualPathMambaBlock
from ascmamba_modules.mamba import Mamba
from ascmamba_modules.se_trans import SETrans
from ascmamba_modules.utils.model_size import multiply_adds

FRAMES, MELS, BINS, CHANNELS = 500, 64, 32, 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Name: a function of the batch that gives module and inputs.  The first two
# are what ten seconds are to the time path of the paper's full resolution.
PARTS = {
    "Mamba block, ours": lambda batch: (
        Mamba(CHANNELS),
        torch.randn(batch * BINS, FRAMES, CHANNELS),
    ),
    "Mamba block, mambapy": lambda batch: (
        MambaBlock(MambaConfig(d_model=CHANNELS, n_layers=1)),
        torch.randn(batch * BINS, FRAMES, CHANNELS),
    ),
    "dual-path block": lambda batch: (
        DualPathMambaBlock(CHANNELS, 64),
        torch.randn(batch, FRAMES, BINS, CHANNELS),
        torch.randn(batch, 64),
    ),
    "ASCMamba": lambda batch: (ASCMamba(), torch.randn(batch, FRAMES, MELS)),
    "SETrans": lambda batch: (SETrans(), torch.randn(batch, FRAMES, MELS)),
}
COUNTED = {
    "ASCMamba": ASCMamba,
    "ASCMamba, 16 channels, 1 block, 8 states": lambda: ASCMamba(
        channels=16, n_blocks=1, d_state=8
    ),
    "SETrans": SETrans,
}


def passes(name, batch, device, precision):
    """Readies inference and training step of one of PARTS: functions without
    arguments, by name."""
    model, *inputs = (x.to(device) for x in PARTS[name](batch))
    cast = torch.autocast(
        device, DTYPES[precision], enabled=precision != "fp32"
    )

    def infer():
        model.eval()
        with torch.no_grad(), cast:
            model(*inputs)

    def train():
        model.train()
        model.zero_grad()
        with cast:
            outputs = model(*inputs)
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        sum(x.float().square().mean() for x in outputs).backward()

    return {"inference": infer, "training step": train}


def one_pass(pass_name, *settings):
    """One of the :func:`passes`, called once already."""
    function = passes(*settings)[pass_name]
    function()
    return function


def rows(names, batch, rounds, device, precision):
    """Times and measures models; a row each."""
    table = {name: {"model": name} for name in names}
    for pass_name in ("inference", "training step"):
        settings = {name: (name, batch, device, precision) for name in names}
        functions = {n: passes(*settings[n])[pass_name] for n in names}
        seconds = median_times(functions, rounds, device)
        for name in names:
            memory = peak_memory(
                one_pass, pass_name, *settings[name], device=device
            )
            table[name][f"{pass_name}, ms a clip"] = 1e3 * seconds[name] / batch
            table[name][f"{pass_name}, GB"] = memory / 1e9
    return list(table.values())


def size_rows():
    """Counts the models on one clip of ten seconds, see ``utils/model_size.py``
    for what counts: a row each, "scan_multiply_adds" part of the total."""
    table = []
    with torch.device("meta"):
        features = torch.empty(1, FRAMES, MELS)
        for name, make_model in COUNTED.items():
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


def main(arguments=None):
    """Prints the tables."""
    parser = make_parser(
        "Prints milliseconds a clip of ten seconds and peak memory of a Mamba "
        "block (ours and mambapy's), a dual-path block, ASCMamba and SE-Trans, "
        "and parameters and multiply-adds of the models."
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(PARTS), default=list(PARTS)
    )
    parser.add_argument(
        "--batch", type=int, default=1, help="clips (default: 1)"
    )
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32")
    options = parse_arguments(parser, arguments)
    settings = options.rounds, options.device, options.precision
    print(machine(options.device))
    print(f"Batches of {options.batch}, {options.precision}.\n")
    print(markdown_table(rows(options.models, options.batch, *settings)))
    print()
    print(markdown_table(size_rows()))


if __name__ == "__main__":
    main()
