#!/usr/bin/env python3
"""Runs the stages of the recipe in order; the same command again goes on.

    python run_all.py results/paper --tau DIR --cochlscene DIR --cas DIR
    python run_all.py results/demo --demo

Each stage is a command that can be typed by hand, and is printed.  Finished
stages are skipped; one that was interrupted goes on where it was.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import pandas as pd
from common import SUMMARY
from filelock import FileLock, Timeout
from hyperpyyaml import load_hyperpyyaml
from stages import RECIPE, Stage, options, read_record, run_stage

from ascmamba_modules.utils.files import write_csv

DEMO_SETTINGS = RECIPE / "demo.yaml"


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

    def ask(name, files, result):
        arguments = options(files | settings.get(name, {}))
        arguments = (f"hparams/{name}.yaml", *arguments, *run_options)
        return Stage(name, f"{name}.py", tuple(map(str, arguments)), result)

    pseudo = output / "pseudo_label"
    labelling = {
        "manifest": cas,
        "output_folder": pseudo,
        "first": output / "finetune",
        "second": output / "finetune_se_trans",
    }
    stages = [
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
        ask("pseudo_label", labelling, pseudo / "manifest.csv"),
        train(
            "finetune_pseudo",
            "finetune_pseudo.yaml",
            pseudo / "manifest.csv",
            pretrained_folder=output / "finetune",
        ),
    ]
    trained = {s.name: s for s in stages if s.trains and s.name != "pretrain"}
    scoring = {
        # YAML reads JSON.
        "models": json.dumps(
            {name: str(stage.result.parent) for name, stage in trained.items()}
        ),
        "manifest": cas,
        "split": "valid",
        "evaluation_manifest": cas,
        "output_folder": output / "evaluate",
        "feature_cache": settings["train"]["feature_cache"],
        "cache_dtype": "float16",  # as the trainings
    }
    return [
        *stages,
        ask("evaluate", scoring, output / "evaluate" / "report.html"),
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
                "-m demo.make_corpora",
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
        ("Evaluation, for a browser", output / "evaluate" / "report.html"),
    ):
        if place.exists():
            print(f"{name}: {place}")


def _short(folder):
    here = Path.cwd()
    folder = Path(folder)
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


if __name__ == "__main__":
    main(sys.argv[1:])
