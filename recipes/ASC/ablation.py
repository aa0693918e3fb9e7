#!/usr/bin/env python3
"""Measures what single settings are worth, where place and time play a part.

    python ablation.py results/ablation
    python ablation.py results/ablation --manifest cas.csv --split valid

Trains each system of ablation.yaml with three seeds, on the demo's synthetic
world or a manifest, and scores it with evaluate.py.  The same command again
goes on where it was.  The table has macro accuracies in per cent, their mean
and standard deviation over the seeds:

- clips of recording sessions, days and cities that training has or has not;
- all clips with places and times shuffled, moved to unseen cities, and hidden.

For recordings without place and time: compare.py --settings ablation.yaml
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
from stages import (
    RECIPE,
    Stage,
    one_line_at_the_end,
    options,
    read_systems,
    run_stages,
    training_stage,
    write_table,
)

from ascmamba_modules.evaluation.novelty import CONDITIONS
from ascmamba_modules.evaluation.tables import find_rows

SYSTEMS = RECIPE / "ablation.yaml"
TABLE = "ablation"
UNSEEN_PLACES = ["Dalian", "Kunming"]
COLUMNS = {
    "all": ("all clips", "all clips"),
    **{name: ("seen in training", name) for name in CONDITIONS},
    "shuffled": ("shuffled place and time", "100 %"),
    "moved": ("unseen places", "100 %"),
    "hidden": ("audio and metadata", "audio only"),
}


def list_world(output, clips):
    """The stages that make a synthetic world, and the manifest they leave."""
    world, manifest = output / "world", output / "world.csv"
    truth = world / "truth.csv"
    few = {"cas-clips": clips, "tau-clips": 4, "cochlscene-clips": 4}
    own = {"split": "session", "truth": truth, "output": manifest}
    make = (str(world), *options(few))
    prepare = (str(world), *options(own))
    module = "-m demo.make_corpora"
    return [
        Stage("world", "make synthetic recordings", module, make, truth),
        Stage("manifest", "list them", "prepare_cas.py", prepare, manifest),
    ], manifest


def list_systems(output, systems, manifest, split, seeds):
    """The stages that train and score each system."""
    stages = []
    for name, system in systems.items():
        models = {}
        for seed in seeds:
            folder = output / f"{name}_seed{seed}"
            models[f"seed {seed}"] = str(folder)
            own = {"manifest": manifest, "output_folder": folder, "seed": seed}
            own |= {"feature_cache": output / "features"} | system["settings"]
            title = f"{system['title']}, seed {seed}"
            given = system["hparams"], own, ["--noprogressbar"]
            stages.append(training_stage(folder.name, title, *given))
        folder = output / f"{name}_scores"
        own = {
            "models": json.dumps(models),
            "manifest": manifest,
            "split": split,
            "output_folder": folder,
            "feature_cache": output / "features",
            "cache_dtype": "float16",  # as the trainings
            "shares": "[1.0]",
            "seeds": "[1]",
            "unseen_places": json.dumps(UNSEEN_PLACES),
            "resamples": 100,
            "hardest": 0,
        }
        words = ("hparams/evaluate.yaml", *options(own))
        title = f"{system['title']}, scores"
        result = folder / "results.csv"
        stages.append(Stage(folder.name, title, "evaluate.py", words, result))
    return stages


def make_table(output, systems):
    """Makes the table of what is scored: mean and deviation by system."""
    rows = []
    for name, system in systems.items():
        results = pd.read_csv(output / f"{name}_scores" / "results.csv")
        # Without the decision tree that is scored beside the models.
        results = results[results["model"].str.startswith("seed ")]
        for column, (protocol, condition) in COLUMNS.items():
            found = find_rows(results, protocol)
            values = 100 * found["value"][found["condition"] == condition]
            row = {"system": system["title"], "clips": column}
            row |= {"mean": values.mean(), "deviation": values.std()}
            rows.append(row | {"seeds": values.count()})
    return pd.DataFrame(rows).dropna(subset="mean")


def to_lines(table):
    """The table for readers, a row a system."""
    texts = table["mean"].map("{:.1f}".format)
    spread = table["deviation"].map(" ± {:.1f}".format).replace(" ± nan", "")
    wide = table.assign(text=texts + spread)
    wide = wide.pivot(index="system", columns="clips", values="text")
    wide = wide.loc[table["system"].unique(), table["clips"].unique()]
    return [["", *wide], ["---"] * (1 + wide.shape[1]), *wide.to_records()]


def ablate(args):
    """Runs what is left, and writes the table."""
    output = Path(args.output).absolute()
    needed = ("title", "hparams")  # here each system is trained
    systems = read_systems(
        args.settings, args.systems, (*needed, "settings"), needed
    )
    stages, manifest = [], args.manifest and Path(args.manifest).absolute()
    if not manifest:
        stages, manifest = list_world(output, args.clips)
    given = systems, manifest, args.split, args.seeds
    run_stages(stages + list_systems(output, *given), output)
    table = make_table(output, systems)
    text = write_table(table, to_lines(table), output / TABLE)
    print(f"\n{text}\nIn {output / TABLE}.md and .csv")


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", help="folder for everything")
    parser.add_argument(
        "--manifest", help="labelled clips; default: a synthetic world"
    )
    parser.add_argument("--split", default="test", help="split to score")
    parser.add_argument(
        "--clips",
        type=int,
        default=640,
        help="of a scene in the synthetic world, a fifth of them labelled; an "
        "eighth as many are scored (default: %(default)s)",
    )
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--settings", default=SYSTEMS, help="another ablation.yaml"
    )
    args = parser.parse_args(arguments)
    with one_line_at_the_end():
        ablate(args)


if __name__ == "__main__":
    main(sys.argv[1:])
