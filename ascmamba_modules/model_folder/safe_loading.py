"""Loading a model of unknown origin: known classes and weights, nothing else.

What SpeechBrain loads, ``hyperparams.yaml``, can name any class and call any
function.  Here the model is built from ``settings.json``, plain data that may
name the classes below alone.
"""

from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.context import ContextEncoder, ContextTokenizer
from ascmamba_modules.encoders.baseline import SETransEncoder
from ascmamba_modules.encoders.late_fusion import LateFusion
from ascmamba_modules.encoders.resnet import ResNetEncoder
from ascmamba_modules.features import LogMel
from ascmamba_modules.model_folder.parts import FILES, FolderPretrainer
from ascmamba_modules.model_folder.settings import SETTINGS, read_settings
from ascmamba_modules.se_trans import SETrans

# The classes that each part may be of; their constructors take plain data and
# touch neither files nor other code.
_ALLOWED = {
    "audio_normalizer": (AudioNormalizer,),
    "features": (LogMel,),
    "normalize": (InputNormalization,),
    "tokenizer": (ContextTokenizer,),
    "context_encoder": (ContextEncoder,),
    "model": (ASCMamba, SETrans, LateFusion),
    "label_encoder": (CategoricalEncoder,),
    # Arguments of a part that are parts themselves.
    "audio_encoder": (SETransEncoder, ResNetEncoder),
}
_NEEDED = (
    "audio_normalizer",
    "features",
    "normalize",
    "model",
    "label_encoder",
)
_MODULES = ("features", "normalize", "context_encoder", "model")


def load_plain(
    source,
    savedir=None,
    local_strategy=LocalStrategy.SYMLINK,
    fetch_config=FetchConfig(),
):
    """Loads the parts of a model without running anything of its folder.

    Arguments
    ---------
    source : str or speechbrain.utils.fetching.FetchSource
        Where the model folder is, as for ``speechbrain``'s ``fetch``.
    savedir, local_strategy, fetch_config
        As for ``speechbrain``'s ``fetch``.

    Returns
    -------
    dict
        The parts by name, and "modules", those of them that compute.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, does not fit, or names a class that is not
        known here.
    """
    options = {"local_strategy": local_strategy, "fetch_config": fetch_config}
    path = fetch(SETTINGS, source, savedir, **options)
    settings = read_settings(path.parent)
    parts = build_parts(settings["parts"], path)
    pretrainer = FolderPretrainer({k: parts[k] for k in FILES if k in parts})
    pretrainer.set_collect_in(savedir)
    pretrainer.collect_files(source, **options)
    pretrainer.load_collected()
    encoder = parts["label_encoder"]
    labels = [encoder.ind2lab[i] for i in range(len(encoder))]
    if labels != settings["classes"]:
        raise ValueError(
            f"{path} names other classes ({', '.join(settings['classes'])}) "
            f"than {FILES['label_encoder']} beside it."
        )
    parts["modules"] = {k: parts[k] for k in _MODULES if k in parts}
    return parts


def build_parts(descriptions, path=SETTINGS):
    """Builds parts from plain descriptions.

    Arguments
    ---------
    descriptions : dict
        For each part a dict with "class", the full name of a class, and
        "arguments", those of its constructor by name.
    path : str or Path
        Where the descriptions are from, for messages.

    Returns
    -------
    dict
        The parts by name.

    Raises
    ------
    ValueError
        If a part is missing, unknown, of a class that is not allowed, or
        cannot be built.

    Example
    -------
    >>> build_parts({"model": {"class": "os.system", "arguments": {}}})
    Traceback (most recent call last):
        ...
    ValueError: settings.json: no audio_normalizer is described.
    """
    for name in _NEEDED:
        if name not in descriptions:
            raise ValueError(f"{path}: no {name} is described.")
    if ("tokenizer" in descriptions) != ("context_encoder" in descriptions):
        raise ValueError(
            f"{path}: tokenizer and context_encoder go together, and one is "
            "missing."
        )
    return {
        name: _build(name, descriptions[name], path) for name in descriptions
    }


def _build(name, description, path):
    allowed = {_full_name(kind): kind for kind in _ALLOWED.get(name, ())}
    is_part = isinstance(description, dict) and set(description) == {
        "class",
        "arguments",
    }
    if not is_part or description["class"] not in allowed:
        found = description["class"] if is_part else description
        raise ValueError(
            f"{path}: {name} is {found!r}, and without trust only "
            f"{', '.join(allowed) or 'no such part'} may be built. If you "
            "trust the model's source, load it as trusted."
        )
    kind, arguments = allowed[description["class"]], description["arguments"]
    try:
        arguments = {
            key: _build(key, value, path)
            if isinstance(value, dict)
            else _plain(key, value)
            for key, value in arguments.items()
        }
        return kind(**arguments)
    except (TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path}: {name} cannot be built: {error}") from None


def _plain(key, value):
    if isinstance(value, list):
        return [_plain(key, item) for item in value]
    if isinstance(value, dict):
        raise TypeError(f"{key} must hold numbers and text alone")
    return value


def _full_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"
