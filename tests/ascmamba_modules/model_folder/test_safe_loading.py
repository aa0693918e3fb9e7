"""Folders that try to run something, loaded without trust."""

import json
import os
import pickle

import pytest
import torch

from ascmamba_modules.inference import SceneClassifier


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def load(folder, trusted=False):
    return SceneClassifier.from_hparams(
        folder, trusted=trusted, run_opts={"device": "cpu"}
    )


def change_settings(folder, change):
    path = folder / "settings.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "line",
    [
        "evil: !apply:os.system [\"touch '{trap}'\"]",
        "evil: !new:logging.FileHandler ['{trap}']",
    ],
)
def test_yaml_runs_only_when_trusted(own_folder, tmp_path, line):
    trap = tmp_path / "trap"
    yaml = own_folder / "hyperparams.yaml"
    yaml.write_text(line.format(trap=trap) + "\n" + yaml.read_text())
    load(own_folder)
    assert not trap.exists()
    load(own_folder, trusted=True)
    assert trap.exists()  # it would have worked


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "normalize.safetensors",
        "label_encoder.txt",
        "tokenizer.model",
        "settings.json",
    ],
)
def test_pickle_under_any_name_is_not_read(own_folder, tmp_path, name, trusted):
    trap = tmp_path / "trap"
    for write in (
        lambda path: path.write_bytes(pickle.dumps(Malice(trap))),
        lambda path: torch.save(Malice(trap), path),
    ):
        write(own_folder / name)
        with pytest.raises(ValueError, match=name):
            load(own_folder, trusted)
    assert not trap.exists()
    torch.load(own_folder / name, weights_only=False)
    assert trap.exists()  # it would have worked


@pytest.mark.parametrize("part", ["model", "features", "label_encoder"])
@pytest.mark.parametrize(
    "description",
    [
        {"class": "os.system", "arguments": {"command": "touch {trap}"}},
        {"class": "subprocess.Popen", "arguments": {"args": "touch {trap}"}},
        # A class of this package's own, that is not for this part.
        {"class": "ascmamba_modules.data.feature_cache.FeatureCache"}
        | {"arguments": {"folder": "{trap}"}},
        {"tag": "!apply:os.system"},
        "!apply:os.system ['touch {trap}']",
        ["touch {trap}"],
        None,
    ],
)
def test_other_classes_are_refused(own_folder, tmp_path, part, description):
    trap = tmp_path / "trap"
    text = json.dumps(description).replace("{trap}", str(trap))

    def change(settings):
        settings["parts"][part] = json.loads(text)

    change_settings(own_folder, change)
    with pytest.raises(ValueError, match=f"settings.json: {part} is "):
        load(own_folder)
    assert not trap.exists()
    load(own_folder, trusted=True)  # which reads the other file


def nested(settings):
    arguments = settings["parts"]["model"]["arguments"]
    arguments["engine"] = {"class": "os.system", "arguments": {}}


def unknown_argument(settings):
    settings["parts"]["model"]["arguments"]["command"] = "touch"


def unknown_part(settings):
    settings["parts"]["brain"] = {"class": "os.system", "arguments": {}}


def wrong_type(settings):
    settings["parts"]["model"]["arguments"]["channels"] = "many"


def list_of_classes(settings):
    settings["parts"]["model"]["arguments"]["depth"] = [{"class": "os.system"}]


def arguments_are_no_dict(settings):
    settings["parts"]["model"]["arguments"] = [3]


def no_model(settings):
    del settings["parts"]["model"]


def no_tokenizer(settings):
    del settings["parts"]["tokenizer"]


def other_classes(settings):
    settings["classes"] = settings["classes"][::-1]


@pytest.mark.parametrize(
    "change, message",
    [
        (nested, "engine is 'os.system'"),
        (unknown_argument, "model cannot be built.*command"),
        (unknown_part, "brain is 'os.system'"),
        (wrong_type, "model cannot be built"),
        (list_of_classes, "depth must hold numbers and text"),
        (arguments_are_no_dict, "model cannot be built"),
        (no_model, "no model is described"),
        (no_tokenizer, "one is missing"),
        (other_classes, "other classes"),
    ],
)
def test_settings_that_cannot_be_are_refused(own_folder, change, message):
    change_settings(own_folder, change)
    with pytest.raises(ValueError, match=message):
        load(own_folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"format_version": "2"}', "[" * 100_000]
)
def test_text_that_is_no_settings_is_refused(own_folder, text):
    (own_folder / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="settings.json.* damaged"):
        load(own_folder)


def test_options_that_only_yaml_has_are_refused(own_folder):
    with pytest.raises(ValueError, match="overrides"):
        SceneClassifier.from_hparams(
            own_folder, trusted=False, overrides={"a": 1}
        )
