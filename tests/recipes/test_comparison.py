"""The other systems of the paper, trained by commands on small clips."""

import re

import numpy as np
import pandas as pd
import pytest
from hyperpyyaml import load_hyperpyyaml
from recipe_commands import RECIPE, changed, command, run_here

from ascmamba_modules.inference import SceneClassifier

SYSTEMS = {
    "baseline": {"se_channels": [8, 16], "n_heads": 2, "context_size": 4},
    "resnet": {
        "resnet_channels": [4, 4, 8, 8],
        "block_sizes": [1, 1, 1, 1],
        "embedding_size": 8,
        "context_size": 4,
    },
    "mobilenet": {"encoder_weights": "null", "width": 0.1, "context_size": 4},
    "beats": {
        "encoder_weights": "null",
        "encoder_layers": 1,
        "frozen": False,
        "n_mels": 128,
        "context_size": 4,
        "lr": 0.0001,
    },
    "low_frequency": {
        "channels": 4,
        "n_blocks": 1,
        "d_state": 2,
        "depth": 2,
        "context_size": 4,
    },
}
MY_NET = """
import torch


class MyNet(torch.nn.Module):
    def __init__(self, n_mels, n_classes, context_size):
        super().__init__()
        self.context_size = context_size
        self.classifier = torch.nn.Linear(n_mels + context_size, n_classes)

    def forward(self, features, context=None, lengths=None):
        if lengths is None:
            lengths = features.new_ones(len(features))
        if context is None:
            context = features.new_zeros(len(features), self.context_size)
        counts = (lengths * features.shape[1]).round().unsqueeze(1)
        frames = torch.arange(features.shape[1], device=features.device)
        valid = (frames < counts).unsqueeze(2)
        mean = (features * valid).sum(1) / counts
        return self.classifier(torch.cat([mean, context], dim=1))

    @staticmethod
    def log_posteriors(logits):
        return logits.float().log_softmax(dim=-1)
"""
MY_MODEL = """\
model: !new:my_package.MyNet
    n_mels: !ref <n_mels>
    n_classes: !ref <n_classes>
    context_size: !ref <context_size>

"""


@pytest.fixture(scope="module")
def odd_clips(clips, tmp_path_factory):
    """A manifest with 41 clips to train on: the last batch is of one."""

    def more_to_train_on(column):
        first = (column == "valid").idxmax()
        return column.where(column.index != first, "train")

    folder = tmp_path_factory.mktemp("odd")
    return changed(clips, folder, split=more_to_train_on)


def train(stage, manifest, output, **options):
    options = {"warmup_steps": 1, **options}
    log = run_here(command(stage, manifest, output, **options))
    assert "Clips: 41 train, 9 valid, 10 test" in log


def check_model_folder(output, manifest):
    """It answers as the training did in its test report."""
    classifier = SceneClassifier.from_hparams(
        source=output / "model", run_opts={"device": "cpu"}
    )
    predictions = pd.read_csv(output / "test/predictions.csv", index_col=0)
    rows = pd.read_csv(manifest, index_col=0, keep_default_na=False)
    rows = rows.loc[predictions.index]

    def posteriors(*names):
        answers = [
            classifier.classify_file(
                manifest.parent / row["wav"], *row[list(names)]
            )
            for _, row in rows.iterrows()
        ]
        return np.concatenate([answer[0].exp() for answer in answers])

    here = posteriors("location", "record_time")
    np.testing.assert_allclose(
        here, predictions.iloc[:, 2:].to_numpy(float), atol=1e-5
    )
    # Clips differ, and so do places: else the above would show little.
    assert np.ptp(here, axis=0).max() > 1e-4
    assert not np.allclose(here, posteriors(), atol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_system_trains_and_leaves_its_model(system, odd_clips, tmp_path):
    options = {"number_of_epochs": 2, "mixup_alpha": 0.3, "augment_prob": 1.0}
    stage = f"hparams/comparison/{system}.yaml", {}
    train(stage, odd_clips, tmp_path, **{**options, **SYSTEMS[system]})
    check_model_folder(tmp_path, odd_clips)


def test_external_module(odd_clips, tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(MY_NET)
    settings = (RECIPE / "hparams/finetune.yaml").read_text()
    settings, replaced = re.subn(
        r"^model: .*?^(?=modules:)", MY_MODEL, settings, flags=re.M | re.S
    )
    assert replaced == 1
    (tmp_path / "my_net.yaml").write_text(settings)
    output = tmp_path / "output"
    monkeypatch.syspath_prepend(tmp_path)
    train((str(tmp_path / "my_net.yaml"), {}), odd_clips, output)
    check_model_folder(output, odd_clips)


def plain_settings(path):
    """Settings that are no objects, and what the YAML file makes."""
    with open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, {"manifest": "clips.csv"})
    plain = (str, int, float, bool, list, dict, type(None))
    return {k: v for k, v in hparams.items() if type(v) in plain}, hparams


@pytest.mark.parametrize(
    "system, own, parameters",
    [
        (
            "baseline",
            {"context_size", "se_channels", "n_segments", "n_heads", "f_min"}
            | {"d_ffn", "n_layers", "lr", "lr_final"},
            358_966,
        ),
        (
            "resnet",
            {"context_size", "resnet_channels", "block_sizes", "strides"}
            | {"embedding_size", "lr", "lr_final"},
            1_132_906,
        ),
        ("low_frequency", {"f_max", "pooling"}, 47_866),
    ],
)
def test_protocol_is_that_of_ascmamba(system, own, parameters):
    folder = RECIPE / "hparams"
    ours, _ = plain_settings(folder / "finetune.yaml")
    theirs, hparams = plain_settings(folder / f"comparison/{system}.yaml")
    count = sum(p.numel() for p in hparams["model"].parameters())
    assert count == parameters
    folders = {"output_folder", "save_folder", "train_log"}
    objects = {"modules", "train_loggers"}
    differing = {
        name
        for name in theirs.keys() - folders - objects
        if name not in ours or theirs[name] != ours[name]
    }
    assert differing == own
    own = own | {"embedding_size"}
    if system != "low_frequency":
        own = own | {"channels", "n_blocks", "depth", "d_state", "scan_engine"}
        own |= {"patch", "stride", "norm", "pooling", "bidirectional"}
    assert ours.keys() - theirs.keys() <= own
