"""Running commands of the recipe one after another, each only once.

A finished command is skipped when the same is run again, and one that was
killed goes on where it was, if it can.
"""

import ctypes
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ascmamba_modules.utils.files import replacing

RECIPE = Path(__file__).resolve().parent
RECORD = "stages.json"
_LAUNCHED = ("train.py", "pseudo_label.py")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


@dataclass(frozen=True)
class Stage:
    """One command of the recipe.

    Arguments
    ---------
    name : str
        Its name, also that of its folder or file in the output folder.
    script : str
        Script of this folder.
    arguments : tuple
        Its arguments.
    result : Path
        What is there once it is finished.
    trains : bool
        Whether it trains a model, and leaves a summary of its scores.
    """

    name: str
    script: str
    arguments: tuple
    result: Path
    trains: bool = False

    @property
    def left(self):
        """What there is once it has begun: a folder, or the result."""
        is_folder = self.result.parent.name == self.name
        return self.result.parent if is_folder else self.result

    def command(self, launcher=()):
        """The command line, for this Python or through a launcher."""
        launch = launcher or [sys.executable]
        return [*launch, *self.script.split(), *self.arguments]


def options(settings):
    """Turns a mapping into command-line options."""
    return [
        word for key, value in settings.items() for word in (f"--{key}", value)
    ]


def run_stage(stage, output, launcher, record):
    """Runs a stage unless it is finished.

    Arguments
    ---------
    stage : Stage
        What to run.
    output : Path
        The output folder; what the stage prints goes to ``logs/`` in it, too.
    launcher : list
        Command that starts a training, such as torchrun; empty for Python.
    record : dict
        Commands and seconds of the stages so far, by name; kept up to date.

    Raises
    ------
    ValueError
        If it was begun with another command.
    RuntimeError
        If it fails.
    """
    command = stage.command(launcher if stage.script in _LAUNCHED else ())
    begun = {"arguments": list(stage.arguments), "seconds": 0.0}
    earlier = record.get(stage.name, begun)
    if earlier["arguments"] == begun["arguments"]:
        begun = earlier
    elif stage.left.exists():
        raise ValueError(
            f"Stage {stage.name} was begun with other settings:\n"
            f"  {shlex.join(earlier['arguments'])}\n"
            f"Choose another output folder, or remove {stage.left}."
        )
    record[stage.name] = begun
    if stage.result.exists():
        print(f"== {stage.name}: finished before")
        return
    print(f"\n== {stage.name}\n$ {shlex.join(command)}", flush=True)
    log = output / "logs" / f"{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    write_record(output, record)
    start = time.time()
    code = run_and_log(command, log)
    begun["seconds"] += round(time.time() - start, 1)
    write_record(output, record)
    if code or not stage.result.exists():
        raise RuntimeError(
            f"Stage {stage.name} failed (exit code {code}). Its log: {log}\n"
            "The same command again goes on from here."
        )


def run_and_log(command, log):
    """Runs a command in this folder; shows and keeps what it prints.

    Arguments
    ---------
    command : list
        Program and arguments.
    log : Path
        File to add to.

    Returns
    -------
    int
        The exit code.
    """
    with (
        open(log, "ab") as file,
        subprocess.Popen(
            command,
            cwd=RECIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        ) as process,
    ):
        while part := process.stdout.read1():
            file.write(part)
            sys.stdout.buffer.write(part)
            sys.stdout.flush()
    return process.returncode


def _die_with_parent():
    """Else a killed run would leave a stage at work, beside the next run's."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def read_record(output):
    """What was run in an output folder."""
    path = output / RECORD
    return json.loads(path.read_text()) if path.exists() else {}


def write_record(output, record):
    """Writes what was run, whole or not at all."""
    with replacing(output / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2))
