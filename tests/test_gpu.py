"""The modules and a training step on a GPU, where there is one."""

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from small_models import write_folder
from speechbrain.dataio.batch import PaddedBatch

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.se_trans import SETrans
from ascmamba_modules.selective_scan import engine_status

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU is visible"
    ),
]
LENGTHS = torch.tensor([1.0, 0.6])
ROOT = Path(__file__).parents[1]


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


def make_brain(folder, precision="bf16", **settings):
    """The recipe's Brain, narrow, after the first epoch."""
    narrow = {"channels": 8, "n_blocks": 1, "d_state": 4, **settings}
    given = {"manifest": "", "output_folder": str(folder), **narrow}
    with open(ROOT / "hparams" / "finetune.yaml", encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, given)
    assert hparams["pin_memory"]
    hparams["label_encoder"].update_from_iterable(hparams["scene_labels"])
    run_opts = {"device": "cuda", "precision": precision}
    brain = hparams["brain_class"](
        hparams["modules"], hparams["opt_class"], hparams, run_opts
    )
    brain.on_fit_start()
    brain.modules.train()
    brain.modules.normalize(
        brain.modules.features(torch.randn(1, 44100).cuda())
    )
    brain.hparams.epoch_counter.current = 2
    return brain


def make_batch(seed, seconds=(1.0, 1.0, 1.0, 1.0)):
    generator = torch.Generator().manual_seed(seed)
    rows = [
        {
            "id": f"{seed}-{row}",
            "sig": torch.randn(int(44100 * length), generator=generator),
            "label": row,
            "location_tokens": torch.tensor([5, 6, 7]),
            "time_tokens": torch.tensor([5, 6]),
        }
        for row, length in enumerate(seconds)
    ]
    return PaddedBatch(rows).pin_memory()


@pytest.mark.parametrize("settings", [{}, {"mixup_alpha": 0.3}])
def test_host_does_not_wait_before_the_step(tmp_path, settings):
    """PyTorch itself raises where the host would wait for the GPU."""
    brain = make_brain(tmp_path, **settings)
    for seed in range(3):  # compiles and allocates
        brain.fit_batch(make_batch(seed))
    batch, step = make_batch(3), brain.optimizers_step

    def optimizers_step():
        torch.cuda.set_sync_debug_mode("default")
        step()

    brain.optimizers_step = optimizers_step
    torch.cuda.set_sync_debug_mode("error")
    try:
        brain.fit_batch(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_of_training_does_not_grow(tmp_path):
    brain = make_brain(tmp_path)
    held = []
    for seed in range(20):
        seconds = [1.0, 0.9, 0.5, 0.2] if seed % 2 else [1.0] * 4
        brain.fit_batch(make_batch(seed, seconds))
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[3]


@pytest.mark.parametrize("padded", [False, True])
def test_losses_in_bf16_follow_those_in_fp32(tmp_path, padded):
    seconds = [1.0, 0.8, 0.6, 0.4] if padded else [1.0] * 4
    curves = []
    for precision in ("fp32", "bf16"):
        brain = make_brain(tmp_path, precision, dropout=0.0, hidden_rate=0.0)
        curves.append(
            torch.stack(
                [brain.fit_batch(make_batch(n % 4, seconds)) for n in range(40)]
            )
        )
        assert brain.nonfinite_count == 0
    fp32, bf16 = (curve.unfold(0, 10, 10).mean(1) for curve in curves)
    torch.testing.assert_close(bf16, fp32, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("name", list(engine_status()))
def test_training_with_each_engine(tmp_path, name):
    reason = engine_status("cuda")[name]
    if reason:
        pytest.skip(reason)
    brain = make_brain(tmp_path, scan_engine=name)
    losses = [brain.fit_batch(make_batch(0)) for _ in range(30)]
    assert losses[-1] < losses[0]
