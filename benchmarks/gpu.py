"""All benchmarks on a GPU, in one report.

python benchmarks/gpu.py
python benchmarks/gpu.py --parts scan --rounds 2
"""

import importlib

from measure import make_parser

# Name: script and its options.
PARTS = {
    "scan": ("selective_scan", []),
    "model": ("model", []),
    "model, bf16": ("model", ["--precision=bf16"]),
    "classify": ("classify", []),
}


def main(arguments=None):
    """Prints the report."""
    parser = make_parser("Prints all benchmarks, by default on the GPU.")
    parser.set_defaults(device="cuda")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS)
    )
    options = parser.parse_args(arguments)
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        script, more = PARTS[part]
        given = [f"--device={options.device}", f"--rounds={options.rounds}"]
        importlib.import_module(script).main([*given, *more])


if __name__ == "__main__":
    main()
