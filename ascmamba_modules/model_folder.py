"""The folder ``model/`` that a finished stage leaves behind.

It holds ``hyperparams.yaml`` and a ``.ckpt`` file for each part, is what
``SceneClassifier.from_hparams`` loads, and is where the next stage starts.
"""

import io
import shutil
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.checkpoints import (
    DEFAULT_SAVE_HOOKS,
    DEFAULT_TRANSFER_HOOKS,
    get_default_hook,
)
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

FOLDER = "model"
_SETTINGS = "hyperparams.yaml"
_WEIGHTS = "model.ckpt"
_CLASSIFIER = "classifier."
_HEADER = """\
# Written by a training stage; load it with
#   ascmamba_modules.inference.SceneClassifier.from_hparams(source=THIS_FOLDER)
# Loading builds what this file names, so load only folders that you trust.
"""
# In the order of the training YAML: what a model needs to classify.
_PARTS = (
    "audio_normalizer",
    "features",
    "normalize",
    "tokenizer",
    "context_encoder",
    "model",
    "label_encoder",
)
_LOADABLES = (
    "normalize",
    "tokenizer",
    "context_encoder",
    "model",
    "label_encoder",
)


def load_state_strictly(module, path):
    """Loads weights; every key and shape must fit.

    Arguments
    ---------
    module : torch.nn.Module
        Takes the weights.
    path : str or Path
        File with a state dict.

    Raises
    ------
    RuntimeError
        If keys or shapes differ (SpeechBrain's loader would warn and leave
        the weights random).
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state, strict=True)


def write_model_folder(hparams, resolved_yaml, folder):
    """Writes a trained model, whole or not at all.

    Arguments
    ---------
    hparams : dict
        The training stage's hyperparameters, with the trained objects.
    resolved_yaml : str or Path
        The stage's ``hyperparams.yaml``, references resolved, as
        ``speechbrain.create_experiment_directory`` writes it.
    folder : str or Path
        The folder to write; an older one is replaced.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir(parents=True)
    used = [name for name in _PARTS if _is_used(name, hparams)]
    settings = _settings(Path(resolved_yaml).read_text("utf-8"), used)
    (temporary / _SETTINGS).write_text(settings, "utf-8")
    for name in _LOADABLES:
        if name not in used:
            continue
        save = get_default_hook(hparams[name], DEFAULT_SAVE_HOOKS)
        save(hparams[name], temporary / f"{name}.ckpt")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    logger.info("Model written to %s", folder)


def _is_used(name, hparams):
    if name in ("tokenizer", "context_encoder"):
        return "context_encoder" in hparams["modules"]
    return True


def _settings(resolved_yaml, used):
    """The settings of the parts used, self-contained."""
    yaml = YAML()
    stage = yaml.load(resolved_yaml)
    settings = {name: _without_apply(stage[name], yaml) for name in used}
    settings["modules"] = {
        name: settings[name]
        for name in ("features", "normalize", "context_encoder", "model")
        if name in used
    }
    stream = io.StringIO()
    yaml.dump(settings, stream)
    loadables = [name for name in _LOADABLES if name in used]
    lines = [
        _HEADER + stream.getvalue().rstrip(),
        "pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer",
        "  loadables:",
        *(f"    {name}: !ref <{name}>" for name in loadables),
        "  custom_hooks:",
        *(
            f"    {name}: !name:{load_state_strictly.__module__}"
            f".{load_state_strictly.__name__}"
            for name in loadables
            if name in ("model", "context_encoder")
        ),
    ]
    return "\n".join(lines) + "\n"


def _without_apply(node, yaml):
    """Replaces ``!apply:`` by its result, so that loading calls less."""
    tag = str(getattr(getattr(node, "tag", None), "value", ""))
    if tag.startswith("!apply:"):
        stream = io.StringIO()
        yaml.dump({"result": node}, stream)
        return load_hyperpyyaml(stream.getvalue())["result"]
    if isinstance(node, dict):
        for key in node:
            node[key] = _without_apply(node[key], yaml)
    return node


def changed_settings(old_yaml, new_yaml):
    """Compares what a trained model was made with.

    Arguments
    ---------
    old_yaml, new_yaml : str
        Settings of two trainings, references resolved.

    Returns
    -------
    list
        Names of the settings that differ; dropout and the scan's engine may.

    Example
    -------
    >>> changed_settings("n_mels: 64\\nlr: 1", "n_mels: 32\\nlr: 2")
    []
    >>> changed_settings("scene_labels: [a, b]", "scene_labels: [b, a]")
    ['scene_labels']
    """
    old, new = (YAML().load(text) for text in (old_yaml, new_yaml))
    names = ("scene_labels", "superset", "use_context", "features", "model")
    for settings in (old, new):
        for free in ("dropout", "engine"):
            settings.get("model", {}).pop(free, None)
    return [name for name in names if old.get(name) != new.get(name)]


def stage_of(output_folder):
    """Tells which stage an output folder belongs to.

    Arguments
    ---------
    output_folder : str or Path
        The folder.

    Returns
    -------
    str or None
        The setting ``stage`` of what was run there; None if nothing was.

    Example
    -------
    >>> stage_of("no_such_folder")
    """
    path = Path(output_folder, _SETTINGS)
    if not path.exists():
        return None
    settings = YAML().load(path.read_text("utf-8"))
    return (settings or {}).get("stage")  # empty after a kill while writing


def find_model(folder):
    """Finds the model of a finished stage.

    Arguments
    ---------
    folder : str or Path
        The stage's output folder, or the folder ``model/`` in it.

    Returns
    -------
    Path
        The folder ``model/``.

    Raises
    ------
    FileNotFoundError
        If there is none, e.g. because the stage is not finished.
    """
    for place in (Path(folder, FOLDER), Path(folder)):
        if all((place / name).exists() for name in (_SETTINGS, _WEIGHTS)):
            return place
    raise FileNotFoundError(
        f"No finished model in {folder}: neither it nor {FOLDER}/ in it has "
        f"{_SETTINGS} and {_WEIGHTS}. Name the output folder of a finished "
        "stage."
    )


def start_from(folder, hparams, resolved_yaml):
    """Starts a stage from the model of an earlier one.

    All weights and the statistics of the features are taken over.  The
    classifier is, too, if the classes are the same, and is left as it was
    made if they differ.

    Arguments
    ---------
    folder : str or Path
        Output folder of the earlier stage, or its folder ``model/``.
    hparams : dict
        The stage's hyperparameters: model, normalize, scene_labels, and
        context_encoder and tokenizer if its modules include the former.
    resolved_yaml : str or Path
        The stage's ``hyperparams.yaml``, references resolved.

    Raises
    ------
    FileNotFoundError
        If there is no finished model in the folder.
    ValueError
        If the two differ in their features, or their models in more than the
        classes.
    """
    folder = find_model(folder)
    earlier, here = (
        YAML().load(Path(path).read_text("utf-8"))["features"]
        for path in (folder / _SETTINGS, resolved_yaml)
    )
    if dict(earlier) != dict(here):
        raise ValueError(
            f"The model in {folder} takes other features ({dict(earlier)}) "
            f"than this stage ({dict(here)}): give both the same settings."
        )
    classes = CategoricalEncoder.from_saved(folder / "label_encoder.ckpt")
    same = classes.lab2ind == {
        label: index for index, label in enumerate(hparams["scene_labels"])
    }
    _take_over(hparams["model"], folder / _WEIGHTS, keep_classifier=same)
    transfer = get_default_hook(hparams["normalize"], DEFAULT_TRANSFER_HOOKS)
    transfer(hparams["normalize"], folder / "normalize.ckpt")
    has_context = (folder / "context_encoder.ckpt").exists()
    if has_context and "context_encoder" in hparams["modules"]:
        hparams["tokenizer"].load(folder / "tokenizer.ckpt")
        _take_over(hparams["context_encoder"], folder / "context_encoder.ckpt")
    logger.info(
        "Started from the model in %s; classifier %s",
        folder,
        "kept" if same else "made anew, because the classes differ",
    )


def _take_over(module, path, keep_classifier=True):
    own = module.state_dict()
    given = torch.load(path, map_location="cpu", weights_only=True)
    if not keep_classifier:
        given = {k: v for k, v in given.items() if not _in_classifier(k)}
        given.update({k: v for k, v in own.items() if _in_classifier(k)})
    differing = sorted(
        name
        for name in own.keys() | given.keys()
        if name not in own
        or name not in given
        or own[name].shape != given[name].shape
    )
    if differing:
        shown = ", ".join(differing[:5])
        raise ValueError(
            f"The model in {path} does not fit: {len(differing)} parameters "
            f"are missing or differ in shape ({shown} ...). Give this stage "
            "the same model settings (channels, n_blocks ...) as that one."
        )
    module.load_state_dict(given)


def _in_classifier(name):
    return name.startswith((_CLASSIFIER, f"coarse_{_CLASSIFIER}"))
