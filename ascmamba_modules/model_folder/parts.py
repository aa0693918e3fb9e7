"""The files of a model folder, one for each part; none of them is a pickle.

Weights and statistics are safetensors, classes are text, and the tokenizer
is SentencePiece's own file: reading them runs no code.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.parameter_transfer import Pretrainer

from ascmamba_modules.model_folder.config import read_text
from ascmamba_modules.utils.checkpoints import check_fit

# Beside them, where clips were held out; loaded when it is asked for.
RELIANCE = "reliance.safetensors"
# In the order in which they are loaded.
FILES = {
    "normalize": "normalize.safetensors",
    "tokenizer": "tokenizer.model",
    "context_encoder": "context_encoder.safetensors",
    "model": "model.safetensors",
    "label_encoder": "label_encoder.txt",
}
# Of SpeechBrain's parser of Python literals.
_LABEL_ERRORS = (
    *(KeyError, ValueError, TypeError, SyntaxError),
    *(RecursionError, MemoryError),
)
_STATISTICS = ("count", "glob_mean", "glob_std")


class FolderPretrainer(Pretrainer):
    """SpeechBrain's Pretrainer for the files of a model folder.

    SpeechBrain's own looks for ``.ckpt`` files, most of them pickles, and
    lets weights that do not fit pass with a warning.

    Arguments
    ---------
    loadables : dict
        The parts to load, by their names in :data:`FILES`.
    features : torch.nn.Module, optional
        The features that ``normalize`` normalizes; its attribute ``n_mels``,
        if it has one, is the number of statistics.

    Raises
    ------
    ValueError
        If a part is missing or unknown.
    """

    def __init__(self, loadables, features=None):
        optional = {"tokenizer", "context_encoder"}
        if set(loadables) not in (set(FILES), set(FILES) - optional):
            raise ValueError(
                f"loadables must be {', '.join(FILES)}, with or without "
                f"{' and '.join(sorted(optional))}, got {', '.join(loadables)}."
            )
        super().__init__(
            loadables=loadables,
            custom_hooks={name: _HANDLERS[name][1] for name in loadables},
        )
        self.n_mels = getattr(features, "n_mels", None)

    def collect_files(self, default_source=None, **fetch_options):
        """Finds the files, or fetches them; see ``Pretrainer``."""
        for name in self.loadables:
            self.paths[name] = _inside(default_source, FILES[name])
        return super().collect_files(default_source, **fetch_options)

    def load_collected(self):
        """Loads the files and checks that they fit each other."""
        super().load_collected()
        bands = getattr(self.loadables["normalize"], "glob_mean", [])
        if self.n_mels is not None and len(bands) != self.n_mels:
            raise ValueError(
                f"{self.paths['normalize']} holds statistics of {len(bands)} "
                f"bands, and the features have {self.n_mels}."
            )
        classifier = getattr(self.loadables["model"], "classifier", None)
        found = len(self.loadables["label_encoder"])
        wanted = getattr(classifier, "out_features", found)
        if found != wanted:
            raise ValueError(
                f"{self.paths['label_encoder']} names {found} classes, and the "
                f"model has {wanted}."
            )


def _inside(source, name):
    if isinstance(source, FetchSource):
        return FetchSource(source.FetchFrom, f"{source.path}/{name}")
    return f"{source}/{name}"


def save_part(name, part, folder):
    """Writes one part of a model.

    Arguments
    ---------
    name : str
        Name of the part in :data:`FILES`.
    part : object
        The part.
    folder : str or Path
        Where to write.
    """
    save, _ = _HANDLERS[name]
    save(part, str(Path(folder, FILES[name])))


def read_tensors(path):
    """Reads a safetensors file.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    dict
        Tensors by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no safetensors file, or not a whole one.
    """
    _check_exists(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}): copy or "
            "download it again."
        ) from None


def _load_weights(module, path):
    """Loads weights; every name, shape and type must fit."""
    given = read_tensors(path)
    check_fit(given, module.state_dict(), path)
    module.load_state_dict(given)


def _save_weights(module, path):
    state = {k: v.detach().contiguous() for k, v in module.state_dict().items()}
    Path(path).write_bytes(save(state))


def load_statistics(normalize, path):
    """Loads the statistics of a ``speechbrain`` ``InputNormalization``.

    Arguments
    ---------
    normalize : speechbrain.processing.features.InputNormalization
        Takes the statistics.
    path : str or Path
        Safetensors file.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`read_tensors`, or if the statistics are not as they should
        be.
    """
    given = read_tensors(path)
    fits = set(given) == set(_STATISTICS)
    if fits:
        count, mean, std = (given[name] for name in _STATISTICS)
        fits = (
            count.dim() == 0
            and count.dtype == torch.int64
            and mean.dim() == 1
            and mean.shape == std.shape
            and mean.dtype == std.dtype == torch.float32
            and bool(torch.isfinite(torch.cat([mean, std])).all())
            and bool((std > 0).all())
        )
    if not fits:
        raise ValueError(
            f"{path} must hold count, glob_mean and glob_std of the features' "
            "bands: it is damaged or of another kind."
        )
    normalize.count = count
    normalize.glob_mean, normalize.glob_std = mean, std


def _save_statistics(normalize, path):
    # They are attributes, not buffers, so that state_dict() lacks them.
    statistics = {
        "count": torch.as_tensor(normalize.count, dtype=torch.int64),
        "glob_mean": normalize.glob_mean.float().contiguous(),
        "glob_std": normalize.glob_std.float().contiguous(),
    }
    Path(path).write_bytes(save(statistics))


def load_labels(label_encoder, path):
    """Loads the classes of a ``speechbrain`` ``CategoricalEncoder``.

    Arguments
    ---------
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        Takes the classes.
    path : str or Path
        Text file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not number classes.
    """
    _check_exists(path)
    try:
        read_text(path)
        label_encoder.load(path)
    except _LABEL_ERRORS as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None
    names, indices = label_encoder.lab2ind, sorted(label_encoder.ind2lab)
    are_texts = all(isinstance(name, str) for name in names)
    if not names or not are_texts or indices != list(range(len(names))):
        raise ValueError(
            f"{path} is damaged: it must number different names 0, 1, 2 ..."
        )


def _load_tokenizer(tokenizer, path):
    _check_exists(path)
    try:
        tokenizer.load(path)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _save(part, path):
    part.save(path)


def _check_exists(path):
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is missing from the model folder: copy or download it "
            "again."
        )


_HANDLERS = {
    "normalize": (_save_statistics, load_statistics),
    "tokenizer": (_save, _load_tokenizer),
    "context_encoder": (_save_weights, _load_weights),
    "model": (_save_weights, _load_weights),
    "label_encoder": (_save, load_labels),
}
