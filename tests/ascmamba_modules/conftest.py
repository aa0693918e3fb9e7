"""A model folder with random weights."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from ascmamba_modules.model_folder import write_model_folder

STAGE = """
scene_labels: [Bus, Bar, Park]
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: 44100
features: !new:ascmamba_modules.features.LogMel
normalize: !new:speechbrain.processing.features.InputNormalization
tokenizer: !new:ascmamba_modules.context.ContextTokenizer
context_encoder: !new:ascmamba_modules.context.ContextEncoder
    context_size: 4
model: !new:ascmamba_modules.ascmamba.ASCMamba
    n_classes: !apply:len [!ref <scene_labels>]
    channels: 4
    n_blocks: 1
    context_size: 4
    d_state: 2
modules:
    features: !ref <features>
    normalize: !ref <normalize>
    context_encoder: !ref <context_encoder>
    model: !ref <model>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
"""


@pytest.fixture(scope="session")
def stage():
    """A stage with random weights everywhere, in evaluation mode."""
    torch.manual_seed(0)
    hparams = load_hyperpyyaml(STAGE)
    hparams["label_encoder"].update_from_iterable(hparams["scene_labels"])
    hparams["label_encoder"].ignore_len()
    hparams["tokenizer"].train(["Xi'an"])
    hparams["normalize"](torch.randn(4, 50, 64) * 20 - 40)
    for name in ("model", "context_encoder"):
        for parameter in hparams[name].parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    for module in hparams["modules"].values():
        module.eval()
    return hparams


@pytest.fixture(scope="session")
def source(stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    yaml = folder / "hyperparams.yaml"
    yaml.write_text(STAGE.replace("!ref <scene_labels>", "[1, 2, 3]"))
    write_model_folder(stage, yaml, folder / "model")
    return folder / "model"
