"""``ascmamba export``: a trained model as one file for other runtimes."""

from ascmamba_modules.command_line.options import (
    add_subparser,
    check_output,
    load_classifier,
    positive,
)

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
_DESCRIPTION = """\
Writes a trained model as one file, ONNX or PyTorch's torch.export.

The file takes a batch of waveforms, or of log-mel features, and answers with
posteriors; its metadata says which classes, sample rate and length. It is
compared with the model before it is kept.
"""
_EXAMPLES = """\
  ascmamba export model
  ascmamba export model --input features --context vector --output box.onnx
  ascmamba export model --int8 --output phone.onnx
  ascmamba export model --format torch --seconds 10
"""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "export",
        "write a model as ONNX or torch.export",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.set_defaults(device="cpu", precision="fp32")
    parser.add_argument(
        "model", metavar="MODEL", help="model folder, or its name on a hub"
    )
    parser.add_argument(
        "--format",
        choices=list(_SUFFIXES),
        default="onnx",
        help="default: onnx",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file to write (default: model.onnx or model.pt2, here)",
    )
    parser.add_argument(
        "--input",
        choices=("waveform", "features"),
        default="waveform",
        help="what it takes: waveforms at the model's rate (default), or "
        "log-mel features in dB",
    )
    parser.add_argument(
        "--context",
        choices=("none", "vector"),
        default="none",
        help="whether place and time are unknown for good (default), or come "
        "in as a vector",
    )
    parser.add_argument(
        "--seconds",
        type=positive(float),
        help="fix the length of clips; by default any length, which models "
        "other than ASCMamba cannot have",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantise the weights to 8 bits (onnx alone)",
    )
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="run nothing of the model folder: plain settings and weights "
        "alone are read",
    )
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    suffix = _SUFFIXES[arguments.format]
    path = arguments.output or f"model{suffix}"
    check_output(path, (suffix,))
    from ascmamba_modules.export.exporter import export_model

    classifier = load_classifier(arguments)
    exported = export_model(
        classifier,
        path,
        arguments.format,
        arguments.input,
        arguments.context == "vector",
        arguments.seconds,
        arguments.int8,
    )
    size = exported.path.stat().st_size / 1e6
    print(f"{exported.path}: {size:.2f} MB")
    for name, value in exported.metadata.items():
        shown = value if len(value) < 200 else f"{value[:60]} ..."
        print(f"  {name}: {shown}")
    print(
        "Largest difference of posteriors to the model's, on noise: "
        f"{exported.difference:.1g}"
    )
    return 0
