#!/usr/bin/env python3
"""Runs the stages of the recipe in order; the same command again goes on.

    python run_all.py results/paper --tau DIR --cochlscene DIR --cas DIR
    python run_all.py results/demo --demo

Each stage is a command that can be typed by hand, and is printed.  Finished
stages are skipped; one that was interrupted goes on where it was.
"""

import argparse
import ctypes
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from demo_answers import classify_some
from filelock import FileLock, Timeout
from hyperpyyaml import load_hyperpyyaml
from train import SUMMARY

from ascmamba_modules.files import replacing, write_csv
from ascmamba_modules.model_folder import FOLDER

RECIPE = Path(__file__).resolve().parent
DEMO_SETTINGS = RECIPE / "demo.yaml"
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
        return [*(launcher or [sys.executable]), self.script, *self.arguments]


def options(settings):
    """Turns a mapping into command-line options."""
    return [
        word for key, value in settings.items() for word in (f"--{key}", value)
    ]


def list_stages(output, corpora, settings, run_options):
    """Lists the stages of the recipe.

    Arguments
    ---------
    output : Path
        The output folder.
    corpora : dict
        Folders of tau, cochlscene and cas.
    settings : dict
        Settings of each stage that differ from its YAML file's; of a stage
        whose name begins with that of another, a variant, those are added.
    run_options : list
        SpeechBrain's run options for all stages.

    Returns
    -------
    list
        The stages, in order.
    """
    pretraining, cas = output / "pretrain.csv", output / "cas.csv"

    def prepare(name, script, result, *arguments):
        more = options(settings.get(name, {}))
        arguments = (*arguments, "--output", result, *more)
        return Stage(name, script, tuple(map(str, arguments)), result)

    def train(name, hparams, manifest, **more):
        folder = output / name
        files = {"manifest": manifest, "output_folder": folder}
        arguments = options(
            {**files, **more, **settings.get("train", {})}
            | settings.get(name, {})
        )
        return Stage(
            name,
            "train.py",
            tuple(map(str, (f"hparams/{hparams}", *arguments, *run_options))),
            folder / SUMMARY,
            trains=True,
        )

    pseudo = output / "pseudo_label"
    labelling = {
        "manifest": cas,
        "output_folder": pseudo,
        "first": output / "finetune",
        "second": output / "finetune_se_trans",
        **settings.get("pseudo_label", {}),
    }
    return [
        prepare(
            "prepare_pretraining",
            "prepare_pretraining.py",
            pretraining,
            *options({k: corpora[k] for k in ("tau", "cochlscene")}),
        ),
        prepare("prepare_cas", "prepare_cas.py", cas, corpora["cas"]),
        train("pretrain", "pretrain.yaml", pretraining),
        train("baseline", "comparison/baseline.yaml", cas),
        train(
            "finetune_without_context",
            "finetune.yaml",
            cas,
            pretrained_folder=output / "pretrain",
            use_context=False,
        ),
        train(
            "finetune",
            "finetune.yaml",
            cas,
            pretrained_folder=output / "pretrain",
        ),
        train("finetune_se_trans", "finetune_se_trans.yaml", cas),
        Stage(
            "pseudo_label",
            "pseudo_label.py",
            tuple(
                map(
                    str,
                    (
                        "hparams/pseudo_label.yaml",
                        *options(labelling),
                        *run_options,
                    ),
                )
            ),
            pseudo / "manifest.csv",
        ),
        train(
            "finetune_pseudo",
            "finetune_pseudo.yaml",
            pseudo / "manifest.csv",
            pretrained_folder=output / "finetune",
        ),
    ]


def choose(stages, first, last):
    """The stages from one to another.

    Arguments
    ---------
    stages : list
        All of them.
    first, last : str or None
        Names; None for the first and the last there is.

    Returns
    -------
    list
        The stages between the two, both included.

    Raises
    ------
    ValueError
        If the second comes before the first.
    """
    names = [stage.name for stage in stages]
    start = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    if start > end:
        raise ValueError(f"--until {last} comes before --from {first}")
    return stages[start : end + 1]


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


def summarise(stages, record):
    """Makes the table of stages, scores, times and folders.

    Arguments
    ---------
    stages : list
        The stages run.
    record : dict
        Their commands and seconds.

    Returns
    -------
    pandas.DataFrame
        A row a finished stage; macro accuracies in per cent.
    """
    rows = []
    for stage in stages:
        if not stage.result.exists():
            continue
        row = {"stage": stage.name, "valid": None, "test": None}
        if stage.trains:
            scores = json.loads(stage.result.read_text())["scores"]
            row |= {k: round(100 * v, 1) for k, v in scores.items() if v}
        row["minutes"] = round(record[stage.name]["seconds"] / 60, 1)
        row["folder"] = str(stage.result.parent)
        rows.append(row)
    return pd.DataFrame(rows)


def parse(arguments):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", help="folder for everything")
    for name in ("tau", "cochlscene", "cas"):
        parser.add_argument(f"--{name}", help="the corpus as unpacked")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="on a made-up world and with a narrow model, see demo.yaml",
    )
    parser.add_argument(
        "--settings",
        help="YAML file: for each stage, settings other than its own file's",
    )
    parser.add_argument("--seed", type=int, default=1986)
    parser.add_argument("--from", dest="first", metavar="STAGE")
    parser.add_argument("--until", dest="last", metavar="STAGE")
    parser.add_argument(
        "--launcher",
        default="",
        help='starts the trainings, e.g. "torchrun --nproc_per_node=4"',
    )
    parser.add_argument(
        "--run-options",
        default="",
        help='SpeechBrain\'s, for all stages, e.g. "--precision bf16"',
    )
    args = parser.parse_args(arguments)
    missing = [n for n in ("tau", "cochlscene", "cas") if not vars(args)[n]]
    if missing and not args.demo:
        parser.error(f"--{missing[0]} is missing (or --demo)")
    return args


def main(arguments):
    """Runs from the command line."""
    args = parse(arguments)
    output = Path(args.output).absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with FileLock(output / ".lock", timeout=0):
            run(args, output)
    except Timeout:
        sys.exit(f"{output}: another run is at work there")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{error}")


def run(args, output):
    """Runs the stages asked for, and prints the table of all."""
    path = args.settings or (DEMO_SETTINGS if args.demo else None)
    settings = load_hyperpyyaml(Path(path).read_text("utf-8")) if path else {}
    settings["train"] = {
        "seed": args.seed,
        "feature_cache": output / "features",
        **settings.get("train", {}),
    }
    corpora = {name: vars(args)[name] for name in ("tau", "cochlscene", "cas")}
    stages = []
    if args.demo:
        world = output / "corpora"
        corpora = dict.fromkeys(corpora, world)
        make = [str(world), *options(settings.get("make_demo_corpora", {}))]
        stages.append(
            Stage(
                "make_demo_corpora",
                "make_demo_corpora.py",
                tuple(map(str, [*make, "--seed", args.seed])),
                world / "truth.csv",
            )
        )
        for name in ("prepare_cas", "pseudo_label"):
            settings.setdefault(name, {})["truth"] = world / "truth.csv"
    # A bar that moves is nothing for a log.
    run_options = ["--noprogressbar", *shlex.split(args.run_options)]
    stages += list_stages(output, corpora, settings, run_options)
    known = [stage.name for stage in stages]
    for name in (args.first, args.last):
        if name is not None and name not in known:
            raise ValueError(
                f"no stage '{name}'; the stages are {', '.join(known)}"
            )
    record = read_record(output)
    for stage in choose(stages, args.first, args.last):
        run_stage(stage, output, shlex.split(args.launcher), record)
    table = summarise(stages, record)
    write_csv(table, output / "stages.csv")
    shown = table.assign(folder=table["folder"].map(_short))
    shown = shown.to_string(index=False, na_rep="")
    print(f"\nMacro accuracy in per cent\n{shown}")
    print(f"\nTable: {output / 'stages.csv'}")
    for name, place in (
        ("Test report and plots", output / "finetune_pseudo" / "test"),
        ("Report on pseudo-labels", output / "pseudo_label" / "round_1"),
    ):
        if place.exists():
            print(f"{name}: {place}")
    model = output / "finetune_pseudo" / FOLDER
    if args.demo and model.exists():
        print(f"\nSome test clips, asked of {model}")
        classify_some(model, output / "cas.csv")


def _short(folder):
    here = Path.cwd()
    folder = Path(folder)
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


if __name__ == "__main__":
    main(sys.argv[1:])
