"""Folders that try to run something, loaded without trust."""

import os
import pickle
import resource
import time
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.model_folder.folder import description
from ascmamba_modules.model_folder.safe_loading import check_description

HPARAMS = Path(__file__).resolve().parents[3] / "hparams"
STAGES = [
    str(path.relative_to(HPARAMS))
    for path in sorted(HPARAMS.rglob("*.yaml"))
    if "\npretrained_folder:" in path.read_text("utf-8")
]


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


def change(folder, old, new):
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# Each runs something when SpeechBrain loads it.
RUNS = [
    "evil: !apply:os.system ['touch \"{trap}\"']",
    "evil: !new:subprocess.Popen [[touch, '{trap}']]",
    "evil: !new:logging.FileHandler ['{trap}']",
    "evil: !!python/object/apply:os.system ['touch \"{trap}\"']",
    "evil: !applyref:os.system ['touch \"{trap}\"']",
    "evil: (!!python/object/apply:os.system ['touch \"{trap}\"'], 1)",
    "evil: !tuple x!!python/object/apply:os.system ['touch \"{trap}\"']x",
    "evil: !include:{include}",
    "evil: [1, {{a: !apply:os.system ['touch \"{trap}\"']}}]",
    "__evil: &evil !apply:os.system ['touch \"{trap}\"']",
    "evil: {{<<: {{a: !apply:os.system ['touch \"{trap}\"']}}}}",
    "evil: !name:os.system ['touch \"{trap}\"']\nthen: !ref <evil.func>",
]


@pytest.mark.parametrize("line", RUNS)
def test_nothing_runs(own_folder, tmp_path, line):
    trap, include = tmp_path / "trap", own_folder / "include.yaml"
    include.write_text(f"a: !apply:os.system ['touch \"{trap}\"']")
    line = line.format(trap=trap, include=include.name)
    text = (own_folder / "hyperparams.yaml").read_text()
    (own_folder / "hyperparams.yaml").write_text(line + "\n" + text)
    with pytest.raises(ValueError, match="hyperparams.yaml: "):
        load(own_folder)
    assert not trap.exists()
    if ".func" in line:
        return
    try:  # it would have worked
        with open(own_folder / "hyperparams.yaml") as file:
            load_hyperpyyaml(file)
    except Exception:
        pass
    end = time.monotonic() + 60
    while not trap.exists() and time.monotonic() < end:
        time.sleep(0.01)  # Popen does not wait for its process
    assert trap.exists()


@pytest.mark.parametrize(
    "old, new",
    [
        ("!new:ascmamba_modules.ascmamba.ASCMamba", "!new:os.system"),
        ("!new:ascmamba_modules.ascmamba.ASCMamba", "!apply:os.system"),
        ("!new:ascmamba_modules.ascmamba.ASCMamba", "!name:os.system"),
        ("!new:ascmamba_modules.ascmamba.ASCMamba", "!module:os"),
        # A class that is known, but not in this place.
        ("features.LogMel", "context.ContextTokenizer"),
        # One of this package's own, that takes a path.
        ("features.LogMel", "data.feature_cache.FeatureCache"),
        ("  d_state: 2", "  d_state: !new:collections.Counter"),
        ("  d_state: 2", "  d_state: [!new:collections.Counter ]"),
        ("  d_state: 2", "  d_state: {a: 1}"),
        ("  d_state: 2", "  ? !new:collections.Counter\n  : 2"),
        ("  d_state: 2", "  d_state: !!python/name:os.system"),
        ("  d_state: 2", "  engine: (!!python/object/apply:os.system [ls])"),
        ("  d_state: 2", "  engine: !tuple x!!python/name:os.systemx"),
        ("  d_state: 2", "  d_state: 2001-01-01"),
        ("  d_state: 2", "  d_state: !ref <model[n_classes]>"),
        ("  d_state: 2", "  d_state: !ref <model.n_classes>"),
        ("  d_state: 2", "  d_state: !ref <seed>**<seed>"),
        ("  d_state: 2", "  d_state: !copy <seed>"),
        ("  d_state: 2", '  engine: "<seed><seed>"'),
        ("  d_state: 2", "  engine: " + 300 * "a"),
        ("  d_state: 2", "  other: 1.0e+9"),
        ("  d_state: 2", "  d_state: [many]"),
        ("  n_blocks: 1", "  n_blocks: 1_000_000"),
        ("  n_blocks: 1", "  n_blocks: true"),
        ("  n_blocks: 1", "  n_blocks: 1.5"),
        ("  n_blocks: 1", "  n_blocks: null"),
        ("  channels: 4", "  channels: 100000"),
        ("  channels: 4", "  channels: -4"),
        ("  channels: 4", "  channels: (4, 100000)"),
        ("  channels: 4", "  channels: many"),
        ("  channels: 4", f"  channels: {100 * [4]}"),
        ("  n_classes: 3", "  n_classes: 100000"),
        ("  n_classes: 3", "  n_mels: 9\n  ? !apply:os.system [ls]\n  : 3"),
        ("  sample_rate: 44100", "  sample_rate: 0"),
        ("  sample_rate: 44100", "  sample_rate: -44100"),
        ("  sample_rate: 44100", "  sample_rate: x"),
        ("  sample_rate: 44100", "  sample_rate: .nan"),
        ("  sample_rate: 44100", "  sample_rate: [44100]"),
        ("  sample_rate: 44100", "  sample_rate: (44100, 1)"),
        ("  sample_rate: 44100", "  sample_rate: 44100\n  mix: keep"),
        ("features.LogMel", "features.LogMel\n  sample_rate: 16000"),
        ("features.LogMel", "features.LogMel\n  n_fft: 1000000000"),
        ("features.LogMel", "features.LogMel\n  n_mels: 100000"),
        ("features.LogMel", "features.LogMel [44100]"),
        ("  features: !ref <features>", "  strange: !ref <features>"),
        ("pretrainer:", "trainer:"),
        ("modules:", "modules: &m\n  more: *m"),
        ("audio_normalizer:", "more: 1\naudio_normalizer:"),
        (
            "features: !new:ascmamba_modules.features.LogMel",
            "features: !ref <model>",
        ),
        ("# Written", "%YAML 1.1\n---\n# Written"),
        ("audio_normalizer:", "%TAG ! tag:x,2000:\n---\naudio_normalizer:"),
    ],
)
def test_description_is_refused(own_folder, old, new):
    change(own_folder, old, new)
    with pytest.raises(ValueError, match="hyperparams.yaml: "):
        check_description(own_folder / "hyperparams.yaml")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "7", "a: b: c", "[" * 10_000, "- " * 5_000, "#" * 30_000),
        # Nine aliases to nine aliases to ...
        "a: &a [1]\n"
        + "".join(
            f"{new}: &{new} [{', '.join(9 * ['*' + old])}]\n"
            for old, new in zip("abcdefghi", "bcdefghij")
        ),
        "model: &m\n  model: *m",
    ],
)
def test_text_that_describes_no_model_is_refused(own_folder, text):
    (own_folder / "hyperparams.yaml").write_text(text)
    with pytest.raises(ValueError, match="hyperparams.yaml: "):
        check_description(own_folder / "hyperparams.yaml")


def test_aliases_are_followed_and_counted(own_folder):
    path = own_folder / "hyperparams.yaml"
    text = path.read_text()
    for name in ("features", "normalize", "model"):
        text = text.replace(f"\n{name}: !new", f"\n{name}: &{name} !new")
    parts = "features: *features, normalize: *normalize, model: *model"
    modules = f"{{{parts}}}"
    for i in range(14):  # twice as many at each level
        modules = f"{{{parts}, modules: &m{i} {modules}, loadables: *m{i}}}"
    start, _, end = text.partition("modules:")
    path.write_text(
        f"{start}modules: {modules}\n{end[end.index('pretrainer:') :]}"
    )
    with pytest.raises(ValueError, match="more than 10000 values"):
        check_description(path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("  d_state: 2", "  command: touch", "cannot be loaded.*command"),
        (
            "features.LogMel",
            "features.LogMel\n  win_length: 400",
            "a window of",
        ),
        ("    tokenizer: !ref <tokenizer>\n", "", "loadables must be"),
        ("    model: !ref <model>\n", "", "loadables must be"),
    ],
)
def test_parts_that_do_not_fit_are_refused(own_folder, old, new, message):
    change(own_folder, old, new)
    with pytest.raises(ValueError, match=message):
        load(own_folder)


def test_pipe_is_no_description(tmp_path):
    os.mkfifo(tmp_path / "hyperparams.yaml")
    with pytest.raises(FileNotFoundError, match="no regular file"):
        check_description(tmp_path / "hyperparams.yaml")


def test_what_is_plain_passes(own_folder):
    change(own_folder, "features.LogMel", "features.LogMel\n  f_max: null")
    change(own_folder, "  d_state: 2", "  d_state: 2\n  scales: (1, 2)")
    check_description(own_folder / "hyperparams.yaml")


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "normalize.safetensors",
        "label_encoder.txt",
        "tokenizer.model",
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


@pytest.mark.parametrize("name", STAGES)
def test_models_of_the_recipe_pass(tmp_path, name):
    stage = (HPARAMS / name).read_text("utf-8").replace("!PLACEHOLDER", "x")
    stage = resolve_references(stage).read()
    uses_context = "\ntokenizer:" in stage
    (tmp_path / "hyperparams.yaml").write_text(
        description(stage, uses_context, is_split=True)
    )
    check_description(tmp_path / "hyperparams.yaml")


def test_engine_is_chosen_where_the_model_is_loaded():
    stage = (HPARAMS / "finetune.yaml").read_text("utf-8")
    settings = {"manifest": "x", "scan_engine": "triton"}
    text = description(resolve_references(stage, settings).read(), True, True)
    assert "engine: auto" in text and "triton" not in text


def test_settings_in_bounds_that_are_too_much_together(own_folder):
    largest = "channels: 512\n  expand: 8\n  depth: 6\n  d_state: 256"
    change(own_folder, "channels: 4\n  n_blocks: 1", largest)
    change(own_folder, "  d_state: 2\n", "  n_blocks: 16\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="model has 673,182,291 weights"):
        load(own_folder)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200_000  # kB; its weights are 2.7 GB
