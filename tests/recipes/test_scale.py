"""Accumulated gradients, and two processes: commands on small clips."""

import sys
from pathlib import Path

import pytest
from recipe_commands import (
    MAMBA,
    RECIPE,
    TWO_PROCESSES,
    changed,
    command,
    epochs,
    run,
    run_here,
)
from safetensors.torch import load_file

from ascmamba_modules.brain import SceneBrain

ONE = (sys.executable,)
# Nothing random, and plain steps: Adam makes much of rounding errors where a
# gradient is nearly zero.
STEADY = {
    "dropout": 0.0,
    "metadata_dropout": 0.0,
    "metadata_swap": 0.0,
    "opt_class": "!name:torch.optim.SGD {lr: 0.001}",
    "max_grad_norm": 1e9,  # clipping would hide gradients of another size
    "scan_engine": "torch",
    "norm": "instance",
    "augment_prob": 0.0,
}


def weights(output):
    """The weights of a finished stage, by name."""
    return {
        (part, name): value
        for part in ("model", "context_encoder")
        for name, value in load_file(
            output / f"model/{part}.safetensors"
        ).items()
    }


def distance(first, second):
    """Largest difference between weights."""
    assert first.keys() == second.keys()
    return max((first[k] - second[k]).abs().max().item() for k in first)


@pytest.fixture(scope="module")
def start(clips, tmp_path_factory):
    """A finished stage 2 whose norms are those of instances: statistics over
    a batch would differ between batches of another size."""
    output = tmp_path_factory.mktemp("start")
    run_here(command(MAMBA, clips, output, norm="instance"))
    return output


@pytest.fixture
def float64(start, monkeypatch):
    """Trains in double precision, in which rounding is out of the question:
    the gradient of the first convolution is a small difference of large
    numbers, since a norm follows it."""
    fit_start, compute_features = (
        SceneBrain.on_fit_start,
        SceneBrain.compute_features,
    )

    def on_fit_start(brain):
        for name in ("model", "context_encoder"):
            brain.modules[name].double()
        fit_start(brain)

    def double_features(brain, batch):
        features, lengths = compute_features(brain, batch)
        return features.double(), lengths

    monkeypatch.setattr(SceneBrain, "on_fit_start", on_fit_start)
    monkeypatch.setattr(SceneBrain, "compute_features", double_features)


def test_accumulation_keeps_the_effective_batch(
    start, clips, tmp_path, float64
):
    """4 x 2 clips a step are 8 clips a step.

    The statistics of the features are those of an earlier stage: else a
    smaller batch would see other ones in the first epoch.
    """
    steps = {"whole": {"batch_size": 8}, "half": {"batch_size": 4}}
    steps["accumulated"] = {"batch_size": 4, "grad_accumulation_factor": 2}
    found = {"start": weights(start)}
    for name, options in steps.items():
        options = {**STEADY, **options, "pretrained_folder": start}
        run_here(command(MAMBA, clips, tmp_path / name, **options))
        found[name] = weights(tmp_path / name)
    moved = distance(found["whole"], found["start"])
    assert moved > 1e-4
    assert distance(found["accumulated"], found["whole"]) < 1e-6 * moved
    assert distance(found["half"], found["whole"]) > 0.1 * moved


def test_checkpoints_of_another_number_of_processes(clips, tmp_path):
    """Training goes on with the weights: without a learning rate they stay,
    and of another seed they would be others."""
    found = []
    for epoch, launcher in enumerate([TWO_PROCESSES, ONE, TWO_PROCESSES], 1):
        words = command(
            *(MAMBA, clips, tmp_path),
            number_of_epochs=epoch,
            lr=0.0,
            lr_final=0.0,
            seed=epoch,
            distributed_backend="gloo",
        )
        # Of a finished training the seed may not change.
        (tmp_path / "summary.json").unlink(missing_ok=True)
        run(words, launcher)
        assert epochs(tmp_path) == list(range(1, epoch + 1))
        # Without statistics, and the classifier, which is calibrated.
        kept = weights(tmp_path).items()
        changing = ("running_", "classifier")
        found.append(
            {k: v for k, v in kept if not any(x in k[1] for x in changing)}
        )
    assert distance(*found[:2]) == distance(*found[1:]) == 0


def test_parameters_without_gradient_in_two_processes(clips, tmp_path):
    """Places and times that nobody knows leave their parameters unused; two
    epochs, because the second step would complain."""

    def hide(column):
        return column.str[:0]

    manifest = changed(clips, tmp_path, location=hide, record_time=hide)
    output = tmp_path / "output"
    words = command(
        *(MAMBA, manifest, output),
        number_of_epochs=2,
        distributed_backend="gloo",
    )
    run(words, TWO_PROCESSES)
    assert epochs(output) == [1, 2]


# Runs the stage of its arguments, which leaves models and ends as SCENARIO
# says; fails unless Gloo has threads before the processes part, and none after.
COUNT_THREADS = f"""
import sys
sys.path.insert(0, {str(RECIPE)!r})
import train
# After the package: a folder there has its name, too.
sys.path.append({str(Path(__file__).parents[1])!r})
from process_threads import has_gloo_threads

def run(*arguments):
    stage(*arguments)
    assert has_gloo_threads()
    if SCENARIO == "exit":
        sys.exit("a message")

stage, train.train = train.train, run
message = None
try:
    train.main(sys.argv[1:])
except SystemExit as error:
    message = error.code
assert message == {{"end": None, "exit": "a message"}}[SCENARIO]
assert not has_gloo_threads()
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="threads are listed in Linux's /proc"
)
@pytest.mark.parametrize("scenario", ["end", "exit"])
def test_no_thread_of_gloo_outlives_the_training(clips, tmp_path, scenario):
    script = tmp_path / "count_threads.py"
    script.write_text(COUNT_THREADS.replace("SCENARIO", repr(scenario)))
    words = command(MAMBA, clips, tmp_path, distributed_backend="gloo")
    run([str(script), *words[1:]], TWO_PROCESSES)
