"""Small model folders, as trainings leave them."""

import pandas as pd
import torch
from hyperpyyaml import load_hyperpyyaml

from ascmamba_modules.data.manifest import COLUMNS
from ascmamba_modules.model_folder.folder import write_model_folder
from ascmamba_modules.model_folder.training import describe_training

PARTS = """
scene_labels: [Bus, Bar, Park]
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
    sample_rate: 44100
features: !new:ascmamba_modules.features.LogMel
normalize: !new:speechbrain.processing.features.InputNormalization
tokenizer: !new:ascmamba_modules.context.ContextTokenizer
context_encoder: !new:ascmamba_modules.context.ContextEncoder
    context_size: 4
model: {model}
modules:
    features: !ref <features>
    normalize: !ref <normalize>
    {context}
    model: !ref <model>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
"""
MODELS = {
    "ascmamba": """!new:ascmamba_modules.ascmamba.ASCMamba
    n_classes: !apply:len [[Bus, Bar, Park]]
    channels: 4
    n_blocks: 1
    context_size: 4
    d_state: 2
""",
    "se_trans": """!new:ascmamba_modules.se_trans.SETrans
    n_classes: 3
    superset: [0, 0, 1]
    channels: [4, 8]
    n_heads: 2
    d_ffn: 8
""",
    "baseline": """!new:ascmamba_modules.encoders.late_fusion.LateFusion
    audio_encoder: !new:ascmamba_modules.encoders.baseline.SETransEncoder
        channels: [4, 8]
        n_heads: 2
        d_ffn: 8
    n_classes: 3
    context_size: 4
""",
    "resnet": """!new:ascmamba_modules.encoders.late_fusion.LateFusion
    audio_encoder: !new:ascmamba_modules.encoders.resnet.ResNetEncoder
        channels: [4, 4, 8, 8]
        block_sizes: [1, 1, 1, 1]
        embedding_size: 8
    n_classes: 3
    context_size: 4
""",
}


def make_stage(model, uses_context=True):
    """YAML text and hyperparameters of a stage with random weights."""
    context = "context_encoder: !ref <context_encoder>" if uses_context else ""
    yaml = PARTS.format(model=MODELS[model], context=context)
    hparams = load_hyperpyyaml(yaml)
    hparams["label_encoder"].update_from_iterable(hparams["scene_labels"])
    hparams["tokenizer"].train(["Xi'an"])
    hparams["normalize"](torch.randn(4, 50, 64) * 20 - 40)
    for name in ("model", "context_encoder"):
        for key, parameter in hparams[name].named_parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
            if "classifier" in key:  # else posteriors are 0 and 1
                parameter.data.mul_(0.05)
        for statistic in hparams[name].buffers():
            if statistic.is_floating_point():
                statistic.uniform_(0.5, 1.5)
    for module in hparams["modules"].values():
        module.eval()
    return yaml, hparams


def training_of(hparams):
    """A description of a training on a few clips."""
    table = pd.DataFrame("", index=range(8), columns=COLUMNS)
    table["ID"] = [f"clip{i}" for i in range(8)]
    table["scene_label"] = ["Bus", "Bar", "Park", "Bus"] * 2
    table["session"] = list("aabbacdd")
    table["dataset"] = ["ESC-10"] * 3 + ["mine"] * 5
    table["label_source"] = "human"
    table["location"] = "Xi'an"
    table["duration"] = [5.0, 10.0] * 4
    rows = {
        "train": table[:4],
        "valid": table[4:],
        "test": table[:0],
    }
    return describe_training(
        {
            "manifest": "/home/somebody/clips.csv",
            "output_folder": "/home/somebody/results",
            "stage": "finetune",
            "lr": 0.001,
            **hparams,
        },
        rows,
        {"valid": 0.625},
        licences={"ESC-10": "CC BY 3.0"},
    )


def write_folder(folder, model="ascmamba", uses_context=True):
    """A model folder, and the hyperparameters that it was written from."""
    yaml, hparams = make_stage(model, uses_context)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(yaml)
    write_model_folder(
        *(hparams, folder / "hyperparams.yaml", folder / "model"),
        training_of(hparams),
    )
    return folder / "model", hparams
