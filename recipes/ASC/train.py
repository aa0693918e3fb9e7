#!/usr/bin/env python3
"""Trains a scene classifier: one stage of the recipe.

    python train.py hparams/finetune.yaml --manifest path/to/manifest.csv

Settings of the YAML file can be overridden on the command line; SpeechBrain's
run options (--device, --precision, --debug ...) work as in its own recipes.
The same command again resumes an interrupted training.
"""

import sys

from common import parse_arguments, run_in_group
from training import train


def main(arguments):
    """Runs from the command line."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    run_in_group(lambda: train(hparams_file, run_opts, overrides), run_opts)


if __name__ == "__main__":
    main(sys.argv[1:])
