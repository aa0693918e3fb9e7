"""The model folder: what is in it, where it loads from, what is refused."""

import pickle
import shutil
import socket

import huggingface_hub
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from small_models import MODELS, write_folder
from speechbrain.inference.classifiers import EncoderClassifier

from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import start_from

FILES = {
    "README.md",
    "config.json",
    "context_encoder.safetensors",
    "hyperparams.yaml",
    "label_encoder.txt",
    "model.safetensors",
    "normalize.safetensors",
    "tokenizer.model",
}

CONTEXTS = [*((name, True) for name in MODELS), ("ascmamba", False)]


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


@pytest.mark.parametrize("model, uses_context", CONTEXTS)
def test_plain_speechbrain_gives_the_same(model, uses_context, tmp_path):
    folder, _ = write_folder(tmp_path, model, uses_context)
    wav = tmp_path / "clip.wav"
    theirs = EncoderClassifier.from_hparams(
        str(folder), run_opts={"device": "cpu"}
    )
    ours = load(folder)
    for rate, channels in ((44100, 1), (16000, 2)):
        samples = 0.1 * torch.randn(rate // 2, channels)
        soundfile.write(wav, samples.numpy(), rate)
        expected, _, _, label = ours.classify_file(wav)
        out_prob, _, _, text_lab = theirs.classify_file(str(wav))
        torch.testing.assert_close(out_prob, expected, atol=1e-6, rtol=0)
        assert text_lab == label
    # With padding, too, and an embedding as the model itself makes it.
    wavs, lengths = 0.1 * torch.randn(2, 22050), torch.tensor([1.0, 0.5])
    wavs[1, 11025:] = 0
    torch.testing.assert_close(
        theirs.classify_batch(wavs, lengths)[0],
        ours.classify_batch(wavs, lengths)[0],
    )
    torch.testing.assert_close(
        theirs.encode_batch(wavs), ours.embed_batch(wavs)
    )


def test_plain_speechbrain_refuses_weights_that_do_not_fit(own_folder):
    path = own_folder / "model.safetensors"
    state = load_file(path)
    renamed(state)
    save_file(state, path)
    with pytest.raises(ValueError, match="classifier.weight"):
        EncoderClassifier.from_hparams(str(own_folder))


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
    assert set(fetched) == FILES - {"README.md", "config.json"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_missing_file_is_named(own_folder, name, trusted):
    (own_folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(own_folder, trusted=trusted)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "name", sorted(FILES - {"README.md", "config.json", "hyperparams.yaml"})
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


def not_finite(state):
    state["classifier.weight"][0, 0] = torch.inf


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("change", [renamed, reshaped, retyped, not_finite])
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
        {"glob_std": torch.full((64,), torch.inf)},
        {"glob_mean": torch.zeros(1)},
        {"glob_mean": torch.zeros(1), "glob_std": torch.ones(1)},
        {"glob_mean": torch.zeros(10), "glob_std": torch.ones(10)},
        {"count": torch.tensor(1.0)},
        {"other": torch.zeros(1)},
    ],
)
def test_statistics_that_cannot_be_are_refused(own_folder, change):
    path = own_folder / "normalize.safetensors"
    save_file({**load_file(path), **change}, path)
    with pytest.raises(ValueError, match="normalize.safetensors"):
        load(own_folder)


@pytest.mark.parametrize(
    "lines",
    [
        "'Bus' => 0\n'Bar' => 1\n",
        "'Bus' => 0\n'Bar' => 1\n'Park' => 3\n",
        "'Bus' => 0\n'Bus' => 1\n'Park' => 2\n",
        "['Bus'] => 0\n'Bar' => 1\n'Park' => 2\n",
        "3 => 0\n'Bar' => 1\n'Park' => 2\n",
        "'Bus' => 0\n" * 200_000,
    ],
)
def test_classes_that_cannot_be_are_refused(own_folder, lines):
    path = own_folder / "label_encoder.txt"
    _, separator, end = path.read_text().partition("====")
    path.write_text(lines + separator + end)
    with pytest.raises(ValueError, match="label_encoder.txt"):
        load(own_folder)


@pytest.mark.parametrize(
    "name, text",
    [
        ("label_encoder.txt", ""),
        ("label_encoder.txt", "nonsense"),
        ("hyperparams.yaml", ""),
        ("hyperparams.yaml", "features: {n_mels: 64"),
        ("hyperparams.yaml", "- features"),
    ],
)
def test_a_stage_does_not_start_from_a_damaged_file(tmp_path, name, text):
    folder, hparams = write_folder(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        start_from(folder, hparams, tmp_path / "hyperparams.yaml")


def test_failure_leaves_the_older_folder(tmp_path, monkeypatch):
    folder, _ = write_folder(tmp_path)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("ascmamba_modules.model_folder.folder.write_card", fail)
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_folder_with_odd_name_moves(model_folder, tmp_path):
    moved = shutil.copytree(model_folder, tmp_path / "modèle 世界 'x'")
    load(moved)
    load(moved, trusted=False)
    assert {file.name for file in moved.iterdir()} == FILES
