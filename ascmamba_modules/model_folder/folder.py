"""The folder ``model/`` that a finished stage leaves behind.

It is what ``SceneClassifier.from_hparams`` loads, where the next stage
starts, and what can be uploaded to a hub as it is:

- ``hyperparams.yaml``: what SpeechBrain builds the model from;
- a file for each part, no pickle (:mod:`~ascmamba_modules.model_folder.parts`);
- ``config.json``: what is known of the model and its training
  (:mod:`~ascmamba_modules.model_folder.config`);
- ``README.md``: the model card (:mod:`~ascmamba_modules.model_folder.card`).
"""

import io
import json
import shutil
from inspect import signature
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.logger import get_logger

from ascmamba_modules import __version__
from ascmamba_modules.model_folder.card import write_card
from ascmamba_modules.model_folder.config import CONFIG, find_model
from ascmamba_modules.model_folder.parts import (
    FILES,
    RELIANCE,
    load_labels,
    load_statistics,
    read_tensors,
    save_part,
)
from ascmamba_modules.pipeline import class_names
from ascmamba_modules.utils.checkpoints import check_fit

logger = get_logger(__name__)

_YAML = "hyperparams.yaml"
_CLASSIFIER = "classifier."
# Settings of a model that do not change which weights it has.
_MAY_DIFFER = ("n_classes", "superset", "dropout", "engine")
# Settings that a training cannot change on the way.
SHAPING = ("scene_labels", "superset", "use_context", "features", "model")
# Those that may differ even once it is finished, and what is made of them.
_FREE = (
    *("output_folder", "save_folder", "train_log", "tensorboard"),
    *("manifest", "data_folder", "corpus"),  # rows are compared
    *("number_of_epochs", "patience", "num_workers", "pin_memory"),
    *("feature_cache", "cache_dtype", "scan_engine"),
    *("train_dataloader_opts", "test_dataloader_opts", "train_loggers"),
    *("modules", "checkpointer", "epoch_counter", "lr_annealing"),
    *("__set_seed", "n_classes", "n_labels"),
)
_HEADER = """\
# Written by a training stage; load it with
#   ascmamba_modules.inference.SceneClassifier.from_hparams(source=THIS_FOLDER)
# or, without place and time, with SpeechBrain's own EncoderClassifier.
# Loading builds what this file names, so load only folders that you trust;
# others with SceneClassifier.from_hparams(source=THIS_FOLDER, trusted=False),
# which refuses what is not known to be harmless.
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
_ROOM = "ascmamba_modules.model_folder"
_INTERFACE = f"""\
# Under SpeechBrain's names, for its EncoderClassifier
embedding_model: !new:{_ROOM}.encoder_classifier.EmbeddingModel
  model: !ref <model>
{{}}classifier: !new:{_ROOM}.encoder_classifier.Classifier
  model: !ref <model>
"""
_INTERFACE_MODULES = {
    "compute_features": "features",
    "mean_var_norm": "normalize",
    "embedding_model": "embedding_model",
    "classifier": "classifier",
}


def write_model_folder(hparams, resolved_yaml, folder, training=None):
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
    training : dict, optional
        What the model was trained on and how it scored, as from
        :func:`ascmamba_modules.model_folder.training.describe_training`.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir(parents=True)
    uses_context = "context_encoder" in hparams["modules"]
    used = _used(uses_context)
    # SpeechBrain's interface asks for an embedding and what classifies it.
    model, labels = hparams["model"], hparams["label_encoder"]
    is_split = hasattr(model, "embed") and hasattr(model, "classifier")
    stage = Path(resolved_yaml).read_text("utf-8")
    text = description(stage, uses_context, is_split)
    (temporary / _YAML).write_text(text, "utf-8")
    for name in FILES:
        if name in used:
            save_part(name, hparams[name], temporary)
    config = {
        "ascmamba_version": __version__,
        "classes": class_names(labels),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(
            parameter.numel()
            for name in ("context_encoder", "model")
            if name in used
            for parameter in hparams[name].parameters()
        ),
        "takes_context": uses_context,
        "training": training,
    }
    if is_split:
        config = {"speechbrain_interface": "EncoderClassifier", **config}
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
    (temporary / CONFIG).write_text(text + "\n", "utf-8")
    write_card(config, temporary)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    logger.info("Model written to %s", folder)


def _used(uses_context):
    return [
        name
        for name in _PARTS
        if uses_context or name not in ("tokenizer", "context_encoder")
    ]


def description(stage, uses_context, is_split):
    """Writes ``hyperparams.yaml`` of a model folder.

    Arguments
    ---------
    stage : str
        The training stage's, references resolved.
    uses_context : bool
        Whether the model takes place and time.
    is_split : bool
        Whether the model has ``embed`` and ``classifier``.

    Returns
    -------
    str
        YAML.
    """
    used = _used(uses_context)
    yaml, stream = YAML(), io.StringIO()
    stage = yaml.load(stage)
    model = stage["model"]
    if isinstance(model, dict) and "engine" in model:
        model["engine"] = "auto"  # where it is loaded there may be no GPU
    yaml.dump(
        {name: _without_apply(stage[name], yaml) for name in used}, stream
    )
    modules = {
        name: name
        for name in ("features", "normalize", "context_encoder", "model")
        if name in used
    }
    lines = [_HEADER + stream.getvalue().rstrip()]
    if is_split:
        encoder = "  context_encoder: !ref <context_encoder>\n"
        encoder = encoder if "context_encoder" in used else ""
        lines.append(_INTERFACE.format(encoder).rstrip())
        modules.update(_INTERFACE_MODULES)
    lines += [
        "modules:",
        *(f"  {name}: !ref <{part}>" for name, part in modules.items()),
        f"pretrainer: !new:{_ROOM}.parts.FolderPretrainer",
        "  features: !ref <features>",
        "  loadables:",
        *(f"    {name}: !ref <{name}>" for name in FILES if name in used),
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
        Names of the settings that differ and that the weights depend on;
        objects among them where nothing else differs, or of ``SHAPING``.

    Raises
    ------
    ValueError
        If the old settings are not whole, and the rest does not differ.

    Example
    -------
    >>> changed_settings("patience: 9\\nlr: 1", "patience: 5\\nlr: 2")
    ['lr']
    >>> changed_settings("scene_labels: [a, b]", "scene_labels: [b, a]")
    ['scene_labels']
    >>> changed_settings("model: !new:a.A {n: 1}", "model: !new:a.B {n: 1}")
    ['model']
    >>> tags = "scene_labels: !apply:tags"
    >>> changed_settings(tags, tags)
    []
    """
    try:
        old, new = (YAML().load(text) for text in (old_yaml, new_yaml))
    except YAMLError as error:
        raise ValueError(f"{error}".splitlines()[0]) from None
    if not isinstance(old, dict):
        raise ValueError("it is empty")
    names = [name for name in new if name not in _FREE]
    is_cut = bool(new.keys() - old.keys())
    if is_cut:  # its last setting may be cut, too
        names = [n for n in names if n in [*old][:-1]]
    for settings in (old, new):
        for free in ("dropout", "engine"):
            if isinstance(model := settings.get("model"), dict):
                model.pop(free, None)
    changed = [n for n in names if _plain(old.get(n)) != _plain(new[n])]
    if is_cut and not changed:
        raise ValueError("it is cut short, or of an earlier version")
    settings = [n for n in changed if n in SHAPING or not _plain(new[n])[0]]
    return settings or changed


def _plain(node):
    """A node of YAML with the tags in it, to be compared: ruamel.yaml leaves
    them out, and tells scalars with tags apart by identity."""
    tag = str(getattr(getattr(node, "tag", None), "value", None) or "")
    if isinstance(node, dict):
        return tag, {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return tag, [_plain(value) for value in node]
    return tag, getattr(node, "value", node)


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
    path = Path(output_folder, _YAML)
    if not path.exists():
        return None
    try:
        settings = YAML().load(path.read_text("utf-8"))
    except (ValueError, YAMLError):
        return None  # damaged
    return settings.get("stage") if isinstance(settings, dict) else None


def model_files(folder):
    """Lists what a model is built from, without the card and the like.

    Arguments
    ---------
    folder : str or Path
        The folder, as for :func:`find_model`.

    Returns
    -------
    list
        Paths of the files that exist.
    """
    names = (_YAML, *FILES.values(), RELIANCE)
    paths = [find_model(folder) / name for name in names]
    return [path for path in paths if path.is_file()]


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
        The stage's hyperparameters: features, model, normalize, scene_labels,
        and context_encoder and tokenizer if its modules include the former.
    resolved_yaml : str or Path
        The stage's ``hyperparams.yaml``, references resolved.

    Raises
    ------
    FileNotFoundError
        If there is no finished model in the folder.
    ValueError
        If a file of the model is damaged, or if the two differ in their
        features, or their models in more than the classes.
    """
    folder = find_model(folder)
    earlier, here = (
        _read_settings(path) for path in (folder / _YAML, resolved_yaml)
    )
    parameters = signature(type(hparams["features"])).parameters
    defaults = {name: value.default for name, value in parameters.items()}
    theirs, ours = (defaults | dict(x["features"]) for x in (earlier, here))
    settings = [
        f"--{name} {theirs.get(name)}"
        for name in theirs | ours
        if theirs.get(name) != ours.get(name)
    ]
    if settings:
        raise ValueError(
            f"The model in {folder} takes other features than this stage: give "
            f"both the same settings ({' '.join(settings)})."
        )
    differing = [
        f"{name} {value}"
        for name, value in earlier["model"].items()
        if name not in _MAY_DIFFER and here["model"].get(name) != value
    ]
    classes = CategoricalEncoder()
    load_labels(classes, folder / FILES["label_encoder"])
    same = classes.lab2ind == {
        label: index for index, label in enumerate(hparams["scene_labels"])
    }
    try:
        _take_over(hparams["model"], folder / FILES["model"], same)
    except ValueError as error:
        if not differing:
            raise
        raise ValueError(
            f"{error} Give this stage that model's settings: "
            f"{', '.join(differing)}."
        ) from None
    load_statistics(hparams["normalize"], folder / FILES["normalize"])
    context_file = folder / FILES["context_encoder"]
    if context_file.exists() and "context_encoder" in hparams["modules"]:
        hparams["tokenizer"].load(folder / FILES["tokenizer"])
        _take_over(hparams["context_encoder"], context_file)
    logger.info(
        "Started from the model in %s; classifier %s",
        folder,
        "kept" if same else "made anew, because the classes differ",
    )


def _read_settings(path):
    try:
        settings = YAML().load(Path(path).read_text("utf-8"))
    except (ValueError, YAMLError) as error:
        reason = f"{error}".splitlines()[0]
        raise ValueError(f"{path} is damaged: {reason}") from None
    is_whole = isinstance(settings, dict) and "features" in settings
    if not is_whole or not isinstance(settings.get("model"), dict):
        raise ValueError(f"{path} is damaged: it has no features or no model")
    return settings


def _take_over(module, path, keep_classifier=True):
    own = module.state_dict()
    given = read_tensors(path)
    if not keep_classifier:
        given = {k: v for k, v in given.items() if not _in_classifier(k)}
        given.update({k: v for k, v in own.items() if _in_classifier(k)})
    check_fit(given, own, path)
    module.load_state_dict(given)


def _in_classifier(name):
    return name.startswith((_CLASSIFIER, f"coarse_{_CLASSIFIER}"))
