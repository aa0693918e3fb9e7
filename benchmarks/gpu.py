"""Measures scans, training and inference on a GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --dry-run    # all of it on a CPU, tiny

Prints, for each precision:

- One selective scan, forward and backward, for each engine that runs here, as
  a Mamba block calls it (channels last, with D, gate, bias and softplus), and
  for mamba-ssm's function in the layout it likes best.  Whatever the engine, a
  scan of E channels and N states must move for each step of each sequence

      forward    u, delta, z, B and C in, y out:              4 E + 2 N values
      backward   these and the gradient of y in,
                 the gradients of u, delta, z, B and C out:   7 E + 4 N values

  which over the measured time and the measured rate of copying (bytes read and
  bytes written) is its share of the bandwidth.  States, whether kept or
  recomputed, and A, D and bias are not counted.  It must also compute E N
  exponentials, of which a multiprocessor does 16 a clock (CUDA C++ Programming
  Guide, throughput of arithmetic instructions): where their share is the
  larger one, memory is not what the scan waits for.
- A training step of the recipe's Brain (from waveforms in pinned memory to
  Adam's step) and inference, and their peak memory.
- Losses of trainings in bf16 and fp32 on synthetic clips that start from the
  same weights, and how far they are apart, beside two trainings in fp32 that
  differ in dropout.
- Estimates of memory (memory.py) beside what was measured.
- Hours for the paper's pipeline at these speeds, if the loader keeps up.

Scans are timed by the GPU's clock, the rest by the host's; medians of
interleaved turns.
"""

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from common import (
    SHAPES,
    STATES,
    machine,
    markdown_table,
    median_times,
    peak_gpu_memory,
)
from hyperpyyaml import load_hyperpyyaml
from memory import ENGINES, KERNEL, largest_batch, per_clip
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch

from ascmamba_modules.selective_scan import engine_status, selective_scan

HPARAMS = Path(__file__).parents[1] / "hparams"
RATE = 44100
# What a batch of 64 clips is to both paths of ASCMamba.
BATCH_64 = {"time, 64": (2048, 128, 500), "frequency, 64": (32000, 128, 32)}
ALL_SHAPES = {**SHAPES, **BATCH_64}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
OWN_LAYOUT = "mamba-ssm, its own layout"
ASCMAMBA, SE_TRANS = "ASCMamba", "SE-Trans"
YAMLS = {ASCMAMBA: "finetune.yaml", SE_TRANS: "finetune_se_trans.yaml"}
EXPONENTIALS_A_CLOCK = 16
NO_GPU = (
    "No CUDA GPU is visible to PyTorch, and nothing was measured: run this "
    "where nvidia-smi lists one, with the torch that pip installs (not a build "
    "for CPUs); --dry-run goes through all of it on the CPU."
)
# The paper's data: stage, model, clips to train on, to validate on, to label.
# 1,740 clips of CAS are labelled, a fifth is validated on; all the 6,960
# others are taken for accepted.
STAGES = (
    ("pre-training", ASCMAMBA, 59310, 0, 0),
    ("fine-tuning", ASCMAMBA, 1392, 348, 0),
    ("second annotator", SE_TRANS, 1392, 348, 0),
    ("labelling", ASCMAMBA, 0, 0, 6960),
    ("labelling", SE_TRANS, 0, 0, 6960),
    ("fine-tuning again", ASCMAMBA, 1392 + 6960, 348, 0),
)
EPOCHS = 50  # number_of_epochs of the recipe; the paper gives none


def copy_rate(device, size):
    """Bytes that a copy within the device's memory reads and writes a second.

    Arguments
    ---------
    device : str
        "cpu" or "cuda".
    size : int
        Bytes to copy.

    Returns
    -------
    float
    """
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    functions = {"copy": lambda: target.copy_(source)}
    return 2 * size / median_times(functions, 5, device)["copy"]


def exponential_rate(device):
    """Exponentials a second that the GPU can compute, None if unknown."""
    if device != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    clock = 1e3 * card.clock_rate
    return EXPONENTIALS_A_CLOCK * card.multi_processor_count * clock


def scan_bytes(shape, dtype):
    """Bytes that a scan must move.

    Arguments
    ---------
    shape : tuple
        (sequences, channels, steps).
    dtype : torch.dtype
        Of all that varies over time.

    Returns
    -------
    dict
        By pass, "forward" and "backward".
    """
    sequences, channels, steps = shape
    size = sequences * steps * dtype.itemsize
    return {
        "forward": size * (4 * channels + 2 * STATES),
        "backward": size * (7 * channels + 4 * STATES),
    }


def scan_inputs(shape, dtype, device):
    """Draws the inputs of a scan as a Mamba block has them.

    Arguments
    ---------
    shape : tuple
        (sequences, channels, steps).
    dtype : torch.dtype
    device : str

    Returns
    -------
    tuple
        u, delta, A, B, C, D, z and delta_bias, that want gradients.
    """
    sequences, channels, steps = shape

    def draw(size):
        return torch.randn(sequences, steps, size, device=device, dtype=dtype)

    u, delta = draw(channels), draw(channels)
    _, z = draw(2 * channels).chunk(2, dim=-1)
    _, B, C = draw(4 + 2 * STATES).split([4, STATES, STATES], dim=-1)
    A = -torch.arange(1.0, STATES + 1, device=device).repeat(channels, 1)
    D, bias = torch.ones(2, channels, device=device).unbind()
    u, delta, z, B, C = (x.transpose(1, 2) for x in (u, delta, z, B, C))
    return tuple(
        x.detach().requires_grad_() for x in (u, delta, A, B, C, D, z, bias - 5)
    )


def scan_passes(name, inputs):
    """Readies the passes of a scan.

    Arguments
    ---------
    name : str
        An engine or OWN_LAYOUT.
    inputs : tuple
        From :func:`scan_inputs`.

    Returns
    -------
    dict
        Functions without arguments.
    """
    if name == OWN_LAYOUT:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        inputs = [x.detach().contiguous().requires_grad_() for x in inputs]

    def forward():
        if name == OWN_LAYOUT:
            return selective_scan_fn(*inputs, delta_softplus=True)
        return selective_scan(*inputs, delta_softplus=True, engine=name)

    output = forward()
    gradient = torch.randn_like(output)

    def backward():
        torch.autograd.grad(output, inputs, gradient, retain_graph=True)

    return {"forward": forward, "backward": backward}


def scan_rows(shape, precision, rounds, device, rates):
    """Times all engines at one shape.

    Arguments
    ---------
    shape : tuple
        (sequences, channels, steps).
    precision : str
        Key of DTYPES.
    rounds : int
        Turns of each.
    device : str
        "cpu" or "cuda".
    rates : dict
        "bytes" copied and "exponentials" computed in a second; None: unknown.

    Returns
    -------
    list
        One dict a row of the table; none where memory did not suffice.
    """
    dtype = DTYPES[precision]
    names = engines(device)
    if "mamba_ssm" in names:
        names.append(OWN_LAYOUT)
    inputs = scan_inputs(shape, dtype, device)
    passes = {}
    for name in names:
        try:
            passes[name] = scan_passes(name, inputs)
            passes[name]["backward"]()
        except torch.OutOfMemoryError:
            passes.pop(name, None)
    exponentials = inputs[0].numel() * STATES
    table = []
    for pass_name, moved in scan_bytes(shape, dtype).items():
        functions = {name: both[pass_name] for name, both in passes.items()}
        times = median_times(functions, rounds, device)
        for name, seconds in times.items():
            table.append(
                {
                    "shape": " x ".join(map(str, shape)),
                    "precision": precision,
                    "pass": pass_name,
                    "scan": name,
                    "ms": 1e3 * seconds,
                    "mamba-ssm's / this": (
                        times[OWN_LAYOUT] / seconds
                        if OWN_LAYOUT in times
                        else "-"
                    ),
                    "of bandwidth": _share(moved / seconds, rates["bytes"]),
                    "of exponentials": _share(
                        exponentials / seconds, rates["exponentials"]
                    ),
                }
            )
    return table


def _share(rate, limit):
    return "-" if limit is None else f"{rate / limit:.1%}"


def engines(device):
    """Names the engines that run on a device, fastest first."""
    return [
        name for name, reason in engine_status(device).items() if not reason
    ]


def make_brain(name, device, precision, settings, **overrides):
    """Makes the recipe's Brain, ready to train.

    Arguments
    ---------
    name : str
        Key of YAMLS.
    device : str
        "cpu" or "cuda".
    precision : str
        "fp32" or "bf16", of training and inference.
    settings : dict
        For each model settings that differ from its YAML file's.
    **overrides
        More of them.

    Returns
    -------
    ascmamba_modules.brain.SceneBrain
    """
    given = {"manifest": "", **settings[name], **overrides}
    with (
        open(HPARAMS / YAMLS[name], encoding="utf-8") as file,
        tempfile.TemporaryDirectory() as folder,
    ):
        hparams = load_hyperpyyaml(file, {"output_folder": folder, **given})
    run_opts = {
        "device": device,
        "precision": precision,
        "eval_precision": precision,
        "noprogressbar": True,
    }
    brain = hparams["brain_class"](
        hparams["modules"], hparams["opt_class"], hparams, run_opts
    )
    brain.on_fit_start()
    brain.modules.train()
    # What the first epoch of a training gathers.
    features = brain.modules.features(torch.randn(1, RATE, device=device))
    brain.modules.normalize(features)
    brain.hparams.epoch_counter.current = 2
    return brain


def make_clips(n_clips, seconds, n_classes=10):
    """Draws clips of noise, each with a quiet tone that is its class.

    Arguments
    ---------
    n_clips : int
    seconds : float
        Length of a clip.
    n_classes : int

    Returns
    -------
    list
        One dict a clip, as datasets of the recipe give them.
    """
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(int(RATE * seconds)) / RATE
    clips = []
    for index in range(n_clips):
        noise = torch.randn(len(times), generator=generator)
        level = torch.rand(1, generator=generator)  # up to -14 dB
        label = index % n_classes
        tone = torch.sin(2 * torch.pi * 200 * 1.5**label * times)
        tokens = torch.randint(2, 60, (2, 20), generator=generator)
        clips.append(
            {
                "id": str(index),
                "sig": 0.1 * (noise + 0.3 * level * tone),
                "label": label,
                "location_tokens": tokens[0],
                "time_tokens": tokens[1],
            }
        )
    return clips


def make_batch(clips, device):
    """A batch as the recipe's loader gives it."""
    batch = PaddedBatch(clips)
    return batch.pin_memory() if device == "cuda" else batch


def step_passes(brain, batch):
    """Readies a training step and inference.

    Arguments
    ---------
    brain : ascmamba_modules.brain.SceneBrain
    batch : PaddedBatch

    Returns
    -------
    dict
        Functions without arguments, that wait for the device.
    """

    def train():
        brain.modules.train()
        brain.fit_batch(copy.copy(batch))

    def infer():
        brain.modules.eval()
        with torch.no_grad(), brain.evaluation_ctx:
            outputs = brain.compute_forward(copy.copy(batch), Stage.TEST)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return [x.cpu() for x in outputs]

    return {"training step": train, "inference": infer}


def model_rows(name, precision, batch, device, options):
    """Times and measures a model with each engine.

    Arguments
    ---------
    name : str
        Key of YAMLS.
    precision : str
        Key of DTYPES.
    batch : int
        Clips.
    device : str
        "cpu" or "cuda".
    options : SimpleNamespace
        rounds, seconds (of a clip) and settings (of the models).

    Returns
    -------
    list
        One dict a row of the table, "-" where memory did not suffice.
    """
    names = engines(device) if name == ASCMAMBA else ["none"]
    clips = make_batch(make_clips(batch, options.seconds), device)
    passes = {}
    for engine in names:
        choice = {"scan_engine": engine} if name == ASCMAMBA else {}
        brain = make_brain(name, device, precision, options.settings, **choice)
        passes[engine] = step_passes(brain, clips)
    table = []
    for pass_name in ("training step", "inference"):
        memory = {
            engine: peak_or_none(passes[engine][pass_name], device)
            for engine in names
        }
        functions = {
            engine: passes[engine][pass_name]
            for engine in names
            if memory[engine] is not None
        }
        times = median_times(functions, options.rounds)
        for engine in names:
            seconds = times.get(engine)
            table.append(
                {
                    "model": name,
                    "precision": precision,
                    "batch": batch,
                    "pass": pass_name,
                    "scan": engine,
                    "ms": 1e3 * seconds if seconds else "-",
                    "clips a second": batch / seconds if seconds else "-",
                    "peak GB": memory[engine] / 1e9 if seconds else "-",
                }
            )
    return table


def peak_or_none(function, device):
    """Peak memory of a call in bytes, NaN on a CPU, None if it is too much.

    Weights, gradients and the optimizer's state count.
    """
    try:
        function()  # makes the optimizer's state and the libraries' workspaces
        if device != "cuda":
            return float("nan")
        held = torch.cuda.memory_allocated()
        return held + peak_gpu_memory(function)
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()
    return None


def losses(precision, device, options, seed):
    """Trains on synthetic clips.

    Arguments
    ---------
    precision : str
        Key of DTYPES.
    device : str
        "cpu" or "cuda".
    options : SimpleNamespace
        seconds, settings, loss_steps, loss_batch and loss_clips.
    seed : int
        Of dropout; weights and batches are always the same.

    Returns
    -------
    torch.Tensor
        Loss of each step.
    """
    brain = make_brain(ASCMAMBA, device, precision, options.settings, lr=4e-4)
    clips = make_clips(options.loss_clips, options.seconds)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(seed)
    curve = []
    for _ in range(options.loss_steps):
        chosen = torch.randint(
            len(clips), (options.loss_batch,), generator=generator
        )
        batch = make_batch([clips[i] for i in chosen], device)
        curve.append(brain.fit_batch(batch))
    if brain.nonfinite_count:
        print(f"{precision}: {brain.nonfinite_count} batches were not finite")
    return torch.stack(curve)


def loss_rows(device, options):
    """Compares the losses of bf16 and fp32.

    Arguments
    ---------
    device, options
        As in :func:`losses`.

    Returns
    -------
    list
        One dict a row: losses, averaged over the steps before.
    distances : dict
        Mean difference of two such curves: of "bf16" and fp32, and of fp32
        and itself with other "dropout".
    """
    curves = {
        "bf16": losses("bf16", device, options, seed=1),
        "fp32": losses("fp32", device, options, seed=1),
        "fp32, other dropout": losses("fp32", device, options, seed=2),
    }
    width = max(1, options.loss_steps // 12)
    smooth = {k: v.unfold(0, width, 1).mean(1) for k, v in curves.items()}
    n_steps = len(smooth["fp32"])
    steps = torch.linspace(0, n_steps - 1, min(6, n_steps)).long()
    table = [
        {
            "step": int(step) + width,
            **{name: curve[step].item() for name, curve in smooth.items()},
        }
        for step in steps
    ]
    distances = {
        "bf16": smooth["bf16"] - smooth["fp32"],
        "dropout": smooth["fp32, other dropout"] - smooth["fp32"],
    }
    return table, {k: v.abs().mean().item() for k, v in distances.items()}


def memory_rows(table, settings):
    """Puts estimates of memory beside what was measured.

    Arguments
    ---------
    table : list
        Rows of :func:`model_rows`.
    settings : dict
        Settings of ASCMamba.

    Returns
    -------
    list
        One dict a row of the table, of training steps in MB a clip.
    """
    measured = {}
    for row in table:
        if row["model"] == ASCMAMBA and row["pass"] == "training step":
            key = row["precision"], row["scan"]
            if row["peak GB"] != "-":
                measured.setdefault(key, {})[row["batch"]] = row["peak GB"]
    rows = []
    for (precision, engine), peaks in measured.items():
        like = engine if engine in ENGINES else KERNEL
        estimate = per_clip(precision, like, **settings)
        row = {
            "precision": precision,
            "scan": engine,
            "estimated MB a clip": estimate["peak"] / 1e6,
            "measured MB a clip": "-",
            "largest batch here": "-",
        }
        if len(peaks) > 1 and torch.cuda.is_available():
            small, large = min(peaks), max(peaks)
            slope = 1e9 * (peaks[large] - peaks[small]) / (large - small)
            card = torch.cuda.get_device_properties(0).total_memory
            fixed = max(0.0, 1e9 * peaks[small] - small * slope)
            row["measured MB a clip"] = slope / 1e6
            row["largest batch here"] = largest_batch(
                card, {"peak": slope, "fixed": fixed}
            )
        rows.append(row)
    return rows


def pipeline_rows(table):
    """Hours of the paper's pipeline at measured speeds.

    Arguments
    ---------
    table : list
        Rows of :func:`model_rows`.

    Returns
    -------
    list
        One dict a row of the table, a row each precision and batch.
    """
    speeds = {}
    for row in table:
        if row["clips a second"] != "-":
            key = row["precision"], row["batch"]
            pair = row["model"], row["pass"]
            best = speeds.setdefault(key, {})
            best[pair] = max(row["clips a second"], best.get(pair, 0.0))
    rows = []
    for (precision, batch), speed in speeds.items():
        if len(speed) < 4:  # too little memory for one of them
            continue
        hours = {}
        for stage, model, trained, validated, labelled in STAGES:
            seconds = EPOCHS * trained / speed[model, "training step"]
            inferred = EPOCHS * validated + labelled
            seconds += inferred / speed[model, "inference"]
            hours[stage] = hours.get(stage, 0.0) + seconds / 3600
        total = {"all": sum(hours.values())}
        rows.append({"precision": precision, "batch": batch, **hours, **total})
    return rows


def full_options(args):
    """The paper's model and clips."""
    return SimpleNamespace(
        rounds=args.rounds,
        shapes={name: ALL_SHAPES[name] for name in args.shapes},
        precisions=args.precision,
        batches=args.batches,
        seconds=10.0,
        settings={ASCMAMBA: {}, SE_TRANS: {}},
        loss_steps=args.loss_steps,
        loss_batch=16,
        loss_clips=256,
        copy_size=2**30,
    )


def tiny_options(args):
    """All of it within a minute on a CPU."""
    narrow = {"channels": 4, "n_blocks": 1, "d_state": 2}
    small = {"se_channels": [4, 8], "n_heads": 2, "d_ffn": 8}
    return SimpleNamespace(
        rounds=1,
        shapes={"tiny": (2, 8, 12)},
        precisions=args.precision,
        batches=[1, 2],
        seconds=0.5,
        settings={ASCMAMBA: narrow, SE_TRANS: small},
        loss_steps=4,
        loss_batch=2,
        loss_clips=4,
        copy_size=2**20,
    )


def report(device, options, parts):
    """Prints the tables.

    Arguments
    ---------
    device : str
        "cpu" or "cuda".
    options : SimpleNamespace
        From :func:`full_options` or :func:`tiny_options`.
    parts : list
        Of PARTS.
    """
    print(machine())
    for name, reason in engine_status(device).items():
        if reason:
            print(f"Engine {name}: {reason}")
    rates = {
        "bytes": copy_rate(device, options.copy_size),
        "exponentials": exponential_rate(device),
    }
    print(f"Copying reads and writes {rates['bytes'] / 1e9:,.0f} GB a second.")
    if "scan" in parts:
        table = []
        for precision in options.precisions:
            for shape in options.shapes.values():
                table += scan_rows(
                    shape, precision, options.rounds, device, rates
                )
        show("Selective scan (sequences x channels x steps)", table)
    if "model" in parts:
        table = []
        for precision in options.precisions:
            for batch in options.batches:
                for name in YAMLS:
                    table += model_rows(name, precision, batch, device, options)
        show(f"Clips of {options.seconds:g} s", table)
        show(
            "Memory of a training step",
            memory_rows(table, options.settings[ASCMAMBA]),
        )
        show(
            f"Hours of the paper's pipeline, {EPOCHS} epochs a training, if "
            "the loader keeps up",
            pipeline_rows(table),
        )
    if "loss" in parts:
        table, distances = loss_rows(device, options)
        show(f"Losses, batches of {options.loss_batch} clips", table)
        print(
            f"\nMean distance of the curves: bf16 from fp32 "
            f"{distances['bf16']:.4f}; fp32 from itself with other dropout "
            f"{distances['dropout']:.4f}."
        )


def show(title, table):
    """Prints a table under its title."""
    print(f"\n{title}\n")
    print(markdown_table(table) if table else "(memory did not suffice)")


PARTS = ("scan", "model", "loss")


def main(arguments=None):
    """Prints the tables.

    Returns
    -------
    int
        Exit code: 2 without a GPU.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="What the columns mean is at the top of this file.",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each (default: 5)"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all"
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=list(ALL_SHAPES),
        default=["time", "frequency", "long", *BATCH_64],
        help="of the scan (default: %(default)s)",
    )
    parser.add_argument(
        "--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES)
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=int,
        default=[4, 64],
        help="clips (default: 4 64)",
    )
    parser.add_argument(
        "--loss-steps",
        type=int,
        default=300,
        help="of each of three trainings (default: 300)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="all of it on the CPU at tiny sizes: shows that it runs, and "
        "measures nothing",
    )
    args = parser.parse_args(arguments)
    if args.dry_run:
        print("Dry run: the numbers mean nothing.")
        report("cpu", tiny_options(args), args.parts)
        return 0
    if not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    report("cuda", full_options(args), args.parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
