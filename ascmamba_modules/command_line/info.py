"""``ascmamba info``: what a model folder says of itself, without running it."""

import json
import sys

from ascmamba_modules.command_line.options import add_subparser
from ascmamba_modules.model_folder.card import UNKNOWN, card_licence, facts
from ascmamba_modules.model_folder.config import find_model, read_config

_DESCRIPTION = """\
Shows a model's classes, size, training data, scores, licences and settings.

Only config.json and the card are read, and nothing of the folder runs: safe
for folders of any origin. (Loading a model does run what its hyperparams.yaml
names, unless it is loaded as untrusted.)
"""
_EXAMPLES = """\
  ascmamba info results/finetune/1986/model
  ascmamba info model --json | python -m json.tool
  ascmamba info model --limits dcase   # exit code 1 if the model is larger
"""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "info",
        "show what a model is, without running it",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="model folder, or a model of the package"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of text"
    )
    parser.add_argument(
        "--limits",
        choices=["dcase"],
        help="load the model and check it against the limits of DCASE Task 1, "
        "128 kB of weights and 30 M multiply-adds a second of audio",
    )
    parser.add_argument(
        "--weights",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="what --limits takes the weights to be stored in (default: fp32)",
    )
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    config = read_config(arguments.model)
    licence = card_licence(find_model(arguments.model)) or UNKNOWN
    try:
        lines = {**facts(config), "licence of the weights": licence}
        width = max(map(len, lines))
        text = "\n".join(f"{k:<{width}}  {v}" for k, v in lines.items())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{arguments.model}: its config.json is not as this package "
            f"writes it ({type(error).__name__}: {error})."
        ) from None
    if arguments.json:
        text = json.dumps({**config, "license": licence}, indent=2)
    # Control characters of an unknown origin would steer the terminal.
    print("".join(c if c.isprintable() or c == "\n" else "?" for c in text))
    return _check_limits(arguments) if arguments.limits else 0


def _check_limits(arguments):
    from ascmamba_modules.inference import SceneClassifier
    from ascmamba_modules.utils.model_size import check_limits

    classifier = SceneClassifier.from_hparams(arguments.model, trusted=False)
    fits, text = check_limits(classifier, arguments.limits, arguments.weights)
    print(text, file=sys.stderr)
    return 0 if fits else 1
