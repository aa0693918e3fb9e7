"""Commands killed with SIGKILL as they write a file leave nothing false: run
again, they end in what an uninterrupted run does."""

import multiprocessing
import os
import re
import signal
import sys

import numpy as np
import pytest
import torch
from demo.make_corpora import make_demo_corpora
from demo_set import make_demo_set
from recipe_commands import CPU, MAMBA, SE_TRANS, command, flags, run_here

from ascmamba_modules.data.manifest import write_manifest
from ascmamba_modules.encoders.mobilenet import MobileNet

KILLS = int(os.environ.get("ASCMAMBA_KILLS", 3))  # of each command
# Logs, times of day, and the path of the output folder are in these.
OTHERS = r"\.(log|svg|png|html|lock)$|^\.|^(log|env|hyperp|config|READ|summary)"
TEACHER = {"teacher_width": 0.1, "teacher_size": 96, "rounds": 2}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The arguments of each command, without its output."""
    folder = tmp_path_factory.mktemp("inputs")
    make_demo_corpora(folder / "world", 6, 6, 30, seconds=0.2)
    table = make_demo_set(folder, clips_per_scene=6, seconds=0.5)
    unlabelled = table.index[table["split"] == "train"][::2]
    write_manifest(table, folder / "labelled.csv")
    table.loc[unlabelled, ["split", "scene_label"]] = ""
    write_manifest(table, folder / "manifest.csv")
    torch.manual_seed(0)
    teacher = MobileNet(width=0.1, n_tags=527).state_dict()
    torch.save(teacher, folder / "teacher.pt")
    one, two = folder / "one", folder / "two"
    run_here(command(MAMBA, folder / "labelled.csv", one))
    run_here(command(SE_TRANS, folder / "labelled.csv", two))
    quick = {"manifest": folder / "manifest.csv", "num_workers": 0}
    models = {"models": f"{{one: {one}, two: {two}}}", "split": "valid"}
    few = {"seeds": "[1]", "hardest": 1}
    student = {"mixture_length": 0.5, "number_of_epochs": 2, "batch_size": 8}
    student |= {"teacher": folder / "teacher.pt", **TEACHER, **MAMBA[1]}
    return {
        "prepare_cas": ["prepare_cas.py", str(folder / "world")],
        "pseudo_label": ["pseudo_label.py", "hparams/pseudo_label.yaml"]
        + flags({**quick, "first": one, "second": two})
        + CPU,
        "evaluate": ["evaluate.py", "hparams/evaluate.yaml"]
        + flags({**quick, **models, **few})
        + CPU,
        "distill": ["train.py", "hparams/distill.yaml"]
        + flags({**quick, **student, "n_mels": 16})
        + CPU,
    }


def run_killed(arguments, output, at=None):
    """Runs a command in a process of its own, which is killed as it opens
    file number ``at`` for writing, or renames it; gives its exit code and how
    many it has written."""
    count = multiprocessing.get_context("fork").Value("i", 0)

    def watch(event, values):
        writes = event == "os.rename"
        if event == "open":
            writes = values[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and str(values[0]).startswith(str(output)):
            count.value += 1
            if count.value == at:
                os.kill(os.getpid(), signal.SIGKILL)

    def target():
        sys.addaudithook(watch)
        run_here(arguments)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join()
    return process.exitcode, count.value


def contents(output):
    """What the command is for, by file."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and not re.search(OTHERS, path.name)
        and "save" not in path.parts
    }


@pytest.mark.parametrize(
    "name", ["prepare_cas", "pseudo_label", "evaluate", "distill"]
)
def test_killed_command_ends_in_the_same(commands, tmp_path, name):
    def words(output):
        if name == "prepare_cas":
            return [*commands[name], "--output", str(output / "cas.csv")]
        return [*commands[name], f"--output_folder={output}"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, writes = run_killed(words(whole), whole)
    assert code == 0
    moments = np.linspace(1, writes, KILLS).astype(int)
    codes = [run_killed(words(killed), killed, at)[0] for at in moments]
    # What is finished is not written again, so that the last may end.
    assert codes[0] == -signal.SIGKILL and {*codes} <= {0, -signal.SIGKILL}
    run_here(words(killed))
    expected, found = contents(whole), contents(killed)
    assert found.keys() == expected.keys() and len(found) > 0
    assert [n for n in expected if found[n] != expected[n]] == []
