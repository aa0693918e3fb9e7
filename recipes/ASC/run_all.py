#!/usr/bin/env python3
"""Runs the stages of the recipe in order; the same command again goes on.

    python run_all.py results/paper --tau DIR --cochlscene DIR --cas DIR
    python run_all.py results/demo --demo

Finished stages are skipped, one that was interrupted resumes.  The output
folder has in ``logs/`` what each stage prints, after the command that runs it.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

import pandas as pd
from corpus import unified_scenes
from stages import (
    RECIPE,
    SUMMARY,
    Stage,
    check_names,
    one_line_at_the_end,
    options,
    read_sections,
    run_stages,
)

DEMO_SETTINGS = RECIPE / "demo.yaml"


def list_stages(output, corpora, settings, run_options):
    """Lists the stages of the recipe.

    Arguments
    ---------
    output : Path
        The output folder.
    corpora : dict
        Folders of tau, cochlscene and cas; None for the demo.
    settings : dict
        Settings of each stage that differ from its YAML file's; "train"
        stands for all trainings, "minutes" has what each stage takes.
    run_options : list
        SpeechBrain's run options for all stages.

    Returns
    -------
    list
        The stages, in order.
    """
    minutes = settings.get("minutes", {})
    pretraining, cas = output / "pretrain.csv", output / "cas.csv"

    def stage(name, title, script, result, *arguments):
        words = tuple(map(str, arguments))
        return Stage(name, title, script, words, result, minutes.get(name))

    def prepare(name, title, result, *arguments):
        more = options(settings.get(name, {}))
        words = (*arguments, "--output", result, *more)
        return stage(name, title, f"{name}.py", result, *words)

    def train(name, title, hparams, manifest, **more):
        folder = output / name
        own = options(
            {"manifest": manifest, "output_folder": folder}
            | more
            | settings["train"]
            | settings.get(name, {})
        )
        words = (f"hparams/{hparams}.yaml", *own, *run_options)
        return stage(name, title, "train.py", folder / SUMMARY, *words)

    def ask(name, title, script, result, **files):
        own = options(
            {"output_folder": output / name, **files}
            | settings.get(script, {})
            | settings.get(name, {})
        )
        words = (f"hparams/{script}.yaml", *own, *run_options)
        return stage(name, title, f"{script}.py", result, *words)

    def finetune_again(suffix, title, **more):
        """Stages 3 and 4 of an ASCMamba."""
        first, name = output / f"finetune{suffix}", f"pseudo_label{suffix}"
        manifest = output / name / "manifest.csv"
        return [
            ask(
                *(name, f"label the unlabelled clips{title}"),
                *("pseudo_label", manifest),
                manifest=cas,
                first=first,
                second=output / "finetune_se_trans",
            ),
            train(
                *(f"finetune_pseudo{suffix}", f"train on the labels{title}"),
                *("finetune_pseudo", manifest),
                pretrained_folder=first,
                **more,
            ),
        ]

    stages = []
    if corpora is None:
        world = output / "corpora"
        corpora = dict.fromkeys(("tau", "cochlscene", "cas"), world)
        truth = world / "truth.csv"
        for name in ("prepare_cas", "pseudo_label"):
            settings.setdefault(name, {})["truth"] = truth
        make = "make_demo_corpora"
        own = {"seed": settings["train"]["seed"]} | settings.get(make, {})
        stages = [
            stage(
                *(make, "make synthetic recordings", "-m demo.make_corpora"),
                *(truth, world, *options(own)),
            )
        ]
    tau_and_cochlscene = {k: corpora[k] for k in ("tau", "cochlscene")}
    stages += [
        prepare(
            *("prepare_pretraining", "list the clips of TAU and CochlScene"),
            *(pretraining, *options(tau_and_cochlscene)),
        ),
        prepare("prepare_cas", "list the clips of CAS", cas, corpora["cas"]),
        train("pretrain", "pre-train ASCMamba", "pretrain", pretraining),
        train(
            *("baseline", "train the challenge's baseline"),
            *("comparison/baseline", cas),
        ),
        train(
            *("finetune_without_context", "train ASCMamba on audio alone"),
            *("finetune", cas),
            pretrained_folder=output / "pretrain",
            use_context=False,
        ),
        train(
            *("finetune", "train ASCMamba with place and time"),
            *("finetune", cas),
            pretrained_folder=output / "pretrain",
        ),
        train(
            *("pretrain_se_trans", "pre-train SE-Trans"),
            *("finetune_se_trans", pretraining),
            scene_labels=sorted(set(unified_scenes()["unified"]) - {""}),
        ),
        train(
            *("finetune_se_trans", "train SE-Trans"),
            *("finetune_se_trans", cas),
            pretrained_folder=output / "pretrain_se_trans",
        ),
        # What won the challenge (Table 4), then the model of all of the paper.
        *finetune_again(
            "_without_context", ", on audio alone", use_context=False
        ),
        *finetune_again("", ""),
    ]
    systems = {
        "challenge baseline": "baseline",
        "SE-Trans": "finetune_se_trans",
        "ASCMamba audio alone": "finetune_without_context",
        "ASCMamba": "finetune",
        "audio alone + pseudo-labels": "finetune_pseudo_without_context",
        "ASCMamba + pseudo-labels": "finetune_pseudo",
    }
    models = {name: str(output / stage) for name, stage in systems.items()}
    evaluation = {
        "manifest": cas,
        "models": json.dumps(models),  # YAML reads JSON
        "split": "valid",
        "evaluation_manifest": cas,
        "feature_cache": settings["train"]["feature_cache"],
        "cache_dtype": "float16",  # as the trainings
    }
    report = output / "evaluate" / "report.html"
    name = "evaluate"
    return [*stages, ask(name, "compare them", name, report, **evaluation)]


def print_results(output):
    """Prints the scores of the evaluation, and where to read on."""
    results = pd.read_csv(output / "evaluate" / "results.csv")
    results = results[results["metric"] == "macro_accuracy"]
    results = results.set_index("model")
    whole = results[results["protocol"] == "all clips"]
    table = whole[["value", "lower", "upper"]]
    table.columns = ["macro accuracy", "95 % from", "to"]
    for condition in ("unseen session", "unseen city"):
        rows = results[results["condition"] == condition]
        table = table.join(rows["value"].rename(condition))
    table = table[table.index.isin(whole.index)].dropna(axis=1, how="all")
    text = table.rename_axis(None).to_string(float_format="{:.3f}".format)
    print(f"\n{text}\n\nReport: {shown(output / 'evaluate' / 'report.html')}")


def print_commands(output):
    """Prints commands that classify clips of the demo with its last model."""
    command = shown(Path(sys.executable).with_name("ascmamba"))
    model = shown(output / "finetune_pseudo" / "model")
    clips = pd.read_csv(output / "cas.csv", keep_default_na=False)
    clip = clips[clips["split"] == "test"].iloc[0]
    clip_words = [shown(clip["wav"]), "--location", clip["location"]]
    print("\nClassify recordings with the last model, here clips of the demo:")
    for words in (
        [shown(Path(clip["wav"]).parent)],
        [*clip_words, "--record-time", clip["record_time"]],
    ):
        print(
            f"  {shlex.join([command, 'classify', *words, '--model', model])}"
        )


def shown(path):
    """A path from here if it lies below, else in full."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


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
        help="on synthetic corpora and with narrow models, see demo.yaml",
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


def run(args):
    """Runs the stages asked for; prints the results once there are all."""
    output = Path(args.output).absolute()
    path = args.settings or (DEMO_SETTINGS if args.demo else None)
    settings = read_sections(path) if path else {}
    settings["train"] = {
        "seed": args.seed,
        "feature_cache": output / "features",
        **settings.get("train", {}),
    }
    corpora = None
    if not args.demo:
        names = ("tau", "cochlscene", "cas")
        corpora = {name: os.path.abspath(vars(args)[name]) for name in names}
    # No progress bars: what the stages print goes to a file.
    run_options = ["--noprogressbar", *shlex.split(args.run_options)]
    stages = list_stages(output, corpora, settings, run_options)
    names = [*(stage.name for stage in stages), "train", "minutes"]
    given = [*settings, *settings.get("minutes", {})]
    check_names(path, given, names, "stage")
    launcher = shlex.split(args.launcher)
    run_stages(stages, output, launcher, args.first, args.last)
    if stages[-1].result.exists():
        print_results(output)
        if args.demo:
            print_commands(output)


def main(arguments):
    """Runs from the command line."""
    args = parse(arguments)
    with one_line_at_the_end():
        run(args)


if __name__ == "__main__":
    main(sys.argv[1:])
