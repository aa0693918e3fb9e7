"""All benchmarks on a GPU, in one report.

python benchmarks/gpu.py
python benchmarks/gpu.py --parts scan --rounds 2
"""

import classify
import model
import selective_scan
from common import make_parser

PARTS = {
    "scan": lambda options: selective_scan.main(options),
    "model": lambda options: model.main(options),
    "model, bf16": lambda options: model.main([*options, "--precision=bf16"]),
    "classify": lambda options: classify.main(options),
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
        PARTS[part](
            [f"--device={options.device}", f"--rounds={options.rounds}"]
        )


if __name__ == "__main__":
    main()
