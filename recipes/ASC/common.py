"""What the scripts that take a YAML file share.

Reading the command line and the settings, refusing an output folder that is
in use, and the processes of ``torchrun``.
"""

import gc
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryFile

import speechbrain as sb
import torch

# Its functions keep the group that there is at its import as their default
# argument, for ever; DistributedDataParallel imports it. Before there is a
# group, they keep none.
import torch.distributed.nn
from filelock import FileLock, Timeout
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import if_main_process, infer_device
from speechbrain.utils.run_opts import RunOptions

from ascmamba_modules.command_line import options
from ascmamba_modules.model_folder.folder import stage_of
from ascmamba_modules.utils.files import printable, replacing

# The loading processes of a run that was killed end some seconds after it,
# and hold its lock until then.
LOCK_SECONDS = 10
# A setting of the wrong type or value fails in whatever takes it.
_WRONG = (KeyError, ValueError, TypeError, AssertionError, RuntimeError)


@contextmanager
def exit_on(*errors):
    """Ends the script with the message of such an error, no traceback."""
    try:
        yield
    except errors as error:
        text = f"{error}"
        if "Original Traceback" in text:  # of a loading process, comes last
            text = text.strip().splitlines()[-1]
        sys.exit("\n".join(map(printable, text.split("\n"))))


def parse_arguments(arguments):
    """Reads a command line as SpeechBrain's recipes do: the YAML file, the run
    options, and the settings to replace as YAML text.  Exits if an option has
    two values or misses its value, or if there is no such device here.

    Example
    -------
    >>> parse_arguments(["finetune.yaml", "--lr", "1", "--lr=2"])
    Traceback (most recent call last):
        ...
    SystemExit: --lr is given 2 times
    """
    if not arguments:
        sys.exit(
            f"usage: python {Path(sys.argv[0]).name} hparams/STAGE.yaml "
            "--manifest FILE [--SETTING VALUE ...]"
        )
    # SpeechBrain's tests of recipes repeat --debug, which has no value.
    words = [
        word.split("=")[0]
        for word, following in zip(arguments, [*arguments[1:], "--"])
        if word[:2] == "--" and ("=" in word or following[:2] != "--")
    ]
    for word, count in Counter(words).items():
        if count > 1:
            sys.exit(f"{word} is given {count} times")
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    for line in overrides.splitlines():
        if line.endswith(":"):
            sys.exit(f"--{line[:-1]} has no value")
    with exit_on(ValueError):
        check_clipping(run_opts)
    check_device(run_opts)
    return hparams_file, run_opts, overrides


def check_device(run_opts):
    """Exits unless there is the device of the run options, and it fits the
    precision."""
    device = run_opts["device"] or infer_device()
    with exit_on(options.CommandError):
        options.check_device(device)
    is_fp16 = "fp16" in (run_opts["precision"], run_opts["eval_precision"])
    if is_fp16 and device == "cpu":
        sys.exit("--precision fp16 needs a GPU: take bf16 or fp32 on the CPU")


def load_hparams(hparams_file, overrides, check=None):
    """Loads a YAML file; exits with one line if its settings cannot be used.

    ``check`` takes the settings before anything is built from them, and raises
    a ValueError for those that would fail later.
    """
    with exit_naming(hparams_file), open(hparams_file, encoding="utf-8") as f:
        check_overrides(YAML().load(f), read_overrides(overrides))
        f.seek(0)
        settings = YAML().load(resolve_references(f, overrides))
        check_output_folder(settings)
        if check:
            check(settings)
        f.seek(0)
        return load_hyperpyyaml(f, overrides)


@contextmanager
def exit_naming(hparams_file):
    """Ends the script with one line on what is wrong with a YAML file."""
    try:
        yield
    except (OSError, YAMLError) as error:
        sys.exit(f"{hparams_file}: {error}")
    except _WRONG as error:  # HyperPyYAML puts its own text before
        text = ": ".join(f"{part}".strip() for part in error.args)
        sys.exit(f"{hparams_file}: {text}")


def read_overrides(overrides):
    """The settings to replace as a dict, from a dict or YAML text.

    Example
    -------
    >>> dict(read_overrides("lr: 0.1"))
    {'lr': 0.1}
    """
    if not overrides:
        return {}
    settings = overrides
    if isinstance(overrides, str):
        settings = YAML().load(overrides)
    if not isinstance(settings, dict):
        raise ValueError(f"give settings as --NAME VALUE, not {overrides}")
    return settings


def check_overrides(settings, overrides):
    """Raises a ValueError for settings that are unknown, missing, or of
    another type than in the file.

    Example
    -------
    >>> check_overrides({"channels": 64}, {"chanels": 16})
    Traceback (most recent call last):
        ...
    ValueError: there is no setting 'chanels': did you mean --channels?
    """
    options = RunOptions().as_dict()
    for name, value in overrides.items():
        if name not in settings:
            close = get_close_matches(f"{name}", [*settings, *options], 1)
            remedy = f"did you mean --{close[0]}?" if close else "see the file"
            raise ValueError(f"there is no setting '{name}': {remedy}")
        if isinstance(settings[name], bool) and not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value}")
        if _is_number(settings[name]) and not (
            value is None or _is_number(value)
        ):
            raise ValueError(f"{name} must be a number, got {value}")
    missing = [
        f"--{name}"
        for name, value in settings.items()
        if name not in overrides and _tag(value) == "!PLACEHOLDER"
    ]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _tag(node):
    return getattr(getattr(node, "tag", None), "value", None)


def check_stage(stage, own):
    """Raises a ValueError for a YAML file that another script runs.

    Example
    -------
    >>> check_stage("finetune", "evaluate")
    Traceback (most recent call last):
        ...
    ValueError: its stage is finetune, this script runs stage evaluate
    """
    if stage != own:
        raise ValueError(f"its stage is {stage}, this script runs stage {own}")


def check_range(
    hparams, *names, low, high=float("inf"), whole=False, over=False
):
    """Raises a ValueError unless settings are numbers from ``low``, or over it,
    to ``high``, whole ones if asked for.

    Example
    -------
    >>> check_range({"rounds": 0}, "rounds", low=1, whole=True)
    Traceback (most recent call last):
        ...
    ValueError: rounds must be a whole number from 1 on, got 0
    """
    kind = "a whole number" if whole else "a number"
    bounds = (
        f"from {low} on" if high == float("inf") else f"from {low} to {high}"
    )
    bounds = f"over {low}" if over else bounds
    for name in names:
        value = hparams[name]
        is_number = _is_number(value) and (isinstance(value, int) or not whole)
        if not is_number or not low <= value <= high or over and value == low:
            raise ValueError(f"{name} must be {kind} {bounds}, got {value}")


def check_clipping(settings):
    """Raises a ValueError for a norm that leaves nothing of the gradients, or
    turns them round.

    Example
    -------
    >>> check_clipping({"max_grad_norm": 0})
    Traceback (most recent call last):
        ...
    ValueError: max_grad_norm must be a number over 0, got 0; 1e9 clips nothing
    """
    try:
        check_range(settings, "max_grad_norm", low=0, over=True)
    except ValueError as error:
        raise ValueError(f"{error}; 1e9 clips nothing") from None


def check_output_folder(settings):
    """Exits if the output folder is another stage's or cannot be written."""
    folder, stage = Path(settings["output_folder"]), settings.get("stage")
    found = stage_of(folder)
    if found not in (None, stage):
        sys.exit(
            f"{folder} is the output folder of stage {found}, this is stage "
            f"{stage}: choose another --output_folder."
        )
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        TemporaryFile(dir=place).close()
    except OSError as error:
        sys.exit(
            f"--output_folder {folder}: {place} cannot be written to "
            f"({error.strerror})"
        )


def save_settings(hparams_file, overrides, folder):
    """Writes ``hyperparams.yaml`` as ``create_experiment_directory`` does,
    but whole or not at all: resuming compares with it."""
    with open(hparams_file, encoding="utf-8") as file:
        settings = resolve_references(file, overrides).read()
    if if_main_process():
        with replacing(Path(folder, "hyperparams.yaml")) as temporary:
            head = f"# Generated {date.today()} from:\n"
            head += f"# {Path(hparams_file).absolute()}\n# yamllint disable\n"
            temporary.write_text(head + settings, "utf-8")


@contextmanager
def locked(folder):
    """Makes an output folder and keeps other runs out of it; exits if one is
    at work there, or if the folder cannot be made."""
    if not if_main_process():
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(folder, ".lock"), timeout=LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        sys.exit(f"{folder}: another run is at work there")
    except OSError as error:
        sys.exit(f"--output_folder {folder} cannot be written to: {error}")
    try:
        yield
    finally:
        lock.release()


def run_in_group(function, run_opts):
    """Calls a function with torch.distributed set up under ``torchrun``, and
    tears that down without Gloo's crash at exit.

    The threads of a Gloo group free the tensors of the last collective, which
    takes Python's global lock. A process whose interpreter is ending by then
    is aborted ("terminate called without an active exception"), and torchrun
    calls the finished training failed. So the threads have to be joined
    before, which the group does once nothing refers to it.

    After exceptions other than ``SystemExit`` the group is left alone,
    because its threads may wait for processes that do not come.
    """
    try:
        sb.utils.distributed.ddp_init_group(run_opts)
    except ValueError as error:
        sys.exit(
            f"torchrun: {' '.join(f'{error}'.split())} Without a GPU for each "
            "process pass --distributed_backend gloo."
        )
    message = None
    try:
        function()
    except SystemExit as error:
        message = error.code
    # The exception is gone, and with it the frames that hold the models.
    if torch.distributed.is_initialized():
        gc.collect()  # models that hold the group are held by cycles
        torch.distributed.destroy_process_group()
    if message is not None:
        sys.exit(message)
