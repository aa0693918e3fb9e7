"""The modules and the scan on a GPU, where there is one."""

import copy

import numpy as np
import pytest
import soundfile
import torch
from small_models import write_folder

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.se_trans import SETrans
from ascmamba_modules.selective_scan import engine_status, selective_scan
from ascmamba_modules.selective_scan.triton import engine as triton_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU is visible"
    ),
]
LENGTHS = torch.tensor([1.0, 0.6])
# Sequences, channels, states, steps: along time and along frequency.
SCANS = [(64, 128, 16, 500), (2000, 128, 16, 32), (1, 128, 16, 8000)]


@pytest.mark.parametrize(
    "module, shape",
    [
        (ASCMamba(channels=8, n_blocks=1, context_size=4), (2, 100, 64)),
        (SETrans(channels=(8, 16), n_heads=2), (2, 100, 64)),
        (LogMel(), (2, 44100)),
    ],
    ids=["ASCMamba", "SETrans", "LogMel"],
)
def test_gpu_gives_what_the_cpu_gives(module, shape):
    module = module.eval()
    inputs = torch.randn(shape)
    options = {} if len(shape) == 2 else {"lengths": LENGTHS}
    expected = module(inputs, **options)
    on_gpu = copy.deepcopy(module).cuda()
    options = {name: value.cuda() for name, value in options.items()}
    outputs = on_gpu(inputs.cuda(), **options)
    torch.testing.assert_close(
        outputs, expected, atol=1e-3, rtol=1e-3, check_device=False
    )


def test_training_step_in_bf16_stays_finite():
    model = ASCMamba(channels=8, n_blocks=1, context_size=4).cuda()
    features = torch.randn(2, 100, 64).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(features, lengths=LENGTHS.cuda())
    logits.float().logsumexp(-1).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_classifier_gives_what_it_gives_on_the_cpu(tmp_path, precision):
    folder, _ = write_folder(tmp_path)
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for seconds, path in enumerate(paths, 1):
        soundfile.write(path, rng.uniform(-0.3, 0.3, seconds * 16000), 16000)
    answers = []
    for options in ({"device": "cpu"}, {"precision": precision}):
        run_opts = {"device": "cuda", **options}
        classifier = SceneClassifier.from_hparams(folder, run_opts=run_opts)
        files = list(classifier.classify_files(paths, "Berlin", batch_size=2))
        table = classifier.classify_long(paths[2], 1.0).table
        answers.append(
            (
                torch.stack([file.out_prob.exp() for file in files]),
                torch.tensor(table[classifier.classes].to_numpy()),
            )
        )
    atol = 1e-3 if precision == "fp32" else 0.05
    torch.testing.assert_close(*answers, atol=atol, rtol=0)


def scan_inputs(sizes, dtype):
    """Inputs of the scan as a Mamba block has them: channels last in memory."""
    batch, channels, states, length = sizes
    u, z = torch.randn(batch, length, 2 * channels).chunk(2, dim=-1)
    step, B, C = torch.randn(batch, length, 4 + 2 * states).split(
        [4, states, states], dim=-1
    )
    delta = step @ torch.randn(4, channels)
    inputs = {"u": u, "delta": delta, "B": B, "C": C, "z": z}
    inputs = {
        name: x.to("cuda", dtype).transpose(1, 2) for name, x in inputs.items()
    }
    parameters = {
        "A": -torch.arange(1.0, states + 1).repeat(channels, 1),
        "D": torch.ones(channels),
        "delta_bias": torch.empty(channels).uniform_(-7, -2),
    }
    inputs.update({name: x.cuda() for name, x in parameters.items()})
    return {name: x.requires_grad_() for name, x in inputs.items()}


def scan_with_gradients(inputs, engine, through_state=True, **options):
    y, state = selective_scan(
        **inputs,
        delta_softplus=True,
        return_last_state=True,
        engine=engine,
        **options,
    )
    loss = (y.float() * y.detach().float().cos()).sum()
    if through_state:
        loss = loss + (state**2).sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    return {"y": y, "state": state, **dict(zip(inputs, gradients))}


def assert_close(actual, expected, tolerance):
    for name, x in expected.items():
        x = x.float()
        torch.testing.assert_close(
            actual[name].float(),
            x,
            rtol=tolerance,
            atol=tolerance * x.abs().max().item(),
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_triton_runs():
    assert engine_status("cuda")["triton"] is None


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("sizes", SCANS, ids=str)
def test_triton_equals_the_torch_engine(sizes, reverse):
    inputs = scan_inputs(sizes, torch.float32)
    results = [
        scan_with_gradients(inputs, engine, reverse=reverse)
        for engine in ("triton", "torch")
    ]
    assert_close(*results, tolerance=1e-4)
    again = scan_with_gradients(inputs, "triton", reverse=reverse)
    for name, x in results[0].items():
        assert torch.equal(x, again[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_triton_in_half_precision_rounds_once(dtype):
    inputs = scan_inputs(SCANS[0], dtype)
    full = {n: x.detach().float().requires_grad_() for n, x in inputs.items()}
    assert_close(
        scan_with_gradients(inputs, "triton"),
        scan_with_gradients(full, "triton"),
        tolerance=0.02,
    )


def test_triton_takes_both_directions_at_once():
    inputs = [scan_inputs((64, 128, 16, 500), torch.float32) for _ in range(2)]
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    pair = [torch.stack([x[n].detach() for x in inputs]) for n in names]
    pair[3:5] = [x.unsqueeze(2) for x in pair[3:5]]
    y, state = triton_engine.scan_triton(*pair, True, reverse_mask=0b10)
    for k, reverse in enumerate((False, True)):
        expected = selective_scan(
            **inputs[k],
            delta_softplus=True,
            return_last_state=True,
            engine="triton",
            reverse=reverse,
        )
        for actual, x in zip((y[k], state[k]), expected):
            assert torch.equal(actual, x)


def test_triton_stays_finite_over_a_long_sequence_in_bf16():
    inputs = scan_inputs((2, 128, 16, 200_000), torch.bfloat16)
    for name, x in scan_with_gradients(inputs, "triton").items():
        assert x.isfinite().all(), name


def test_triton_equals_mamba_ssm():
    reason = engine_status("cuda")["mamba_ssm"]
    if reason:
        pytest.skip(reason)
    inputs = scan_inputs(SCANS[0], torch.float32)
    assert_close(
        *(
            scan_with_gradients(inputs, engine, through_state=False)
            for engine in ("triton", "mamba_ssm")
        ),
        tolerance=1e-3,
    )
