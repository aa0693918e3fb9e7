"""All stages by one command, killed on the way."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from recipe_commands import run
from run_all import list_stages, main
from stages import RECIPE

TINY = """
make_demo_corpora:
    {tau-clips: 6, cochlscene-clips: 6, cas-clips: 16, seconds: 0.3}
prepare_cas:
    split: session
train: {num_workers: 0, n_mels: 16, number_of_epochs: 2, batch_size: 16}
pretrain: &tiny {channels: 4, n_blocks: 1, d_state: 2, depth: 2}
finetune: *tiny
finetune_without_context: *tiny
finetune_pseudo_without_context: *tiny
finetune_pseudo: *tiny
baseline: &narrow {se_channels: [8, 16], n_heads: 2, d_ffn: 16}
pretrain_se_trans: *narrow
finetune_se_trans: *narrow
pseudo_label: {num_workers: 0}
evaluate: {split: test, evaluation_split: test, seeds: [1], hardest: 1}
"""
TRAININGS = (
    "pretrain",
    "baseline",
    "finetune_without_context",
    "finetune",
    "pretrain_se_trans",
    "finetune_se_trans",
    "finetune_pseudo_without_context",
    "finetune_pseudo",
)
SYSTEMS = (
    "challenge baseline",
    "SE-Trans",
    "ASCMamba audio alone",
    "ASCMamba",
    "audio alone + pseudo-labels",
    "ASCMamba + pseudo-labels",
)


def test_killed_it_resumes_and_ends_with_commands(tmp_path):
    settings, output = tmp_path / "tiny.yaml", tmp_path / "out"
    settings.write_text(TINY)
    words = ["run_all.py", output, "--demo", f"--settings={settings}"]
    words += ["--run-options=--device cpu"]
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=RECIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = output / "pretrain" / "train_log.txt"
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # its stage, too
    assert process.wait() == -signal.SIGKILL

    text = run(words)
    assert text.count(": finished before") == 3
    for name in TRAININGS:
        assert (output / name / "model" / "model.safetensors").exists()
        log = (output / name / "train_log.txt").read_text()
        # Twice, where the kill came before the checkpoint.
        epochs = dict.fromkeys(re.findall(r"^epoch: \d", log, re.MULTILINE))
        assert list(epochs) == ["epoch: 1", "epoch: 2"]
        scores = json.loads((output / name / "summary.json").read_text())
        assert set(scores) == {"scores", "seconds"}
    assert (output / "evaluate" / "report.html").exists()
    assert "Traceback" not in text and "Warning" not in text
    table = text[text.index("macro accuracy  95 %") :].splitlines()
    for name, line in zip(SYSTEMS, table[1:7], strict=True):
        score = re.match(rf"{re.escape(name)} +(\S+) ", line)[1]
        assert 0 <= float(score) <= 1

    # The commands at the end can be pasted.
    commands = [line for line in text.splitlines() if " classify " in line]
    assert len(commands) == 2
    answers = run(shlex.split(commands[1]), launcher=())
    assert answers.count(".wav") == 1

    # Other settings are refused, and nothing is lost.
    settings.write_text(TINY.replace("n_mels: 16", "n_mels: 8"))
    text = run(words, expect=1)
    assert "pretrain was begun with another --n_mels" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--demo", "--until", "x"], "no stage 'x'; the stages are make_demo"),
        (["--demo", "--settings", "none.yaml"], "none.yaml"),
        (["--demo", "--settings", "pretrian: {lr: 1}"], "no stage 'pretrian'"),
        (["--demo", "--settings", "minutes: {x: 1}"], "no stage 'x'; there ar"),
        (["--demo", "--until", "x", "--settings", ""], "no stage 'x'; the sta"),
    ],
)
def test_wrong_command_lines(tmp_path, arguments, message):
    *words, last = arguments
    if words[-1] == "--settings" and not last.endswith(".yaml"):
        (tmp_path / "a.yaml").write_text(last)
        last = str(tmp_path / "a.yaml")
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path), *words, last])


def test_settings_of_one_labelling_and_of_both(tmp_path):
    corpora = dict.fromkeys(("tau", "cochlscene", "cas"), "x")
    settings = {
        "train": {"feature_cache": "x"},
        "pseudo_label": {"share": 0.5, "truth": None},
        "pseudo_label_without_context": {"share": 0.7},
    }
    stages = list_stages(tmp_path, corpora, settings, [])
    own = {stage.name: " ".join(stage.arguments) for stage in stages}
    assert "--share 0.5 --truth null" in own["pseudo_label"]
    assert "--share 0.7 --truth null" in own["pseudo_label_without_context"]


def test_corpora_must_be_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out")])
    assert "--tau is missing (or --demo)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_real_corpora_are_prepared(world, tmp_path):
    corpora = [f"--{name}={world}" for name in ("tau", "cochlscene", "cas")]
    main([str(tmp_path / "out"), *corpora, "--until=prepare_cas"])
    for name in ("pretrain.csv", "cas.csv"):
        assert (tmp_path / "out" / name).exists()
