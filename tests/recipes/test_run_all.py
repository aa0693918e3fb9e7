"""All stages by one command, killed in each of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from run_all import choose, main
from stages import RECIPE, Stage

TINY = """
prepare_cas:
    split: session
train: {num_workers: 0, n_mels: 16, number_of_epochs: 2, batch_size: 16}
pretrain: &tiny {channels: 4, n_blocks: 1, d_state: 2, depth: 2}
finetune: *tiny
finetune_without_context: *tiny
finetune_pseudo: *tiny
baseline: &narrow {se_channels: [8, 16], n_heads: 2, d_ffn: 16}
finetune_se_trans: *narrow
pseudo_label: {num_workers: 0}
evaluate: {seeds: [1], hardest: 1}
"""
STAGES = [
    "prepare_pretraining",
    "prepare_cas",
    "pretrain",
    "baseline",
    "finetune_without_context",
    "finetune",
    "finetune_se_trans",
    "pseudo_label",
    "finetune_pseudo",
    "evaluate",
]


def begin(output, world, settings, *more):
    """Starts the command; what it prints can be read line by line."""
    corpora = [f"--{name}={world}" for name in ("tau", "cochlscene", "cas")]
    return subprocess.Popen(
        [sys.executable, RECIPE / "run_all.py", output, *corpora]
        + [f"--settings={settings}", "--run-options=--device cpu", *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(output):
    """Command lines of the processes at work in an output folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text()
        except OSError:  # it has ended meanwhile
            continue
        if f"{output}/" in line:
            lines.append(line)
    return lines


def test_killed_in_each_stage_it_ends_with_all_complete(world, tmp_path):
    settings, output = tmp_path / "tiny.yaml", tmp_path / "out"
    settings.write_text(TINY)
    finished = set()
    for number, name in enumerate(STAGES):
        process = begin(output, world, settings)
        for line in process.stdout:
            if line.startswith(f"== {name}"):
                break
            if line.strip().endswith(": finished before"):
                finished.add(line.split()[1].strip(":"))
        assert name not in finished
        time.sleep(0.2 + number % 4)  # before, in, or after its epochs
        process.kill()
        process.wait()
        process.stdout.close()
        # The stage dies with it: a second one would write beside it.
        deadline = time.time() + 20
        while processes_of(output) and time.time() < deadline:
            time.sleep(0.05)
        assert not processes_of(output)

    process = begin(output, world, settings)
    text, _ = process.communicate()
    assert process.returncode == 0, text[-3000:]
    table = pd.read_csv(output / "stages.csv")
    assert table["stage"].tolist() == STAGES
    trained = table["valid"].notna()
    assert trained.sum() == 5  # pre-training has no validation clips
    assert "Macro accuracy in per cent" in text
    for name in STAGES[2:7] + STAGES[8:9]:
        assert (output / name / "model" / "model.safetensors").exists()
        log = (output / name / "train_log.txt").read_text()
        epochs = [line.split(",")[0] for line in log.splitlines()]
        assert epochs[:2] == ["epoch: 1", "epoch: 2"]
        summary = json.loads((output / name / "summary.json").read_text())
        assert set(summary) == {"scores", "seconds"}

    assert (output / "evaluate" / "report.html").exists()

    # Once more: nothing is left to do.
    process = begin(output, world, settings)
    text, _ = process.communicate()
    assert text.count(": finished before") == len(STAGES)

    # Other settings are refused, and nothing is lost.
    settings.write_text(TINY.replace("n_mels: 16", "n_mels: 8"))
    process = begin(output, world, settings)
    text, _ = process.communicate()
    assert process.returncode == 1
    assert "pretrain was begun with other settings" in text


def test_failing_stage_is_named_with_its_log(world, tmp_path):
    settings, output = tmp_path / "tiny.yaml", tmp_path / "out"
    settings.write_text("prepare_cas: {max-problems: many}")
    process = begin(output, world, settings, "--until=prepare_cas")
    text, _ = process.communicate()
    assert process.returncode == 1
    assert "Stage prepare_cas failed (exit code 2)" in text
    log = output / "logs" / "prepare_cas.log"
    assert str(log) in text and "max-problems" in log.read_text()
    assert (output / "pretrain.csv").exists()


def test_two_at_once_are_refused(world, tmp_path):
    settings, output = tmp_path / "tiny.yaml", tmp_path / "out"
    settings.write_text(TINY)
    first = begin(output, world, settings, "--until=prepare_pretraining")
    assert first.stdout.readline()
    while not (output / "stages.json").exists():
        time.sleep(0.01)
    second = begin(output, world, settings)
    text, _ = second.communicate()
    first.communicate()
    assert "another run is at work there" in text
    assert second.returncode == 1 and first.returncode == 0


def test_stages_are_chosen_by_name(tmp_path):
    stages = [Stage(name, "x.py", (), tmp_path) for name in "abcd"]
    names = [stage.name for stage in choose(stages, "b", "c")]
    assert names == ["b", "c"]
    assert choose(stages, None, None) == stages
    with pytest.raises(ValueError, match="--until a comes before --from b"):
        choose(stages, "b", "a")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--demo", "--until", "x"], "no stage 'x'; the stages are make_demo"),
        (["--demo", "--settings", "none.yaml"], "none.yaml"),
    ],
)
def test_wrong_command_lines(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path), *arguments])


def test_corpora_must_be_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out")])
    assert "--tau is missing (or --demo)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interrupt_signal_ends_the_stage_too(world, tmp_path):
    settings, output = tmp_path / "tiny.yaml", tmp_path / "out"
    settings.write_text(TINY)
    process = begin(output, world, settings)
    for line in process.stdout:
        if line.startswith("== prepare_pretraining"):
            break
    process.send_signal(signal.SIGTERM)
    process.wait()
    process.stdout.close()
    deadline = time.time() + 20
    while processes_of(output) and time.time() < deadline:
        time.sleep(0.05)
    assert not processes_of(output)
