"""The model folder: what is in it, where it loads from, what is refused."""

import json
import pickle
import shutil
import socket

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import MODELS, write_folder

from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import find_model, start_from

FILES = {
    "README.md",
    "context_encoder.safetensors",
    "hyperparams.yaml",
    "label_encoder.txt",
    "model.safetensors",
    "normalize.safetensors",
    "settings.json",
    "tokenizer.model",
}


def load(source, **options):
    return SceneClassifier.from_hparams(
        source, run_opts={"device": "cpu"}, **options
    )


def answer(hparams, wavs):
    """What the stage's own modules say of waveforms without place and time."""
    unknown = torch.zeros(len(wavs), 1, dtype=torch.long)
    with torch.no_grad():
        features = hparams["normalize"](hparams["features"](wavs))
        context = None
        if "context_encoder" in hparams["modules"]:
            context = hparams["context_encoder"](unknown, unknown)
        model = hparams["model"]
        return model.log_posteriors(model(features, context))


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("uses_context", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_comes_back(model, uses_context, trusted, tmp_path):
    folder, hparams = write_folder(tmp_path, model, uses_context)
    absent = {"context_encoder.safetensors", "tokenizer.model"}
    expected = FILES if uses_context else FILES - absent
    assert {file.name for file in folder.iterdir()} == expected
    wavs = 0.1 * torch.randn(2, 22050)
    out_prob, *_ = load(folder, trusted=trusted).classify_batch(wavs)
    torch.testing.assert_close(out_prob, answer(hparams, wavs))


def test_nothing_in_the_folder_is_a_pickle(model_folder):
    for file in model_folder.iterdir():
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError)):
            pickle.loads(file.read_bytes())
        assert not file.read_bytes().startswith(b"PK")  # torch.save's zip


@pytest.mark.parametrize("trusted", [True, False])
def test_loads_without_network(model_folder, monkeypatch, trusted):
    def no_network(*args, **kwargs):
        raise AssertionError("tried to open a socket")

    monkeypatch.setattr(socket, "socket", no_network)
    load(model_folder, trusted=trusted)


@pytest.mark.parametrize("trusted", [True, False])
def test_loads_by_its_name_on_a_hub(
    model_folder, monkeypatch, trusted, tmp_path
):
    """By SpeechBrain's own fetching; the hub's download alone is replaced."""
    fetched = []

    def download(repo_id, filename, **options):
        fetched.append(filename)
        assert repo_id == "owner/scenes"
        return str(model_folder / filename)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    wavs = torch.randn(1, 22050)
    torch.testing.assert_close(
        load("owner/scenes", trusted=trusted).classify_batch(wavs)[0],
        load(model_folder).classify_batch(wavs)[0],
    )
    unread = {"README.md"} if trusted else {"README.md", "hyperparams.yaml"}
    assert set(fetched) == FILES - unread
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_missing_file_is_named(own_folder, name, trusted):
    (own_folder / name).unlink()
    if name == "hyperparams.yaml" and not trusted:
        load(own_folder, trusted=trusted)
        return
    with pytest.raises(FileNotFoundError, match=name):
        load(own_folder, trusted=trusted)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "name", sorted(FILES - {"README.md", "hyperparams.yaml"})
)
def test_file_cut_short_is_named(own_folder, name, trusted):
    file = own_folder / name
    content = file.read_bytes()
    for size in (0, len(content) // 3, len(content) - 20):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=name):
            load(own_folder, trusted=trusted)


def renamed(state):
    state["stray"] = state.pop("classifier.weight")


def reshaped(state):
    state["classifier.weight"] = state["classifier.weight"][:2].contiguous()


def retyped(state):
    state["classifier.weight"] = state["classifier.weight"].double()


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("change", [renamed, reshaped, retyped])
def test_weights_that_do_not_fit_are_named(own_folder, change, trusted):
    path = own_folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match="classifier.weight"):
        load(own_folder, trusted=trusted)


@pytest.mark.parametrize(
    "change",
    [
        {"glob_std": torch.zeros(64)},
        {"glob_mean": torch.full((64,), torch.nan)},
        {"glob_mean": torch.zeros(1)},
        {"count": torch.tensor(1.0)},
        {"other": torch.zeros(1)},
    ],
)
def test_statistics_that_cannot_be_are_refused(own_folder, change):
    path = own_folder / "normalize.safetensors"
    save_file({**load_file(path), **change}, path)
    with pytest.raises(ValueError, match="normalize.safetensors"):
        load(own_folder)


def with_version(folder, version):
    settings = json.loads((folder / "settings.json").read_text())
    settings["format_version"] = version
    (folder / "settings.json").write_text(json.dumps(settings))


def first_format(folder):
    """As this package wrote folders before it had settings.json."""
    (folder / "settings.json").unlink()
    torch.save({}, folder / "model.ckpt")


@pytest.mark.parametrize("trusted", [True, False])
def test_other_versions_are_refused(own_folder, trusted):
    with_version(own_folder, 3)
    with pytest.raises(ValueError, match="format 3.*reads format 2"):
        load(own_folder, trusted=trusted)
    first_format(own_folder)
    with pytest.raises(ValueError, match="earlier version.*trains no more"):
        load(own_folder, trusted=trusted)


def test_no_stage_starts_from_another_version(own_folder):
    first_format(own_folder)
    assert find_model(own_folder) == own_folder
    with pytest.raises(ValueError, match="earlier version"):
        start_from(own_folder.parent, {}, own_folder / "hyperparams.yaml")


def test_failure_leaves_the_older_folder(tmp_path, monkeypatch):
    folder, _ = write_folder(tmp_path)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(
        "ascmamba_modules.model_folder.folder.write_settings", fail
    )
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_folder_with_odd_name_moves(model_folder, tmp_path):
    moved = shutil.copytree(model_folder, tmp_path / "modèle 世界 'x'")
    load(moved)
    load(moved, trusted=False)
