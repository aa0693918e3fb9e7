"""Small models and clips to evaluate."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.processing.features import InputNormalization

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.context import ContextEncoder, ContextTokenizer
from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.evaluation.posterior_cache import PosteriorCache
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier

CLASSES = ["Bus", "Bar", "Park"]


def make_classifier(classes, use_context):
    """A model with random weights."""
    torch.manual_seed(0)
    labels, tokenizer = CategoricalEncoder(), ContextTokenizer()
    labels.update_from_iterable(classes)
    tokenizer.train(["Hefei", "Jinan"])
    modules = {
        "features": LogMel(n_mels=16),
        "normalize": InputNormalization(norm_type="sentence"),
        "model": ASCMamba(
            n_classes=len(classes),
            n_mels=16,
            channels=4,
            n_blocks=1,
            context_size=4,
            d_state=2,
        ),
    }
    if use_context:
        modules["context_encoder"] = ContextEncoder(context_size=4)
    for module in modules.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return SceneClassifier(
        modules,
        hparams={
            "modules": modules,
            "label_encoder": labels,
            "tokenizer": tokenizer,
            "audio_normalizer": AudioNormalizer(44100),
        },
        run_opts={"device": "cpu"},
    )


@pytest.fixture(scope="session")
def noises(tmp_path_factory):
    """Twelve clips of three classes, six sessions and two cities."""
    folder = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        wav = str(folder / f"{number}.wav")
        n = 8820 * (1 + number % 3)  # some shorter, so that batches are padded
        soundfile.write(wav, 0.1 * rng.normal(size=n), 44100)
        rows.append(
            {
                "ID": str(number),
                "wav": wav,
                "scene_label": CLASSES[number % 3],
                "location": ("Hefei", "Jinan")[number % 2],
                "record_time": f"2023-05-{11 + number // 2} 10:00:00",
                "session": f"session {number // 2}",
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def make_answers(noises, tmp_path):
    """A function that makes a model's answers to the noises."""

    def make(use_context):
        classifier = make_classifier(CLASSES, use_context)
        cache = FeatureCache(
            tmp_path,
            classifier.mods.features,
            classifier.audio_normalizer,
            dtype="float32",
        )
        cache.build(list(noises["wav"]))
        return PosteriorCache(classifier, cache, CLASSES, batch_size=5)

    return make
