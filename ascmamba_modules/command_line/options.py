"""Options and steps that several subcommands share."""

import argparse
import logging
import os
import sys
from pathlib import Path

ERROR = 2
SOME_FAILED = 1


class CommandError(Exception):
    """Stops the command with exit code 2 and one message.

    Example
    -------
    >>> raise CommandError("clip.wav: file not found")
    Traceback (most recent call last):
        ...
    ascmamba_modules.command_line.options.CommandError: clip.wav: file not found
    """


def add_subparser(subparsers, name, summary, description, examples):
    """Adds the parser of a subcommand; ``examples`` stand at the end of its
    ``--help``."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_options(parser, batch_size=16, default="ambience"):
    """Adds the model, and how it computes."""
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="model folder of a finished training, owner/name on the Hugging "
        "Face hub, or a model of the package, ambience or sound_tags "
        f"(default: {default}); loading a folder can run any code, see "
        "--untrusted",
    )
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="read only weights and plain settings of the model, and build "
        "only what this package knows",
    )
    parser.add_argument(
        "--device",
        help="e.g. cpu, cuda or cuda:1 (default: a GPU if there is one)",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16"],
        default="fp32",
        help="default: fp32",
    )
    parser.add_argument(
        "--batch-size",
        type=positive(int),
        default=batch_size,
        metavar="N",
        help=f"clips in a batch (default: {batch_size})",
    )


def add_metadata_options(parser):
    """Adds place and time of the recordings."""
    parser.add_argument(
        "--location",
        help="place of recordings that have none of their own, any text",
    )
    parser.add_argument(
        "--record-time",
        metavar="TIME",
        help="their time, ISO 8601, e.g. '2023-04-21 18:30:00', or a date",
    )


def add_skip_errors(parser):
    """Adds whether files that cannot be used are passed over."""
    parser.add_argument(
        "--skip-errors",
        action="store_true",
        help="report files that cannot be used and go on (exit code 1)",
    )


def add_window_options(parser, hop, hop_text):
    """Adds the windows of a long recording; ``hop`` is the default."""
    parser.add_argument(
        "--window",
        type=positive(float),
        default=10.0,
        metavar="SECONDS",
        help="length of a window, best that of the clips in training "
        "(default: 10)",
    )
    parser.add_argument(
        "--hop",
        type=positive(float),
        default=hop,
        metavar="SECONDS",
        help=f"shift from one window to the next (default: {hop_text})",
    )


def positive(number):
    """Makes an argument type: positive and finite numbers of a type."""

    def parse(text):
        value = number(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not over 0")
        return value

    parse.__name__ = number.__name__  # argparse: "invalid int value"
    return parse


def check_output(path, suffixes, inputs=()):
    """Raises a CommandError, before the work, if a result cannot be written to
    a path, or would replace an input; None is no output."""
    if path is None:
        return
    if Path(path).resolve() in [Path(name).resolve() for name in inputs]:
        raise CommandError(f"{path} is an input; name another output")
    if Path(path).suffix.lower() not in suffixes:
        raise CommandError(
            f"{path}: the name must end in {' or '.join(suffixes)}"
        )
    if os.path.isdir(path):
        raise CommandError(f"{path} is a folder; name a file")
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{folder}: no permission to write there")


def report_failed(failed, total):
    """Says how many files could not be used; gives the exit code."""
    if not failed:
        return 0
    text = f"ascmamba: {failed} of {total} files could not be used"
    print(text, file=sys.stderr)
    return SOME_FAILED


def process_share():
    """Tells which of several processes under torchrun this is, and how many
    there are: 0 and 1 without torchrun, whatever else may have left in the
    environment."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def check_device(device):
    """Raises a CommandError unless PyTorch can compute on a device."""
    import torch

    try:
        torch.device(device)
    except RuntimeError:
        raise CommandError(
            f"--device {device} is no device: take cpu, cuda or cuda:1"
        ) from None
    try:
        torch.empty(0, device=device).cpu()  # "meta" computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = f"{error}".splitlines()[0]
        raise CommandError(
            f"--device {device} cannot be used here, take cpu: {reason}"
        ) from None


def load_classifier(arguments):
    """Loads the model that the options of :func:`add_model_options` name;
    raises a CommandError with the reason if it cannot be loaded."""
    log_to_stderr()
    from ascmamba_modules.inference.classifier import (
        DEFAULT_MODEL,
        SceneClassifier,
    )

    run_opts = {"precision": arguments.precision}
    if arguments.device is not None:
        check_device(arguments.device)
        run_opts["device"] = arguments.device
        if arguments.device == "cuda" and process_share()[1] > 1:
            run_opts["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        classifier = SceneClassifier.from_hparams(
            arguments.model,
            trusted=not arguments.untrusted,
            run_opts=run_opts,
        )
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(f"--model: {error}")
    arguments.model = arguments.model or DEFAULT_MODEL
    return classifier


def log_to_stderr():
    """Shows what this package logs, and of others the warnings."""

    def is_shown(record):
        ours = record.name.startswith("ascmamba_modules")
        return ours or record.levelno >= logging.WARNING

    handler = logging.StreamHandler()
    # SpeechBrain's loggers have a level each, so that its own does nothing.
    handler.addFilter(is_shown)
    logging.basicConfig(format="%(message)s", handlers=[handler])
