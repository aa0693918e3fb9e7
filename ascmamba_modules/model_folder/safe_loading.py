"""Checks what a model of unknown origin would build, before it is built.

``hyperparams.yaml``, from which SpeechBrain builds a model, can name any class
and call any function.  Without trust it may name the classes below alone, with
plain settings of sensible size.
"""

import io
import re

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, Loader
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from ascmamba_modules.model_folder.config import read_text

_PACKAGE = "ascmamba_modules"
_FEATURES = (
    f"{_PACKAGE}.features.LogMel",
    f"{_PACKAGE}.encoders.mobilenet.KaldiLogMel",
    f"{_PACKAGE}.encoders.beats.KaldiFbank",
)
_NORMALIZE = (
    "speechbrain.processing.features.InputNormalization",
    f"{_PACKAGE}.features.FixedNormalization",
)
# The classes that a part, or an argument of one, may be of.  Their constructors
# take plain data and touch neither files nor other code.
CLASSES = {
    "audio_normalizer": ("speechbrain.dataio.preprocess.AudioNormalizer",),
    "features": _FEATURES,
    "normalize": _NORMALIZE,
    "tokenizer": (f"{_PACKAGE}.context.ContextTokenizer",),
    "context_encoder": (f"{_PACKAGE}.context.ContextEncoder",),
    "model": (
        f"{_PACKAGE}.ascmamba.ASCMamba",
        f"{_PACKAGE}.se_trans.SETrans",
        f"{_PACKAGE}.encoders.late_fusion.LateFusion",
    ),
    "audio_encoder": (
        f"{_PACKAGE}.encoders.baseline.SETransEncoder",
        f"{_PACKAGE}.encoders.resnet.ResNetEncoder",
        f"{_PACKAGE}.encoders.mobilenet.MobileNet",
        f"{_PACKAGE}.encoders.beats.BEATsEncoder",
    ),
    "label_encoder": ("speechbrain.dataio.encoder.CategoricalEncoder",),
    "compute_features": _FEATURES,
    "mean_var_norm": _NORMALIZE,
    "embedding_model": (
        f"{_PACKAGE}.model_folder.encoder_classifier.EmbeddingModel",
    ),
    "classifier": (f"{_PACKAGE}.model_folder.encoder_classifier.Classifier",),
    "pretrainer": (f"{_PACKAGE}.model_folder.parts.FolderPretrainer",),
}
# Lowest and highest value of a setting, and of those in its list; settings
# with a decimal point may be fractions and null.
BOUNDS = {
    "sample_rate": (1000, 192_000),
    "n_fft": (16, 16_384),
    "win_length": (1.0, 500.0),
    "hop_length": (1.0, 500.0),
    "n_mels": (1, 256),
    "f_min": (0.0, 96_000.0),
    "f_max": (0.0, 96_000.0),
    "top_db": (0.0, 200.0),
    "n_classes": (1, 1000),
    "n_coarse": (1, 1000),
    "channels": (1, 512),
    "n_blocks": (0, 16),
    "depth": (1, 6),
    "d_state": (1, 256),
    "d_conv": (1, 16),
    "expand": (1, 8),
    "context_size": (1, 1024),
    "embedding_size": (1.0, 4096.0),
    "vocab_size": (1, 65_536),
    "d_ffn": (1, 4096),
    "n_heads": (1, 64),
    "n_layers": (1, 16),
    "block_sizes": (1, 16),
    "strides": (1, 8),
    "scales": (1, 8),
    "width": (0.05, 10.0),
    "encoder_layers": (1, 12),
    "encoder_embed_dim": (1, 768),
    "encoder_ffn_embed_dim": (1, 3072),
    "dropout": (0.0, 1.0),
    "metadata_dropout": (0.0, 1.0),
    "metadata_swap": (0.0, 1.0),
}
# Those that may be lists, and how long.
_LISTS = dict.fromkeys(("channels", "block_sizes", "strides", "scales"), 16)
_OTHER_NUMBERS = (-1024.0, 1024.0)
_CHOICES = {"mix": ("avg-to-mono",)}
_MODULES = ("features", "normalize", "model")
# Plain mappings, and what must be in them.
_MAPPINGS = {"modules": _MODULES, "loadables": ()}
_NEEDED = (
    *("audio_normalizer", *_MODULES, "label_encoder"),
    *("modules", "pretrainer"),
)
_EQUAL = ("sample_rate", "n_mels")
_MAX_WEIGHTS = 200_000_000  # BEATs has 90 million
_MAX_SIZE = 20_000
_MAX_LISTS = 200
_MAX_VALUES = 10_000  # aliases followed
_MAX_TEXT = 200
_YAML = "tag:yaml.org,2002:"
_TUPLE = re.compile(r"\([\d., -]*\)")
_REFERENCE = re.compile(r"<\w+>")


def check_description(path):
    """Checks a ``hyperparams.yaml`` before anything is built from it.

    Arguments
    ---------
    path : str or Path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds anything but plain settings within bounds, references by
        name and classes that are known, each in its place; or if the model
        would have over 200 million weights.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text("model: !apply:os.system [ls]")
    >>> check_description(path)
    Traceback (most recent call last):
        ...
    ValueError: ... model is !apply:os.system, allowed is ...
    """
    try:
        text = read_text(path)
        if re.search("^%", text, re.MULTILINE):
            raise ValueError("directives (%) are not allowed")
        # The parser takes minutes for what is deeply nested.
        if (
            len(text) > _MAX_SIZE
            or len(re.findall(r"[\[{]", text)) > _MAX_LISTS
        ):
            raise ValueError(
                f"it is longer than {_MAX_SIZE} letters, or has more than "
                f"{_MAX_LISTS} brackets"
            )
        # Before references are resolved, which reads files and calls functions.
        _Check(has_references=True).check(YAML().compose(text))
        resolved = resolve_references(text).getvalue()
        # As the builder reads it.
        _Check(has_references=False).check(Loader(resolved).get_single_node())
        _check_size(resolved)
    except FileNotFoundError:
        raise
    except (ValueError, YAMLError, RecursionError) as error:
        raise ValueError(
            f"{path}: {error} (it is loaded without trust; if you trust its "
            "source, load it as trusted)"
        ) from None


def _check_size(resolved):
    """Raises a ValueError for a model of too many weights, which are counted
    without memory for them."""
    yaml, stream = YAML(), io.StringIO()
    parts = yaml.load(resolved)
    names = [name for name in ("context_encoder", "model") if name in parts]
    yaml.dump({name: parts[name] for name in names}, stream)
    try:
        with torch.device("meta"):
            built = load_hyperpyyaml(stream.getvalue())
    except Exception:
        # Settings that do not go together fail in the same way later; BEATs
        # cannot be built so, its bounds above are those of its weights.
        return
    weights = (p for part in built.values() for p in part.parameters())
    count = sum(weight.numel() for weight in weights)
    if count > _MAX_WEIGHTS:
        raise ValueError(
            f"the model has {count:,} weights, {_MAX_WEIGHTS:,} are allowed"
        )


class _Check:
    """Walks nodes of YAML, aliases followed; raises a ValueError."""

    def __init__(self, has_references):
        self.has_references = has_references
        self.count = 0
        self.found = {}

    def check(self, root):
        if not isinstance(root, MappingNode) or root.tag != f"{_YAML}map":
            raise ValueError("it describes no model")
        self._mapping(root, "", _NEEDED)
        for name in _EQUAL:
            if len(self.found.get(name, ())) > 1:
                raise ValueError(f"{name} must be the same everywhere")

    def _mapping(self, node, place, needed=()):
        for key, value in node.value:
            if key.tag != f"{_YAML}str":
                raise ValueError(f"{place}: its keys must be names")
            self._value(value, key.value, f"{place}.{key.value}".strip("."))
        names = {key.value for key, _ in node.value}
        for name in needed:
            if name not in names:
                raise ValueError(f"no {place} {name} is described")

    def _value(self, node, key, place):
        self.count += 1
        if self.count > _MAX_VALUES:
            raise ValueError(f"it has more than {_MAX_VALUES} values")
        kind, is_known = node.tag.removeprefix("!new:"), key in CLASSES
        if self.has_references and node.tag == "!ref":
            if not isinstance(node, ScalarNode) or not _REFERENCE.fullmatch(
                node.value
            ):
                raise ValueError(f"{place}: a reference must be a name")
        elif is_known and node.tag != kind and kind in CLASSES[key]:
            if isinstance(node, MappingNode):
                self._mapping(node, place)
            elif node.value:
                raise ValueError(f"{place}: its arguments must have names")
        elif key in _MAPPINGS and node.tag == f"{_YAML}map":
            self._mapping(node, place, _MAPPINGS[key])
        elif is_known or "." not in place:
            allowed = ", ".join(CLASSES.get(key, ())) or "no such part"
            raise ValueError(f"{place} is {node.tag}, allowed is {allowed}")
        elif isinstance(node, SequenceNode) and node.tag == f"{_YAML}seq":
            if key in BOUNDS and len(node.value) > _LISTS.get(key, 0):
                raise ValueError(f"{place}: a list is not allowed, or too long")
            for item in node.value:
                self._scalar(item, key, place)
        else:
            self._scalar(node, key, place)

    def _scalar(self, node, key, place):
        if not isinstance(node, ScalarNode):
            raise ValueError(f"{place} is {node.tag}, allowed is plain data")
        text, tag = node.value, node.tag.removeprefix(_YAML)
        if len(text) > _MAX_TEXT or "<" in text:
            raise ValueError(f"{place}: text is too long or has references")
        low, high = BOUNDS.get(key, _OTHER_NUMBERS)
        if tag == "!tuple" or text.startswith("("):
            if not _TUPLE.fullmatch(text):  # the builder would run its tags
                raise ValueError(f"{place}: a tuple must hold numbers")
            numbers = [x for x in text[1:-1].split(",") if x.strip()]
            if key in BOUNDS and len(numbers) > _LISTS.get(key, 0):
                raise ValueError(f"{place}: a tuple is not allowed")
        elif tag in ("int", "float"):
            numbers = [text]
        elif tag not in ("str", "bool", "null"):
            raise ValueError(f"{place} is {node.tag}, allowed is plain data")
        elif key in BOUNDS and not (tag == "null" and isinstance(low, float)):
            raise ValueError(f"{place} must be a number, got {text!r}")
        elif text not in _CHOICES.get(key, (text,)):
            raise ValueError(f"{place} must be {_CHOICES[key][0]}")
        else:
            return
        for number in map(float, numbers):
            whole = isinstance(low, float) or number.is_integer()
            if not low <= number <= high or not whole:
                raise ValueError(
                    f"{place} must be {low} to {high}, got {number:g}"
                )
            self.found.setdefault(key, set()).add(number)
