"""What the scripts that take a YAML file share: command line and settings."""

import doctest

import common
import pytest
import torch
from recipe_commands import RECIPE

YAML = """
seed: 1
stage: one
output_folder: !ref {folder}/<seed>
manifest: !PLACEHOLDER
models: !PLACEHOLDER
channels: 64
use_context: True
clip_length: null
"""


def test_examples():
    assert doctest.testmod(common).attempted
    assert not doctest.testmod(common).failed


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "^usage: python .* hparams/STAGE.yaml --manifest FILE"),
        ("a.yaml --lr 1 --lr 2", "^--lr is given 2 times$"),
        ("a.yaml --device=cpu --device cpu", "^--device is given 2 times$"),
        ("a.yaml --channels 4 --lr", "^--lr has no value$"),
        ("a.yaml --lr --channels 4", "^--lr has no value$"),
        ("a.yaml --device gpu", "^--device gpu is no device: take cpu, cuda"),
        ("a.yaml --device cpu --precision fp16", "^--precision fp16 needs a G"),
    ],
)
def test_command_lines_that_are_refused(words, message):
    with pytest.raises(SystemExit, match=message):
        common.parse_arguments(words.split())


def test_options_without_values_may_be_repeated():
    words = "a.yaml --debug --device cpu --debug"
    _, options, overrides = common.parse_arguments(words.split())
    assert options["debug"] and not overrides


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there():
    with pytest.raises(SystemExit) as error:
        common.parse_arguments(["a.yaml", "--device", "cuda"])
    assert error.value.code.startswith("--device cuda cannot be used here")
    assert "\n" not in error.value.code


@pytest.fixture
def load(tmp_path):
    """A function that loads a YAML file with settings replaced."""
    path = tmp_path / "a.yaml"
    path.write_text(YAML.format(folder=tmp_path / "output"))

    def load(check=None, **overrides):
        return common.load_hparams(path, overrides, check)

    return load


def test_settings_are_replaced_and_checked(load):
    checked = []
    hparams = load(checked.append, manifest="m.csv", models="x", seed=2)
    assert [dict(settings) for settings in checked] == [hparams]
    assert hparams["output_folder"].endswith("output/2")


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({}, "a.yaml: --manifest, --models must be given$"),
        ({"models": 1}, "a.yaml: --manifest must be given$"),
        ({"chanels": 16}, "no setting 'chanels': did you mean --channels[?]$"),
        ({"devise": "cpu"}, "no setting 'devise': did you mean --device[?]$"),
        ({"xyz": 1}, "no setting 'xyz': see the file$"),
        ({"channels": "many"}, "channels must be a number, got many$"),
        ({"channels": True}, "channels must be a number, got True$"),
        ({"use_context": 3}, "use_context must be True or False, got 3$"),
    ],
)
def test_settings_that_are_refused(load, tmp_path, overrides, message):
    with pytest.raises(SystemExit, match=message):
        load(**overrides)
    assert not (tmp_path / "output").exists()


def test_checks_of_a_stage_end_in_one_line(load):
    def check(hparams):
        common.check_range(hparams, "channels", low=100)

    with pytest.raises(SystemExit, match="channels must be a number from 100"):
        load(check, manifest="", models="")


@pytest.mark.parametrize("value", ["3", None, True, 0, 5, float("nan"), 1.5])
def test_numbers_out_of_range(value):
    with pytest.raises(ValueError, match="n must be a whole number from 1 to"):
        common.check_range({"n": value}, "n", low=1, high=4, whole=True)


def test_output_folder_that_cannot_be_made(load, tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "new"
    with pytest.raises(SystemExit) as error:
        load(manifest="", models="", output_folder=str(folder))
    message = f"--output_folder {folder}: {tmp_path / 'file'} cannot be written"
    assert error.value.code.startswith(message)


def test_lock_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "LOCK_SECONDS", 0)
    for _ in range(2):
        with pytest.raises(KeyError), common.locked(tmp_path / "new"):
            with pytest.raises(SystemExit, match="another run is at work"):
                with common.locked(tmp_path / "new"):
                    pass
            raise KeyError


def test_every_stage_has_a_yaml_with_an_output_folder():
    """Else it could not be told whose output folder one is."""
    for path in (RECIPE / "hparams").rglob("*.yaml"):
        settings = common.YAML().load(path.read_text("utf-8"))
        assert {"stage", "output_folder", "manifest"} <= settings.keys()
