"""Training on a GPU, where there is one."""

from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch

from ascmamba_modules.selective_scan import engine_status

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU is visible"
    ),
]
ROOT = Path(__file__).parents[1]


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
        brain = make_brain(
            tmp_path, precision, dropout=0.0, metadata_dropout=0.0
        )
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
