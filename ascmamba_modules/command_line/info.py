"""``ascmamba info``: what a model folder says of itself, without running it."""

import json
import sys
from pathlib import Path

from ascmamba_modules.command_line.options import add_subparser
from ascmamba_modules.model_folder.card import (
    DATA_LICENCES,
    UNKNOWN,
    all_datasets,
    card_licence,
)
from ascmamba_modules.model_folder.settings import read_settings

_DESCRIPTION = """\
Shows a model's classes, size, settings, training data, scores and licences.

Only settings.json and the card are read, and nothing of the folder runs: safe
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
    parser.add_argument("model", metavar="MODEL", help="model folder")
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
    try:
        information = describe(arguments.model)
        text = _text(information)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{arguments.model}: its settings are not as this package writes "
            f"them ({type(error).__name__}: {error})."
        ) from None
    if arguments.json:
        text = json.dumps(information, indent=2)
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


def describe(folder):
    """Sums up a model folder.

    Arguments
    ---------
    folder : str or Path
        The model folder.

    Returns
    -------
    dict
        Its plain settings, its "megabytes" on disk, the "data_licences" of
        the data sets trained on and the "licence" of the weights that the
        card states, None without any.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`ascmamba_modules.model_folder.settings.read_settings`.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    training = settings.get("training")
    names = all_datasets(training) if training else {}
    sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
    return {
        **settings,
        "megabytes": round(sum(sizes) / 1e6, 3),
        "licence": card_licence(folder),
        "data_licences": {k: DATA_LICENCES.get(k, UNKNOWN) for k in names},
    }


def _text(information):
    parts, training = information["parts"], information.get("training")
    lines = [
        ("format version", information["format_version"]),
        ("classes", ", ".join(information["classes"])),
        (
            "size",
            f"{information.get('parameters', 0):,} parameters, "
            f"{information['megabytes']:.2f} MB on disk",
        ),
        ("place and time", "used" if "tokenizer" in parts else "not used"),
    ]
    lines += [
        (name, _part_text(parts[name]))
        for name in ("features", "context_encoder", "model")
        if name in parts
    ]
    lines += _training_lines(training)
    lines += [
        (f"licence of {name}", text)
        for name, text in information["data_licences"].items()
    ]
    lines.append(("licence of weights", information["licence"] or "not known"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _part_text(part):
    arguments = part.get("arguments", {})
    text = ", ".join(
        f"{k}={_part_text(v) if isinstance(v, dict) else v}"
        for k, v in arguments.items()
    )
    name = part.get("class") or part.get("tag") or "?"
    return f"{name.rpartition('.')[2]}({text})"


def _training_lines(training):
    if not training:
        return [("training", "not known")]
    lines = [("stage", training["stage"]), ("manifest", training["manifest"])]
    for split, counts in training["clips"].items():
        score = training["scores"].get(split)
        text = f"{sum(counts.values())} clips"
        if score is not None:
            text += f", macro accuracy {100 * score:.1f} %"
        if split in training["sessions_seen"]:
            seen = 100 * training["sessions_seen"][split]
            text += f", {seen:.1f} % of them from sessions in training"
        lines.append((split, text))
    counts = ", ".join(f"{k} ({v})" for k, v in training["datasets"].items())
    lines.append(("data sets", counts))
    if training["started_from"]:
        earlier = training["started_from"]
        lines.append(
            ("started from", f"{earlier['stage']}, on {earlier['manifest']}")
        )
    values = ", ".join(f"{k} {v}" for k, v in training["settings"].items())
    lines.append(("settings", values))
    return lines
