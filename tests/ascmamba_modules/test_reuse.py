"""ASCMamba in somebody else's recipe, by YAML alone."""

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import Brain
from speechbrain.utils.epoch_loop import EpochCounter

FOREIGN_RECIPE = """
model: !new:ascmamba_modules.ascmamba.ASCMamba
    n_classes: 2
    n_mels: 20
    channels: 8
    n_blocks: 1
    context_size: 3
    d_state: 4
modules:
    model: !ref <model>
opt_class: !name:torch.optim.Adam
    lr: 0.01
"""


class ForeignBrain(Brain):
    """Tells rising from falling sweeps."""

    def compute_forward(self, batch, stage):
        features, lengths, _ = batch
        return self.modules.model(features, lengths=lengths)

    def compute_objectives(self, predictions, batch, stage):
        self.right = (predictions.argmax(1) == batch[2]).float().mean().item()
        return torch.nn.functional.cross_entropy(predictions, batch[2])


def sweeps(n):
    """Ridges that climb or descend the bands, in noise, of any length."""
    labels = torch.arange(n) % 2
    features = 0.3 * torch.randn(n, 40, 20)
    for clip, label in zip(features, labels):
        for frame in range(40):
            band = frame // 2 if label else 19 - frame // 2
            clip[frame, band] += 3
    return features, torch.ones(n), labels


def test_foreign_brain_learns(tmp_path):
    torch.manual_seed(0)
    hparams = load_hyperpyyaml(FOREIGN_RECIPE)
    brain = ForeignBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        run_opts={"device": "cpu", "noprogressbar": True},
    )
    whole = {"batch_size": None}  # each item is a batch already
    batches = [sweeps(16) for _ in range(10)]
    brain.fit(EpochCounter(3), batches, train_loader_kwargs=whole)
    loss = brain.evaluate([sweeps(64)], test_loader_kwargs=whole)
    assert brain.right == 1.0 and loss < 0.2
