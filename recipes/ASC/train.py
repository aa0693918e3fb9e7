#!/usr/bin/env python3
"""Trains a scene classifier: one stage of the recipe.

    python train.py hparams/finetune.yaml --manifest path/to/manifest.csv

Settings of the YAML file can be overridden on the command line; SpeechBrain's
run options (--device, --precision, --debug ...) work as in its own recipes.
The same command again resumes an interrupted training.
"""

import sys

from common import (
    check_overrides,
    exit_naming,
    parse_arguments,
    read_overrides,
    run_in_group,
)
from distillation import distill
from ruamel.yaml import YAML
from training import train


def main(arguments):
    """Runs from the command line."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    with exit_naming(hparams_file), open(hparams_file, encoding="utf-8") as f:
        hparams = YAML().load(f) or {}
        if "scene_labels" not in hparams:
            raise ValueError(
                "this is no training stage, it has no scene_labels"
            )
        check_overrides(hparams, read_overrides(overrides))
        run = distill if hparams.get("stage") == "distill" else train
    run_in_group(lambda: run(hparams_file, run_opts, overrides), run_opts)


if __name__ == "__main__":
    main(sys.argv[1:])
