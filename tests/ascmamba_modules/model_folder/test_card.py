"""The model card against what the training was."""

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from small_models import make_stage, training_of

from ascmamba_modules.data.manifest import COLUMNS
from ascmamba_modules.model_folder.card import all_datasets, facts, limits
from ascmamba_modules.model_folder.config import read_config
from ascmamba_modules.model_folder.training import describe_training


@pytest.fixture(scope="module")
def training():
    return training_of(make_stage("ascmamba")[1])


@pytest.fixture
def config(model_folder):
    return read_config(model_folder)


def describe(table, n_train=2, **hparams):
    """The description of a training on rows, those left out empty."""
    ids = [f"clip{i}" for i in range(len(table))]
    table = table.assign(ID=ids).reindex(columns=COLUMNS, fill_value="")
    return describe_training(
        {"manifest": "a.csv", "scene_labels": ["Bus"], **hparams},
        {"train": table[:n_train], "test": table[n_train:]},
        {"valid": None, "test": 1.0},
    )


def test_description(training):
    assert training["clips"] == {
        "train": {"Bus": 2, "Bar": 1, "Park": 1},
        "valid": {"Bus": 2, "Bar": 1, "Park": 1},
    }
    assert training["datasets"]["train"] == {"ESC-10": 3, "mine": 1}
    # Sessions a and b are in training, a c d d are validated.
    assert training["sessions_seen"] == {"valid": 0.25}
    assert training["settings"] == {"stage": "finetune", "lr": 0.001}


def test_no_paths_are_told(training):
    assert "somebody" not in str(training)
    assert training["manifest"] == "clips.csv"


def test_hub_reads_the_front_matter(model_folder):
    data = ModelCard.load(model_folder / "README.md").data
    assert data.library_name == "speechbrain"
    assert data.pipeline_tag == "audio-classification"
    assert data.license == "unknown"
    assert "acoustic-scene-classification" in data.tags
    assert data.datasets == ["esc-10", "mine"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("mine", "valid")
    assert (result.metric_name, result.metric_value) == (
        "macro accuracy",
        0.625,
    )


def test_hub_shows_a_snippet(config):
    assert config["speechbrain_interface"] == "EncoderClassifier"


def test_card_states_data_scores_limits_and_licences(model_folder):
    text = (model_folder / "README.md").read_text("utf-8")
    for line in (
        "| Bus | 2 | 2 |",
        "| valid | 4 clips, macro accuracy 62.5 %, sessions heard in training: "
        "25.0 % |",
        "| data set ESC-10 | 3 training clips, licence CC BY 3.0 |",
        "| data set mine | 1 training clips, licence not known |",
        "| clip length | 5-10 s |",
        "| place and time | used; known in training: places of 100.0 %, times "
        "of 0.0 % of the clips |",
        "| settings | stage finetune, lr 0.001 |",
    ):
        assert line in text.splitlines()
    assert "25.0 % of the valid clips are from recording sessions" in text
    assert "One valid clip more or less of the smallest class is 33.3" in text
    assert "No record_time was known" in text and "No location" not in text
    assert "pip install" in text
    assert "None" not in text and "{" not in text


def test_earlier_stages_count(config, training):
    later = {**training, "started_from": training, "licences": {}}
    later["datasets"] = {"train": {"mine": 9}, "valid": {"mine": 4}}
    later["known"] = {"location": 0.0, "record_time": 0.5}
    assert all_datasets(later) == {"mine": 9, "ESC-10": 3}
    found = facts({**config, "training": later})
    assert found["data set ESC-10"] == "3 training clips, licence CC BY 3.0"
    assert "places of 100.0 %, times of 50.0 %" in found["place and time"]
    assert found["weights from"] == "stage finetune, on clips.csv"
    unknown = {**later, "started_from": {}}
    assert "not known" in facts({**config, "training": unknown})["weights from"]


def test_sessions_are_not_known_without_a_statement(config):
    """Of rows without session, place and time."""
    table = pd.DataFrame({"scene_label": ["Bus"] * 4})
    training = describe(table)
    assert training["sessions_seen"] == {"test": None}
    assert training["datasets"]["train"] == {"not known": 2}
    lines = facts({**config, "training": training})
    assert lines["test"].endswith("sessions heard in training: not known")
    # Those that are known count alone.
    table["session"] = ["a", "b", "a", ""]
    assert describe(table)["sessions_seen"] == {"test": 1.0}


def test_clip_length_is_that_of_training(config):
    table = pd.DataFrame({"scene_label": ["Bus"] * 4})
    assert describe(table)["seconds"] is None
    table["duration"] = [5.0, 10.0, 20.0, 20.0]
    assert describe(table)["seconds"] == [5, 10]
    assert describe(table, clip_length=4)["seconds"] == [4, 4]
    training = describe(table, clip_length=4)
    assert facts({**config, "training": training})["clip length"] == "4 s"


def test_synthetic_data_are_called_so(config):
    table = pd.DataFrame({"scene_label": ["Bus"] * 4})
    table["dataset"] = "CAS 2023 (synthetic)"
    (found,) = [
        sentence
        for sentence in limits({**config, "training": describe(table)})
        if "synthetic" in sentence
    ]
    assert "CAS 2023 (synthetic)" in found and "real recordings" in found
