"""The model card against what the training was."""

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from small_models import make_stage, training_of

from ascmamba_modules.model_folder.card import all_datasets
from ascmamba_modules.model_folder.training import describe_training


@pytest.fixture(scope="module")
def training():
    return training_of(make_stage("ascmamba")[1])


def test_description(training):
    assert training["clips"] == {
        "train": {"Bus": 2, "Bar": 1, "Park": 1},
        "valid": {"Bus": 2, "Bar": 1, "Park": 1},
    }
    assert training["datasets"] == {"ESC-10": 3, "mine": 1}
    # Sessions a and b are in training, a c d d are validated.
    assert training["sessions_seen"] == {"valid": 0.25}
    assert training["settings"] == {"stage": "finetune", "lr": 0.001}


def test_no_paths_are_told(training):
    assert "somebody" not in str(training)
    assert training["manifest"] == "clips.csv"


def test_hub_reads_the_front_matter(model_folder):
    card = ModelCard.load(model_folder / "README.md")
    assert card.data.library_name == "speechbrain"
    assert card.data.pipeline_tag == "audio-classification"
    assert "acoustic-scene-classification" in card.data.tags


def test_card_states_data_scores_limits_and_licences(model_folder):
    text = (model_folder / "README.md").read_text("utf-8")
    for line in (
        "| Bus | 2 | 2 |",
        "| all | 4 | 4 |",
        "| valid | 62.5 % | 4 | 25.0 % |",
        "- ESC-10, 3 training clips: licence Creative Commons Attribution 3.0",
        "- mine, 1 training clips: licence not known",
        "stage finetune, lr 0.001.",
    ):
        assert line in text.splitlines()
    assert "25.0 % of the validation clips are from sessions" in text
    assert "One valid clip more or less of the smallest class is 33.3" in text
    assert "None" not in text


def test_data_of_earlier_stages_count(training):
    later = {**training, "datasets": {"mine": 9}, "started_from": training}
    assert all_datasets(later) == {"mine": 9, "ESC-10": 3}


def test_rows_without_metadata_are_sessions_of_their_own():
    table = pd.DataFrame("", index=range(4), columns=["ID", "scene_label"])
    table["ID"], table["scene_label"] = list("abcd"), "Bus"
    for name in ("location", "record_time", "session", "dataset"):
        table[name] = ""
    table["label_source"] = ""
    rows = {"train": table[:2], "valid": table[:0], "test": table[2:]}
    hparams = {"manifest": "a.csv", "scene_labels": ["Bus"]}
    training = describe_training(hparams, rows, {"valid": None, "test": 1.0})
    assert training["sessions_seen"] == {"test": 0.0}
    assert training["datasets"] == {"not known": 2}
