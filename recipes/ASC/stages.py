"""Runs commands of the recipe one after another, each only once.

Finished stages are skipped when the same commands are run again, and one that
was killed resumes.  What a stage prints goes to ``logs/`` in the output folder;
on the terminal it has one line, with a progress bar while it trains.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from ascmamba_modules.utils.files import read_json, replacing, write_csv

RECIPE = Path(__file__).resolve().parent
RECORD = "stages.json"
SUMMARY = "summary.json"  # a finished training leaves it
SYSTEM_KEYS = (  # see compare.yaml
    *("title", "hparams", "model", "settings"),
    *("weights", "linear", "frozen"),
)
_LAUNCHED = ("train.py", "pseudo_label.py")


@dataclass(frozen=True)
class Stage:
    """One command of the recipe.

    Arguments
    ---------
    name : str
        Its name, also that of its folder or file in the output folder.
    title : str
        What it does, for the terminal.
    script : str
        Script of this folder.
    arguments : tuple
        Its arguments.
    result : Path
        What is there once it is finished; ``summary.json`` for a training.
    minutes : float, optional
        What it takes, about.
    """

    name: str
    title: str
    script: str
    arguments: tuple
    result: Path
    minutes: float | None = None

    @property
    def trains(self):
        """Whether it trains a model, and leaves its scores."""
        return self.result.name == SUMMARY

    @property
    def started_output(self):
        """What is there once it has begun: its folder, or the result."""
        is_folder = self.result.parent.name == self.name
        return self.result.parent if is_folder else self.result


@contextmanager
def one_line_at_the_end():
    """Ends a script with one line on what stopped it; SIGTERM does as Ctrl-C
    does, its stage with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command again goes on from here.")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{error}")


def options(settings):
    """Turns a mapping into command-line options.

    Example
    -------
    >>> options({"lr": 0.1, "f_max": None})
    ('--lr', '0.1', '--f_max', 'null')
    """
    return tuple(w for k, v in settings.items() for w in (f"--{k}", _text(v)))


def _text(value):
    # JSON writes None as YAML reads it. All else stays as it has been, for
    # the stages that were begun before.
    is_text = isinstance(value, (str, Path))
    is_changed = not is_text and "None" in str(value)
    return json.dumps(value) if is_changed else str(value)


def training_stage(name, title, hparams, settings, more=()):
    """The stage of a training, with its settings and more words."""
    words = (hparams, *options(settings), *more)
    result = Path(settings["output_folder"], SUMMARY)
    return Stage(name, title, "train.py", words, result)


def read_sections(path):
    """Reads a YAML file of sections, each a mapping; empty ones are {}.  Raises
    a ValueError for other files."""
    try:
        found = YAML(typ="safe").load(Path(path).read_text("utf-8"))
    except YAMLError as error:
        raise ValueError(f"{path}: {error}") from None
    sections = _section(path, found)
    return {k: _section(f"{path}: {k}", v) for k, v in sections.items()}


def _section(place, value):
    if not isinstance(value, (dict, type(None))):
        raise ValueError(f"{place}: must be names with values, got {value}")
    return value or {}


def check_names(place, names, known, what):
    """Raises a ValueError for a name at a place that is not a known one."""
    for name in names:
        if name not in known:
            raise ValueError(
                f"{place}: no {what} '{name}'; there are {', '.join(known)}"
            )


def read_systems(path, chosen=None, keys=SYSTEM_KEYS, needed=("title",)):
    """Reads the systems of compare.yaml or a file like it: all, or those that
    are chosen.  Raises a ValueError if one of these is not in it, or if one
    that is has other keys than ``keys`` or not those ``needed``."""
    systems = {}
    for name, section in read_sections(path).items():
        check_names(f"{path}: {name}", section, keys, "key")
        given = {k: v for k, v in section.items() if v is not None}
        for key in needed:
            if key not in given:
                raise ValueError(f"{path}: {name}: {key} is missing")
        settings = _section(f"{path}: {name}: settings", given.get("settings"))
        systems[name] = {**given, "settings": settings}
    if not systems:
        raise ValueError(f"{path}: no systems")
    check_names(path, chosen or (), systems, "system")
    return {name: systems[name] for name in chosen or systems}


def write_once(path, write):
    """Writes a file by ``write(path)``; raises a ValueError if there is another
    in its place."""
    with replacing(path) as new:
        write(new)
        if path.exists() and path.read_bytes() != new.read_bytes():
            raise ValueError(
                f"{path} was made of another manifest, or with other folds: "
                "choose another output folder"
            )


def write_table(table, lines, path):
    """Writes a table as ``.csv``, and its lines for readers as ``.md``, which
    it gives."""
    write_csv(table, path.with_suffix(".csv"))
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(text, "utf-8")
    return text


def run_stages(stages, output, launcher=(), first=None, last=None):
    """Runs the stages that are not finished, from ``first`` to ``last``.

    ``launcher`` is the command that starts trainings, such as torchrun; empty
    for Python.  Raises a ValueError for unknown names or a stage that was begun
    with other settings, a RuntimeError if a stage fails or another run is at
    work in the folder.
    """
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            raise ValueError(
                f"no stage '{name}'; the stages are {', '.join(names)}"
            )
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise ValueError(f"--until {last} comes before --from {first}")
    (output / "logs").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=0):
            for number, stage in enumerate(stages[start:end], start + 1):
                position = f"{number:>2} of {len(stages)}"
                _run_stage(stage, position, output, launcher)
    except Timeout:
        raise RuntimeError(f"{output}: another run is at work there") from None


def _run_stage(stage, position, output, launcher):
    path = output / RECORD
    record = read_json(path)
    earlier = record.get(stage.name)
    if earlier and earlier != list(stage.arguments):
        if stage.started_output.exists():
            raise ValueError(
                f"Stage {stage.name} was begun with another "
                f"{_changed(earlier, stage.arguments)}: choose another output "
                f"folder, or remove {stage.started_output}"
            )
    head = f"{position}  {stage.title}"
    if stage.result.exists():
        print(f"{head}: finished before{_scores(stage)}", flush=True)
        return
    record[stage.name] = list(stage.arguments)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2), "utf-8")
    if stage.minutes:
        head += f", about {_duration(60 * stage.minutes)}"
    log = output / "logs" / f"{stage.name}.log"
    is_launched = launcher and stage.script in _LAUNCHED
    start = [*launcher] if is_launched else [sys.executable]
    is_terminal = sys.stderr.isatty()
    print(head, end="" if not is_terminal else "\r", flush=True)
    seconds, code = _run(
        [*start, *stage.script.split(), *stage.arguments], log, head, stage
    )
    if code or not stage.result.exists():
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        print(f"{head if is_terminal else ''}: failed", flush=True)
        raise RuntimeError(
            f"{lines[-1]}\nStage {stage.name} failed (exit code {code}), its "
            f"log is {log}. The same command again goes on from here."
        )
    text = f": {_duration(seconds)}{_scores(stage)}"
    print(f"{head if is_terminal else ''}{text}", flush=True)


def _run(command, log, head, stage):
    """Runs a command in this folder; gives its seconds and exit code."""
    start = time.monotonic()
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        process = subprocess.Popen(
            command, cwd=RECIPE, stdout=file, stderr=subprocess.STDOUT
        )
        form = "{desc} {elapsed}"
        bar = tqdm(desc=head, bar_format=form, leave=False, disable=None)
        try:
            with bar:
                while process.poll() is None:
                    if stage.trains and not bar.disable:
                        _show_epochs(stage.result.parent, bar)
                    bar.refresh()
                    time.sleep(0.2)
        finally:  # this run is interrupted: the stage ends with it
            if process.poll() is None:
                process.terminate()
                process.wait()
    return time.monotonic() - start, process.returncode


def _show_epochs(folder, bar):
    """Sets a progress bar to the epochs that a training has done."""
    settings, log = folder / "hyperparams.yaml", folder / "train_log.txt"
    if bar.total is None and settings.exists():
        text = settings.read_text("utf-8")
        if found := re.search(r"^number_of_epochs: (\d+)", text, re.MULTILINE):
            bar.total = int(found[1])
            bar.bar_format = "{desc} |{bar:20}| {n} of {total} epochs {elapsed}"
    if log.exists():
        bar.n = log.read_text("utf-8").count("train loss")


def _changed(earlier, now):
    """Names of the options that two command lines differ in."""
    earlier, now = _values(earlier), _values(now)
    names = {**earlier, **now}
    changed = [n for n in names if earlier.get(n) != now.get(n)]
    return ", ".join(changed)


def _values(words):
    """Values of options, as a text, by name."""
    values, name = {}, "command"
    for word in words:
        if word.startswith("--"):
            name, _, word = word.partition("=")
        values[name] = f"{values.get(name, '')} {word}"
    return values


def _duration(seconds):
    if seconds < 50:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _scores(stage):
    """Scores of a training, as a text."""
    if not stage.trains:
        return ""
    scores = read_json(stage.result).get("scores", {})
    parts = [f"{k} {v:.3f}" for k, v in scores.items() if v is not None]
    is_distilled = "hparams/distill.yaml" in stage.arguments
    name = "explained variance" if is_distilled else "macro accuracy"
    return f", {name} {', '.join(parts)}" if parts else ""
