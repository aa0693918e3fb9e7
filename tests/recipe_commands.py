"""Running the recipe's scripts as users do, with models that are quick."""

import importlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pandas as pd
import pytest

from ascmamba_modules.data.manifest import write_manifest
from ascmamba_modules.selective_scan import interface

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "ASC"
MAMBA = (
    "hparams/finetune.yaml",
    {
        "channels": 4,
        "n_blocks": 1,
        "d_state": 2,
        "depth": 2,
        "context_size": 4,
    },
)
SE_TRANS = (
    "hparams/finetune_se_trans.yaml",
    {"se_channels": [8, 16], "n_heads": 2, "d_ffn": 16},
)
FAST = {
    "batch_size": 8,
    "lr": 0.003,
    "num_workers": 0,
    "n_mels": 16,
    "number_of_epochs": 1,
}
TWO_PROCESSES = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--nproc_per_node=2"),
)
CPU = ["--device=cpu", "--noprogressbar"]


def flags(options):
    """Command-line flags of settings."""
    return [word for k, v in options.items() for word in (f"--{k}", str(v))]


def command(stage, manifest, output, **options):
    """The command of a training stage."""
    hparams_file, small = stage
    files = {"manifest": manifest, "output_folder": output}
    options = {**small, **FAST, **files, **options}
    return ["train.py", hparams_file, *flags(options), *CPU]


def run(arguments, launcher=(sys.executable,), expect=0, folder=RECIPE):
    """Runs a command to its end; gives what it prints."""
    result = subprocess.run(
        [*launcher, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,  # else two processes that wait for each other hang
    )
    output = result.stdout + result.stderr
    assert result.returncode == expect, output[-3000:]
    return output


def run_killed(arguments, is_due, folder=RECIPE):
    """Runs a command until ``is_due()``; then kills it, and what it started."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 240
    while not is_due():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_here(arguments, expect=0, folder=RECIPE):
    """As :func:`run`, in this process: the imports take longer than a small
    training."""
    script, *words = arguments
    module = importlib.import_module(Path(script).stem)
    root, output, code = logging.getLogger(), io.StringIO(), None
    handlers, level, variables = root.handlers[:], root.level, dict(os.environ)
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        patch.chdir(folder)
        # What a training changes for the rest of its process.
        patch.setattr(sys, "excepthook", sys.excepthook)
        # pip freeze, for env.log
        name = "speechbrain.utils.logger.get_environment_description"
        patch.setattr(name, str)
        patch.setattr(interface, "_logged_choices", set())
        try:
            module.main(words)
        except SystemExit as error:
            code = error.code
            if isinstance(code, str):  # as Python does
                print(code)
                code = 1
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            os.environ.clear()
            os.environ.update(variables)
    assert (code or 0) == expect, output.getvalue()[-3000:]
    return output.getvalue()


def changed(clips, folder, **columns):
    """A manifest with other columns, in another folder."""
    table = pd.read_csv(clips, keep_default_na=False)
    table["wav"] = [str(clips.parent / wav) for wav in table["wav"]]
    for name, change in columns.items():
        table[name] = change(table[name])
    write_manifest(table, folder / "manifest.csv")
    return folder / "manifest.csv"


def epochs(output):
    """Epochs in the train log, in order."""
    log = (output / "train_log.txt").read_text()
    return [int(n) for n in re.findall(r"^epoch: (\d+)", log, re.MULTILINE)]
